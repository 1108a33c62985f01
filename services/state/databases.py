"""Databases through their backup interfaces: one consistent snapshot while their services write.

SQLite: the online backup interface (https://www.sqlite.org/backup.html), all pages in one step, so one read transaction
of a WAL database, which no writer waits for. PostgreSQL: pg_dump(1) in its custom form, in the same snapshot in which
the schema's revision was read; pg_restore(1) in a single transaction. A password never is on a command line.
"""

from __future__ import annotations

import ast
import contextlib
import os
import secrets
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from services.common.database import parse_url
from services.common.errors import BacklineError, BusyError, HostError, InputError, IntegrityError, MissingError
from services.common.process import run

SERVICES = {"mdb": "services/mdb", "netboot": "netboot", "depot": "services/depot", "udb": "services/udb"}
"""Where the migrations of each database's service are, below the folder that holds our packages."""
CODE = Path(__file__).parents[2]
BUSY_SECONDS = 20.0
SQLITE, POSTGRESQL = "sqlite", "postgresql"
_SKIPPED_IDS = 1000


def dialect(url: str) -> str:
    """sqlite or postgresql. Raises InputError("database.url")."""
    return parse_url(url).get_backend_name()


def sqlite_path(url: str) -> Path:
    """The file of an SQLite database. Raises InputError("database.url") for one in memory."""
    database = parse_url(url).database
    if not database or database == ":memory:":
        raise InputError("database.url", "a database in memory has no state to save")
    return Path(database)


def revisions(service: str, *, code: Path = CODE) -> list[str]:
    """Every revision of a database's schema that the programs of this image know, oldest first. Nothing is executed."""
    found: dict[str | None, str] = {}
    for path in sorted((code / SERVICES[service] / "migrations" / "versions").glob("*.py")):
        values: dict[str, str | None] = {}
        for node in ast.parse(path.read_bytes()).body:
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant):
                value = node.value.value if isinstance(node.value.value, str) else None
                values |= {target.id: value for target in node.targets if isinstance(target, ast.Name)}
        if (revision := values.get("revision")) is not None:
            found[values.get("down_revision")] = revision
    order: list[str] = []
    following = found.get(None)
    while following is not None:
        order.append(following)
        following = found.get(following)
    return order


# SQLite


def copy_sqlite(source: Path, target: Path) -> str:
    """Copy a database into `target`, one file that needs no other. Returns its schema's revision.

    Raises MissingError("state.database"), BusyError("state.busy"), HostError("state.database").
    """
    if not source.is_file():
        raise MissingError("state.database", "there is no such database", where=str(source))
    with _sqlite_errors(source):
        with contextlib.closing(sqlite3.connect(source, timeout=BUSY_SECONDS)) as reading:
            with contextlib.closing(sqlite3.connect(target)) as writing:
                reading.backup(writing)
                writing.execute("PRAGMA journal_mode=DELETE")
                revision = _sqlite_revision(writing)
    with target.open("rb+") as file:
        os.fsync(file.fileno())
    return revision


def check_sqlite(path: Path, *, revision: str) -> None:
    """Whether a copy is whole and of that revision. Raises IntegrityError("state.damaged")."""
    try:
        with contextlib.closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as reading:
            (verdict,) = reading.execute("PRAGMA quick_check(1)").fetchone()
            found = _sqlite_revision(reading)
    except sqlite3.Error as error:
        raise IntegrityError("state.damaged", f"is no database: {error}", where=str(path)) from error
    if verdict != "ok" or found != revision:
        what = verdict if verdict != "ok" else f"its schema is {found or 'empty'}, not {revision or 'empty'}"
        raise IntegrityError("state.damaged", f"the database is damaged: {what}", where=str(path))


