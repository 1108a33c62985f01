"""What changed: a row of audit for those who ask later, a change of the feed for those who follow. Part of `store`.

Call `log` last in a transaction, as `services.common.feed.outbox` wants it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from services.common.database import insert_all
from services.common.feed.wire import Kind, Record
from services.mdb.models import AuditRow, outbox
from services.mdb.schema import Action, Actor, AuditEntry

MACHINES = "machines"
SWITCHES = "switches"
SETTINGS = "settings"
TOPICS = frozenset({MACHINES, SWITCHES, SETTINGS})
CODES = "codes"
"""One-time codes: in the history under the id of their machine, and in no feed."""

_UNTOLD = frozenset({"revision", "updated"})  # they differ in every change


@dataclass(frozen=True)
class Changed:
    """A record before and after: None when it did not exist, or does not any more. `name` is what people call it."""

    topic: str
    key: str
    name: str
    before: Record | None
    after: Record | None

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


def log(session: Session, actor: Actor, changes: Sequence[Changed], now: float) -> None:
    """Write down who changed what, and tell the feed."""
    insert_all(session, AuditRow.__table__, [_row(change, actor, now) for change in changes])
    told = [change for change in changes if change.topic in TOPICS]
    outbox.append(session, [(change.topic, change.key, change.kind, change.after) for change in told])


def _row(change: Changed, actor: Actor, now: float) -> dict[str, Any]:
    before, after = (None if each is None else json.dumps(each, sort_keys=True) for each in change.differences())
    return {
        "at": now,
        "actor": actor.name,
        "origin": actor.origin,
        "action": change.kind.value,
        "topic": change.topic,
        "key": change.key,
        "name": change.name,
        "before": before,
        "after": after,
    }


def read(
    session: Session, *, topic: str | None = None, key: str | None = None, before: int | None = None, limit: int = 100
) -> Iterator[AuditEntry]:
    """The newest changes first, of one topic, of one record, older than an entry; machines come with their codes."""
    query = select(AuditRow).order_by(AuditRow.id.desc()).limit(limit)
    if topic is not None:
        query = query.where(AuditRow.topic.in_([topic, CODES] if topic == MACHINES else [topic]))
    if key is not None:
        query = query.where(AuditRow.key == key)
    if before is not None:
        query = query.where(AuditRow.id < before)
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
