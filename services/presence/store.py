"""Sessions on disk, and their feed: one transaction for all that a login, a logout or a batch of heartbeats changes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session as Transaction

from services.common.codec import to_builtins
from services.common.database import Database, insert_all
from services.common.feed.wire import Item, Kind, Record
from services.presence.models import SessionRow, outbox
from services.presence.rules import Change, Row
from services.presence.schema import TOPIC

MIGRATIONS = Path(__file__).parent / "migrations"
TOPICS = frozenset({TOPIC})


class Store:
    """Presence's database."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.new = False
        """Whether the database was made by this process: it does not know who is where."""

    def prepare(self) -> list[Row]:
        """Make or move on the schema, and read who was admitted."""
        self.database.migrate(MIGRATIONS)
        with self.database.write() as session:
            self.new = session.scalar(select(func.count()).select_from(outbox.counter)) == 0
            outbox.begin(session)
        return self.load()

    def load(self) -> list[Row]:
        """Who was admitted, as the disk has it."""
        table = SessionRow.__table__
        with self.database.read() as session:
            rows = session.execute(select(table)).mappings().all()
        return [
            Row(
                row["login"],
                row["machine"],
                row["hostname"],
                row["boot"],
                row["since"],
                seen=bool(row["seen"]),
                live=bool(row["live"]),
            )
            for row in rows
        ]

    def save(self, changes: Sequence[Change]) -> None:
        """Keep changes, in their order, and tell them."""
        first: dict[str, Row | None] = {}
        last: dict[str, Row | None] = {}
        for change in changes:
            first.setdefault(change.login, change.before)
            last.pop(change.login, None)  # those that ended come first: a machine may have passed to another user
            last[change.login] = change.after
        table = SessionRow.__table__
        with self.database.write() as session:
            for login in last:
                session.execute(delete(table).where(table.c.login == login))  # type: ignore[arg-type]
            insert_all(session, table, [_columns(row) for row in last.values() if row is not None])
            outbox.append(session, list(_told(first, last)))

    def source(self, session: Transaction, topics: frozenset[str]) -> Iterable[Item]:
        """Every session, for a subscriber that begins anew."""
        if TOPIC not in topics:
            return
        table = SessionRow.__table__
        for row in session.execute(select(table).where(table.c.live).order_by(table.c.login)).mappings():
            record = {name: row[name] for name in ("login", "machine", "hostname", "since")}
            yield Item(TOPIC, row["login"], record)


def _columns(row: Row) -> dict[str, object]:
    names = ("login", "machine", "hostname", "boot", "since", "seen", "live")
    return {name: getattr(row, name) for name in names}


def _record(row: Row | None) -> Record | None:
    if row is None or not row.live:
        return None
    record = to_builtins(row.session())
    assert isinstance(record, dict)
    return record


def _told(first: dict[str, Row | None], last: dict[str, Row | None]) -> Iterator[tuple[str, str, Kind, Record | None]]:
    """What others see of it; who left a machine is told before who came."""
    pairs = [(login, _record(first[login]), _record(row)) for login, row in last.items()]
    for login, before, after in sorted(pairs, key=lambda pair: pair[2] is not None):
        if before == after:
            continue
        kind = Kind.DELETED if after is None else Kind.CREATED if before is None else Kind.UPDATED
        yield TOPIC, login, kind, after