def adjust_sqlite(path: Path) -> None:
    """What a database needs to know of having been restored.

    A feed begins another history (`services.common.feed.outbox`): revisions that were told after the archive was saved
    will be told again, for other changes, so every subscriber takes a snapshot. Numbers of publications go on after a
    gap: those that were given out after the archive are not given out again, as root file servers remember them.
    """
    with _sqlite_errors(path), contextlib.closing(sqlite3.connect(path, isolation_level=None)) as writing:
        tables = {name for (name,) in writing.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        writing.execute("BEGIN IMMEDIATE")
        if "feed_counter" in tables:
            writing.execute("DELETE FROM feed_changes")
            writing.execute("UPDATE feed_counter SET log = ?", [secrets.token_hex(8)])
        if "publications" in tables:
            writing.execute("UPDATE sqlite_sequence SET seq = seq + ? WHERE name = 'publications'", [_SKIPPED_IDS])
        writing.execute("COMMIT")
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _sqlite_revision(connection: sqlite3.Connection) -> str:
    found = connection.execute("SELECT name FROM sqlite_master WHERE name = 'alembic_version'").fetchone()
    row = connection.execute("SELECT version_num FROM alembic_version").fetchone() if found else None
    return str(row[0]) if row else ""


@contextlib.contextmanager
def _sqlite_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.OperationalError as error:
        if "locked" in str(error):
            message = f"somebody else has been writing for {BUSY_SECONDS:.0f} s"
            raise BusyError("state.busy", message, where=str(path)) from error
        if "full" in str(error):
            raise HostError("state.full", "no space is left on the disk", where=str(path)) from error
        raise HostError("state.database", f"the database cannot be used: {error}", where=str(path)) from error
    except sqlite3.DatabaseError as error:
        raise HostError("state.database", f"the database is damaged: {error}", where=str(path)) from error


# PostgreSQL


def dump_postgresql(url: str, target: Path) -> str:
    """Dump a database into `target`. Returns its schema's revision. Raises HostError("state.database")."""
    import psycopg

    with _postgresql_errors(url):
        with psycopg.connect(_conninfo(url), autocommit=True) as connection:
            connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            row = connection.execute("SELECT pg_export_snapshot()").fetchone()
            assert row is not None
            exists = connection.execute("SELECT to_regclass('alembic_version') IS NOT NULL").fetchone()
            found = (
                connection.execute("SELECT version_num FROM alembic_version").fetchone() if exists == (True,) else None
            )
            argv = ["pg_dump", "--format=custom", "--no-owner", "--no-privileges", f"--snapshot={row[0]}"]
            run([*argv, f"--file={target}"], env=_environment(url))
            connection.execute("COMMIT")
    return str(found[0]) if found else ""


def check_postgresql(path: Path) -> None:
    """Whether a dump can be read. Raises IntegrityError("state.damaged")."""
    try:
        run(["pg_restore", "--list", path])
    except BacklineError as error:
        raise IntegrityError("state.damaged", "is no dump of PostgreSQL's", where=str(path)) from error


def restore_postgresql(url: str, source: Path) -> None:
    """Make a database what a dump says: what it has goes, and the dump comes in one transaction; then as above.

    Again does no harm. Raises ProcessFailed, HostError("state.database").
    """
    import psycopg
    from psycopg import sql

    with _postgresql_errors(url):
        with psycopg.connect(_conninfo(url)) as connection:
            # All, not only what the dump has: a newer schema may have had more.
            tables = connection.execute(
                "SELECT tablename FROM pg_tables WHERE schemaname = current_schema()"
            ).fetchall()
            for (table,) in tables:
                connection.execute(sql.SQL("DROP TABLE {} CASCADE").format(sql.Identifier(table)))
        name = parse_url(url).database or ""
        argv = ["pg_restore", "--no-owner", "--no-privileges", "--single-transaction", "--exit-on-error"]
        run([*argv, f"--dbname={name}", str(source)], env=_environment(url))
        with psycopg.connect(_conninfo(url)) as connection:  # one transaction
            have = connection.execute("SELECT to_regclass('feed_counter') IS NOT NULL").fetchone()
            if have == (True,):
                connection.execute("DELETE FROM feed_changes")
                connection.execute("UPDATE feed_counter SET log = %s", (secrets.token_hex(8),))
            have = connection.execute("SELECT to_regclass('publications') IS NOT NULL").fetchone()
            if have == (True,):
                connection.execute(
                    "SELECT setval(pg_get_serial_sequence('publications', 'id'), coalesce(max(id), 0) + %s)"
                    " FROM publications",
                    (_SKIPPED_IDS,),
                )


def _conninfo(url: str) -> str:
    return parse_url(url).set(drivername="postgresql").render_as_string(hide_password=False)


def _environment(url: str) -> dict[str, str]:
    """libpq's variables (PostgreSQL's manual, "Environment Variables"): nobody else can read them."""
    parsed = parse_url(url)
    query = {key: str(value) for key, value in parsed.query.items()}
    found = {
        "PGHOST": parsed.host or query.get("host", ""),
        "PGPORT": str(parsed.port or query.get("port", "")),
        "PGUSER": parsed.username or query.get("user", ""),
        "PGPASSWORD": str(parsed.password or ""),
        "PGDATABASE": parsed.database or "",
        "PGSSLMODE": query.get("sslmode", ""),
    }
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "PGPASSFILE") if name in os.environ}
    return kept | {key: value for key, value in found.items() if value}


@contextlib.contextmanager
def _postgresql_errors(url: str) -> Iterator[None]:
    import psycopg

    try:
        yield
    except psycopg.Error as error:
        shown = parse_url(url).render_as_string(hide_password=True)
        words = str(error).strip().partition("\n")[0]
        raise HostError("state.database", f"the database cannot be used: {words}", where=shown) from error
