"""Bring the tables to where edits end: users, counters, audit, feed. Part of `store`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sqlalchemy import delete, insert, update
from sqlalchemy.orm import Session

from services.common.changes import Actor
from services.common.database import insert_all
from services.common.history import Changed
from services.udb.edits import Step
from services.udb.eyes import strictest
from services.udb.history import USERS, Seen, log
from services.udb.models import CounterRow, UserRow
from services.udb.rows import Account, chunks, columns, counters, plain


def write(session: Session, actor: Actor, steps: Sequence[Step], given: Mapping[str, int], now: float) -> None:
    """Bring the tables to where `steps` end, with audit and feed. `given` are the counters afterwards."""
    changed = [step for step in steps if step.after is not step.before]
    moved = [step for step in changed if step.before and step.after and _unique(step.before) != _unique(step.after)]
    if len(moved) < 2:
        moved = []
    # Two may swap what must be unique: those are made anew, under the ids that they have.
    gone = [step.before.user.id for step in changed if step.before and (step.after is None or step in moved)]
    for part in chunks(gone):
        session.execute(delete(UserRow).where(UserRow.id.in_(part)))
    if kept := [columns(step.after) for step in changed if step.before and step.after and step not in moved]:
        session.execute(update(UserRow), kept)
    new = [step.after for step in changed if step.after and (step.before is None or step in moved)]
    insert_all(session, UserRow.__table__, [columns(account) for account in new])
    was = counters(session)
    for name, last in given.items():
        if name not in was:
            session.execute(insert(CounterRow).values(name=name, last=last))
        elif was[name] != last:
            session.execute(update(CounterRow).where(CounterRow.name == name).values(last=last))
    log(session, actor, [of_step(step) for step in changed], now)


def _unique(account: Account) -> tuple[object, ...]:
    return account.user.login, account.user.uid, account.user.site_id


def of_step(step: Step) -> Seen:
    """What a step did, for history and feed."""
    either = step.after or step.before
    assert either is not None
    before, after = (None if each is None else plain(each.user) for each in (step.before, step.after))
    told = None if step.after is None else step.after.private()
    sight = strictest(*(each.user.group for each in (step.before, step.after) if each))
    return Seen(Changed(USERS, str(either.user.id), either.user.login, before, after, told), sight)
