"""Bring the tables to where edits end: machines, names, resting addresses, audit, feed. Part of `store`."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from sqlalchemy import delete, insert, update
from sqlalchemy.orm import Session

from services.mdb.edits import Step
from services.mdb.history import MACHINES, Changed, log
from services.mdb.models import MachineRow, NameRow, RestRow
from services.mdb.rows import chunks, columns, record
from services.mdb.schema import Actor


def write(session: Session, actor: Actor, steps: Sequence[Step], now: float) -> None:
    """Bring the tables to where `steps` end, with audit and feed."""
    changed = [step for step in steps if step.after is not step.before]
    old = [step.before.id for step in changed if step.before]
    gone = [step.before.id for step in changed if step.before and step.after is None]
    for part in chunks(old):
        session.execute(delete(NameRow).where(NameRow.machine_id.in_(part)))
    for part in chunks(gone):
        session.execute(delete(MachineRow).where(MachineRow.id.in_(part)))
    kept = [step for step in changed if step.before and step.after]
    if len(kept) > 1:  # two may swap what must be unique: first each gets something that nobody has
        parked = [
            {"id": step.before.id, "mac": f"t{step.before.id:016d}", "ip": -step.before.id}
            for step in kept
            if step.before
        ]
        session.execute(update(MachineRow), parked)
    if kept:
        session.execute(
            update(MachineRow), [columns(step.after) | {"id": step.after.id} for step in kept if step.after]
        )
    new = [step for step in changed if step.before is None]
    if new:
        rows = [columns(step.after) for step in new if step.after]
        ids = session.scalars(insert(MachineRow).returning(MachineRow.id, sort_by_parameter_order=True), rows)
        for step, id in zip(new, ids, strict=True):
            assert step.after is not None
            step.after = msgspec.structs.replace(step.after, id=id)
    names = [
        {"name": name, "machine_id": step.after.id, "position": position}
        for step in changed
        if step.after
        for position, name in enumerate([step.after.hostname, *step.after.aliases])
    ]
    if names:
        session.execute(insert(NameRow), names)
    _rest(session, changed, now)
    log(session, actor, [_change(step) for step in changed], now)


def _rest(session: Session, steps: Sequence[Step], now: float) -> None:
    left = {step.before.ip for step in steps if step.before and (step.after is None or step.after.ip != step.before.ip)}
    held = {step.after.ip for step in steps if step.after}
    for part in chunks([int(address) for address in left | held]):
        session.execute(delete(RestRow).where(RestRow.ip.in_(part)))
    if rows := [{"ip": int(address), "since": now} for address in sorted(left - held)]:
        session.execute(insert(RestRow), rows)


def _change(step: Step) -> Changed:
    machine = step.after or step.before
    assert machine is not None
    before, after = (record(each) if each else None for each in (step.before, step.after))
    return Changed(MACHINES, str(machine.id), machine.hostname, before, after)
