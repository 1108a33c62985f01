"""What changed: a row of audit for those who ask later, a change of the feed for those who follow.

A service's store calls `log` last in a transaction, as `services.common.feed.outbox` wants it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import BigInteger, Float, Integer, Select, String, Text
from sqlalchemy.orm import Mapped, Session, mapped_column

from services.common.changes import Action, Actor, AuditEntry
from services.common.database import insert_all
from services.common.feed.outbox import Outbox
from services.common.feed.wire import Kind, Record

BIG_ID = BigInteger().with_variant(Integer(), "sqlite")
"""The type of an id: SQLite numbers rows by INTEGER alone."""
_UNTOLD = frozenset({"revision", "updated"})  # they differ in every change


class AuditColumns:
    """One change: who, when, from where, before and after (JSON of the fields that differ).

    A service's table has these columns."""

    id: Mapped[int] = mapped_column(BIG_ID, primary_key=True)
    at: Mapped[float] = mapped_column(Float(53), index=True)
    actor: Mapped[str] = mapped_column(String(128))
    origin: Mapped[str] = mapped_column(String(128))
    action: Mapped[str] = mapped_column(String(8))
    topic: Mapped[str] = mapped_column(String(32))
    key: Mapped[str] = mapped_column(String(128), index=True)
    name: Mapped[str] = mapped_column(String(128))
    before: Mapped[str | None] = mapped_column(Text)
    after: Mapped[str | None] = mapped_column(Text)


@dataclass(frozen=True)
class Changed:
    """A record before and after: None when it did not exist, or does not any more. `name` is what people call it.

    `told` is the record as the feed carries it, where that is another one than the history's.
    """

    topic: str
    key: str
    name: str
    before: Record | None
    after: Record | None
    told: Record | None = None

    @property
    def kind(self) -> Kind:
        """What happened to it."""
        if self.before is None:
            return Kind.CREATED
        return Kind.DELETED if self.after is None else Kind.UPDATED

    def differences(self) -> tuple[Record | None, Record | None]:
        """Before and after, for an update without what stayed."""
        before, after = self.before, self.after
        if before is None or after is None:
            return before, after
        names = sorted(name for name in after if after[name] != before[name] and name not in _UNTOLD)
        return {name: before[name] for name in names}, {name: after[name] for name in names}

    def row(self, actor: Actor, now: float) -> dict[str, Any]:
        """The columns of its row of audit, without the id."""
        before, after = (None if each is None else json.dumps(each, sort_keys=True) for each in self.differences())
        return {
            "at": now,
            "actor": actor.name,
            "origin": actor.origin,
            "action": self.kind.value,
            "topic": self.topic,
            "key": self.key,
            "name": self.name,
            "before": before,
            "after": after,
        }


def log(
    session: Session,
    table: Any,
    outbox: Outbox,
    topics: frozenset[str],
    changes: Sequence[Changed],
    rows: Sequence[dict[str, Any]],
) -> None:
    """Write down `rows` of audit in `table`, and tell the feed of those of `changes` that it has as `topics`."""
    insert_all(session, table, rows)
    told = [change for change in changes if change.topic in topics]
    outbox.append(
        session,
        [(each.topic, each.key, each.kind, each.told if each.told is not None else each.after) for each in told],
    )


def entries(session: Session, query: Select[Any]) -> Iterator[AuditEntry]:
    """The rows of audit that `query` selects."""
    for row in session.scalars(query):
        yield AuditEntry(
            id=row.id,
            at=row.at,
            actor=row.actor,
            origin=row.origin,
            action=Action(row.action),
            topic=row.topic,
            key=row.key,
            name=row.name,
            before=None if row.before is None else json.loads(row.before),
            after=None if row.after is None else json.loads(row.after),
        )
