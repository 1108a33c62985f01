"""One database of a service: SQLite by default, PostgreSQL by one URL, and the same code on both.

`Database.read()` and `Database.write()` are the only ways in, each one transaction of one thread. A write on SQLite
takes the write lock at its start (BEGIN IMMEDIATE), so it never fails halfway for a lock it could not get; SQLite is in
WAL mode with full syncs, so what was answered survives a power cut (https://www.sqlite.org/pragma.html, synchronous).
On PostgreSQL writes are READ COMMITTED; rules that need more take a row lock, as the feed's counter does.

A schema is made and moved on by Alembic, from the `migrations` package of the service, one process at a time.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy
from sqlalchemy import Connection, Engine, FromClause, MetaData, Table, event, func, insert, select
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError, OperationalError
from sqlalchemy.orm import Session

from services.common.errors import BusyError, HostError, InputError

BUSY_SECONDS = 20.0
POOL = 8
_WRITES = "backline_writes"
_MIGRATION_LOCK = 0x6261636B  # "back": pg_advisory_xact_lock(bigint) of one schema change at a time

NAMING = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s",
    "pk": "pk_%(table_name)s",
}
"""Names of constraints and indexes, the same on both databases, so that migrations and errors can name them."""


def metadata() -> MetaData:
    """A new collection of tables under the house's names for constraints."""
    return MetaData(naming_convention=NAMING)


def parse_url(text: str) -> URL:
    """`sqlite:///path` or `postgresql://...`, with the driver that we use. Raises InputError("database.url")."""
    try:
        url = make_url(text)
    except ArgumentError as error:
        raise InputError(
            "database.url", "this is no URL of a database", hint="sqlite:////var/lib/x/x.db or postgresql://host/name"
        ) from error
    if url.drivername == "sqlite":
        return url
    if url.drivername in ("postgresql", "postgres", "postgresql+psycopg"):
        return url.set(drivername="postgresql+psycopg")
    raise InputError("database.url", f"{url.drivername} is no database that we know", hint="sqlite or postgresql")


class Database:
    """An engine with the house's ways in. A context manager; safe to use from several threads."""

    def __init__(self, url: str) -> None:
        self.url = parse_url(url)
        self.is_sqlite = self.url.get_backend_name() == "sqlite"
        self._after_commit: list[Callable[[], None]] = []
        if self.is_sqlite:
            self.engine = _sqlite(self.url)
        else:
            self.engine = sqlalchemy.create_engine(
                self.url, pool_size=POOL, max_overflow=0, pool_timeout=BUSY_SECONDS, pool_pre_ping=True
            )

    def __enter__(self) -> Database:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Idempotent."""
        self.engine.dispose()

    def after_commit(self, call: Callable[[], None]) -> None:
        """Have `call` called, in the writing thread, after each write that this process commits."""
        self._after_commit.append(call)

    @contextmanager
    def read(self) -> Iterator[Session]:
        """A transaction that only reads; one snapshot on SQLite, REPEATABLE READ on PostgreSQL. Raises as `write`."""
        options = {} if self.is_sqlite else {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
        with _named(self.url), self.engine.connect().execution_options(**options) as connection:
            with Session(connection, autoflush=False, expire_on_commit=False) as session:
                yield session

    @contextmanager
    def write(self) -> Iterator[Session]:
        """A transaction that is committed at the end of the block, and rolled back when it raises.

        Raises BusyError("database.locked"), HostError("database.unavailable"); a rule of the schema that is broken is
        SQLAlchemy's IntegrityError, for the store to name.
        """
        with _named(self.url), self.engine.connect().execution_options(**{_WRITES: True}) as connection:
            with Session(connection, expire_on_commit=False) as session, session.begin():
                yield session
        for call in self._after_commit:
            call()

    def migrate(self, scripts: Path, *, revision: str = "head") -> None:
        """Bring the schema to `revision` with the Alembic scripts in `scripts`. Raises HostError("database.newer")."""
        logging.getLogger("alembic").setLevel(logging.WARNING)  # it tells of each of its plugins
        from alembic import command
        from alembic.config import Config
        from alembic.util import CommandError

        configuration = Config()
        configuration.set_main_option("script_location", str(scripts).replace("%", "%%"))
        with _named(self.url), self.engine.connect().execution_options(**{_WRITES: True}) as connection:
            with connection.begin():
                if not self.is_sqlite:
                    connection.execute(sqlalchemy.text("SELECT pg_advisory_xact_lock(:key)"), {"key": _MIGRATION_LOCK})
                configuration.attributes["connection"] = connection
                try:
                    command.upgrade(configuration, revision)
                except CommandError as error:
                    raise HostError(
                        "database.newer",
                        f"the database is of a version that this program does not know: {error}",
                        hint="run the newer image, or restore the backup that was made before it",
                    ) from error


def insert_all(session: Session, table: FromClause, rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert rows that have the same keys, quickly however many: on PostgreSQL by COPY, which fills in no default of
    SQLAlchemy's. Raises SQLAlchemy's IntegrityError.
    """
    if not rows:
        return
    assert isinstance(table, Table)
    if session.get_bind().dialect.name != "postgresql":
        session.execute(insert(table), rows)
        return
    import psycopg
    from psycopg import sql

    session.flush()
    connection = session.connection().connection.driver_connection
    assert isinstance(connection, psycopg.Connection)
    names = list(rows[0])
    copying = sql.SQL("COPY {} ({}) FROM STDIN").format(
        sql.Identifier(table.name), sql.SQL(", ").join(map(sql.Identifier, names))
    )
    try:
        with connection.cursor() as cursor, cursor.copy(copying) as copy:
            for row in rows:
                copy.write_row([row[name] for name in names])
    except psycopg.IntegrityError as error:
        raise IntegrityError("COPY", None, error) from error


