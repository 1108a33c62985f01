"""What changed in udb, and whose passwords were shown (`services.common.history`). Part of `store`.

Call `log` last in a transaction, as `services.common.feed.outbox` wants it. No entry has a password or a hash: a change
of either shows as another time in `password_set`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from services.common import history
from services.common.changes import Actor, AuditEntry
from services.common.history import Changed
from services.common.users import UserGroup
from services.udb.models import AuditRow, outbox

USERS, MESSAGE = "users", "message"
TOPICS = frozenset({USERS, MESSAGE})
SHOWINGS = "showings"
"""Passwords that were shown: in the history under the id of their user, and in no feed."""


@dataclass(frozen=True)
class Seen:
    """A change, and the group of those who see it."""

    change: Changed
    sight: UserGroup


def log(session: Session, actor: Actor, seen: Sequence[Seen], now: float) -> None:
    """Write down who changed what, and tell the feed."""
    rows = [each.change.row(actor, now) | {"sight": each.sight.value} for each in seen]
    history.log(session, AuditRow.__table__, outbox, TOPICS, [each.change for each in seen], rows)


def read(
    session: Session,
    sights: Collection[UserGroup],
    *,
    topic: str | None = None,
    key: str | None = None,
    before: int | None = None,
    limit: int = 100,
) -> Iterator[AuditEntry]:
    """The newest entries first that those see who see `sights`: of a topic, of one user, older than an entry."""
    query = select(AuditRow).where(AuditRow.sight.in_([group.value for group in sights]))
    query = query.order_by(AuditRow.id.desc()).limit(limit)
    if topic is not None:
        query = query.where(AuditRow.topic == topic)
    if key is not None:
        query = query.where(AuditRow.key == key)
    if before is not None:
        query = query.where(AuditRow.id < before)
    return history.entries(session, query)
