"""Bring the tables to where edits end: machines, names, resting addresses, audit, feed. Part of `store`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec
from sqlalchemy import delete, insert, update
from sqlalchemy.orm import Session

from services.common.database import insert_all, new_ids
from services.common.history import Changed
from services.mdb.edits import Step
from services.mdb.history import MACHINES, log
from services.mdb.models import MachineRow, NameRow, RestRow
from services.mdb.rows import chunks, columns, record
from services.mdb.schema import Actor, Machine


def write(session: Session, actor: Actor, steps: Sequence[Step], now: float) -> None:
    """Bring the tables to where `steps` end, with audit and feed."""
    changed = [step for step in steps if step.after is not step.before]
    renamed = [step for step in changed if _names(step.before) != _names(step.after)]
    for part in chunks([step.before.id for step in renamed if step.before]):
        session.execute(delete(NameRow).where(NameRow.machine_id.in_(part)))
    for part in chunks([step.before.id for step in changed if step.before and step.after is None]):
        session.execute(delete(MachineRow).where(MachineRow.id.in_(part)))
    kept = [(step.before, step.after) for step in changed if step.before and step.after]
    # Two may swap what must be unique: first each gets something that nobody has.
    moved = [after.id for before, after in kept if (before.mac, before.ip) != (after.mac, after.ip)]
    if len(moved) > 1:
        session.execute(update(MachineRow), [{"id": id, "mac": f"t{id:016d}", "ip": -id} for id in moved])
    if kept:
        session.execute(update(MachineRow), [columns(after) | {"id": after.id} for _, after in kept])
    _insert(session, [step for step in changed if step.before is None])
    names = [
        {"name": name, "machine_id": step.after.id, "position": position}
        for step in renamed
        if step.after
        for position, name in enumerate(_names(step.after))
    ]
    insert_all(session, NameRow.__table__, names)
    _rest(session, changed, now)
    log(session, actor, [of_step(step) for step in changed], now)


def _names(machine: Machine | None) -> list[str]:
    return [] if machine is None else [machine.hostname, *machine.aliases]


def _insert(session: Session, new: Sequence[Step]) -> None:
    """Add machines; each step then has its id."""
    rows = [columns(step.after) for step in new]
    if not rows:
        return
    ids: Iterable[int]
    if session.get_bind().dialect.name == "postgresql":
        ids = new_ids(session, MachineRow.__table__, len(rows))
        insert_all(session, MachineRow.__table__, [row | {"id": id} for row, id in zip(rows, ids, strict=True)])
    else:
        ids = session.scalars(insert(MachineRow).returning(MachineRow.id, sort_by_parameter_order=True), rows)
    for step, id in zip(new, ids, strict=True):
        assert step.after is not None
        step.after = msgspec.structs.replace(step.after, id=id)


def _rest(session: Session, steps: Sequence[Step], now: float) -> None:
    left = {step.before.ip for step in steps if step.before and (step.after is None or step.after.ip != step.before.ip)}
    held = {step.after.ip for step in steps if step.after}
    for part in chunks([int(address) for address in left | held]):
        session.execute(delete(RestRow).where(RestRow.ip.in_(part)))
    if rows := [{"ip": int(address), "since": now} for address in sorted(left - held)]:
        session.execute(insert(RestRow), rows)


def of_step(step: Step) -> Changed:
    """What a step did, for history and feed."""
    machine = step.after or step.before
    assert machine is not None
    before, after = (record(each) if each else None for each in (step.before, step.after))
    return Changed(MACHINES, str(machine.id), machine.hostname, before, after)
