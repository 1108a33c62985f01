"""The owner's side of a feed: changes become rows of a log in the transaction that makes them.

Revisions come from one counter row that the writer holds locked until it commits, so they are handed out in the order
of the commits and without gaps; a sequence would hand them out in the order of the asking, and a reader would skip what
commits late. Call `append` last in a transaction: from there to its end no other writer of this service gets further.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
from sqlalchemy import BigInteger, Column, Float, MetaData, String, Table, Text, delete, func, insert, select, update
from sqlalchemy.orm import Session

from services.common.database import insert_all
from services.common.feed.wire import Change, Kind, Position, Record

KEPT = 20_000
"""Changes that a log keeps at least; who missed more gets a snapshot."""

CHANNEL = "backline_feed"
"""The channel of PostgreSQL's LISTEN on which other servers of the same database hear of a commit."""

_PRUNED_EVERY = 1_000
_ROW = "feed"


@dataclass(frozen=True)
class Outbox:
    """The tables of a service's feed, and what is written to them."""

    counter: Table
    changes: Table
    kept: int = KEPT

    @classmethod
    def of(cls, metadata: MetaData, *, kept: int = KEPT) -> Outbox:
        """Add the tables to a service's own."""
        counter = Table(
            "feed_counter",
            metadata,
            Column("name", String(16), primary_key=True),
            Column("log", String(16), nullable=False),
            Column("revision", BigInteger, nullable=False),
        )
        changes = Table(
            "feed_changes",
            metadata,
            Column("revision", BigInteger, primary_key=True, autoincrement=False),
            Column("topic", String(32), nullable=False),
            Column("key", String(128), nullable=False),
            Column("kind", String(8), nullable=False),
            Column("at", Float(53), nullable=False),
            Column("record", Text, nullable=True),
        )
        return cls(counter, changes, kept)

    def begin(self, session: Session) -> None:
        """Make the counter of a new database; a no-op for one that has it."""
        if session.scalar(select(func.count()).select_from(self.counter)) == 0:
            session.execute(insert(self.counter).values(name=_ROW, log=secrets.token_hex(8), revision=0))

    def lock(self, session: Session) -> int:
        """Wait for other writers, and keep them out until this transaction ends. Returns the revision before it.

        A writer that does this first reads what stays true until it commits.
        """
        return int(session.execute(select(self.counter.c.revision).with_for_update()).scalar_one())

    def begin_anew(self, session: Session) -> None:
        """Start another history, after a restore: every subscriber takes a snapshot."""
        session.execute(delete(self.changes))
        session.execute(update(self.counter).values(log=secrets.token_hex(8)))

    def append(self, session: Session, changes: Sequence[tuple[str, str, Kind, Record | None]]) -> int:
        """Log changes (topic, key, kind, record afterwards), in order. Returns the revision of the last one."""
        if not changes:
            return self.position(session).revision
        session.flush()
        taken = update(self.counter).values(revision=self.counter.c.revision + len(changes))
        last = int(session.execute(taken.returning(self.counter.c.revision)).scalar_one())
        first, now = last - len(changes) + 1, time.time()
        rows = [
            {
                "revision": first + index,
                "topic": topic,
                "key": key,
                "kind": kind.value,
                "at": now,
                "record": None if record is None else json.dumps(record, separators=(",", ":"), sort_keys=True),
            }
            for index, (topic, key, kind, record) in enumerate(changes)
        ]
        insert_all(session, self.changes, rows)
        if first // _PRUNED_EVERY != (last + 1) // _PRUNED_EVERY:
            session.execute(delete(self.changes).where(self.changes.c.revision <= last - self.kept))
        if session.get_bind().dialect.name == "postgresql":
            session.execute(select(func.pg_notify(CHANNEL, str(last))))  # delivered when this commits
        return last

    def position(self, session: Session) -> Position:
        """Where the history is now."""
        row = session.execute(select(self.counter.c.log, self.counter.c.revision)).one()
        return Position(row.log, row.revision)

    def after(self, session: Session, revision: int, *, limit: int) -> list[Change] | None:
        """The next changes after `revision`, at most `limit`; None when the log no longer reaches back to there."""
        table = self.changes
        rows = session.execute(
            select(table).where(table.c.revision > revision).order_by(table.c.revision).limit(limit)
        ).all()
        now = self.position(session).revision
        if revision > now or (rows and rows[0].revision != revision + 1) or (not rows and revision != now):
            return None
        return [
            Change(
                row.revision,
                row.topic,
                row.key,
                Kind(row.kind),
                row.at,
                None if row.record is None else msgspec.json.decode(row.record),
            )
            for row in rows
        ]