def new_ids(session: Session, table: FromClause, count: int) -> list[int]:
    """Ids for rows to come, on PostgreSQL: from the sequence of column `id`, so that nobody else gets them."""
    assert isinstance(table, Table)
    sequence = func.pg_get_serial_sequence(table.name, "id")
    return list(session.scalars(select(func.nextval(sequence)).select_from(func.generate_series(1, count))))


def violated(error: IntegrityError) -> str:
    """What a broken rule is called: the constraint's name on PostgreSQL, SQLite's own words (`table.column`) else."""
    diagnosis = getattr(error.orig, "diag", None)
    name = getattr(diagnosis, "constraint_name", None)
    return str(name) if name else str(error.orig).rpartition(": ")[2]


def _sqlite(url: URL) -> Engine:
    if url.database not in (None, "", ":memory:"):
        folder = Path(str(url.database)).parent
        if not folder.is_dir():
            raise HostError("database.folder", f"there is no folder {folder} for the database")
    engine = (
        sqlalchemy.create_engine(
            url, connect_args={"timeout": BUSY_SECONDS}, pool_size=POOL, max_overflow=0, pool_timeout=BUSY_SECONDS
        )
        if url.database not in (None, "", ":memory:")
        else sqlalchemy.create_engine(url, poolclass=sqlalchemy.StaticPool, connect_args={"check_same_thread": False})
    )

    @event.listens_for(engine, "connect")
    def connected(connection: sqlite3.Connection, _: object) -> None:
        connection.isolation_level = None  # no transaction that Python begins by itself
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "trusted_schema=OFF"):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        writes = connection.get_execution_options().get(_WRITES, False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


@contextmanager
def _named(url: URL) -> Iterator[None]:
    """Turn what a database says when it cannot be used into the house's errors."""
    try:
        yield
    except IntegrityError:
        raise
    except sqlalchemy.exc.TimeoutError as error:
        raise BusyError("database.busy", f"all {POOL} connections were in use for {BUSY_SECONDS:.0f} s") from error
    except (OperationalError, DBAPIError) as error:
        words = str(error.orig).strip().partition("\n")[0]
        if "locked" in words:
            raise BusyError("database.locked", f"someone else has been writing for {BUSY_SECONDS:.0f} s") from error
        if isinstance(error, OperationalError) or error.connection_invalidated:
            shown = url.render_as_string(hide_password=True)
            raise HostError("database.unavailable", f"the database cannot be used: {words}", where=shown) from error
        raise
