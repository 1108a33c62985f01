"""What changed in mdb, for those who ask later and those who follow (`services.common.history`). Part of `store`.

Call `log` last in a transaction, as `services.common.feed.outbox` wants it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from sqlalchemy import select
from sqlalchemy.orm import Session

from services.common import history
from services.common.changes import Actor, AuditEntry
from services.common.history import Changed
from services.mdb.models import AuditRow, outbox

MACHINES = "machines"
SWITCHES = "switches"
SETTINGS = "settings"
TOPICS = frozenset({MACHINES, SWITCHES, SETTINGS})
CODES = "codes"
"""One-time codes: in the history under the id of their machine, and in no feed."""


def log(session: Session, actor: Actor, changes: Sequence[Changed], now: float) -> None:
    """Write down who changed what, and tell the feed."""
    rows = [change.row(actor, now) for change in changes]
    history.log(session, AuditRow.__table__, outbox, TOPICS, changes, rows)


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
    return history.entries(session, query)
