"""Between mdb's tables and its structs; every query that more than one module needs."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from ipaddress import IPv4Address
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from services.common.codec import to_builtins
from services.common.feed.wire import Record
from services.common.names import label_problem, normal_mac
from services.mdb.models import MachineRow, NameRow, RestRow
from services.mdb.schema import Machine, MachineType

CHUNK = 500  # SQLite takes 32,766 parameters a statement, PostgreSQL 65,535


def record(machine: Machine) -> Record:
    """A machine as the feed carries it: the fields of `Machine`."""
    plain = to_builtins(machine)
    assert isinstance(plain, dict)
    return plain


def columns(machine: Machine | None) -> dict[str, object]:
    assert machine is not None
    return {
        "mac": machine.mac,
        "ip": int(machine.ip),
        "rfs": machine.rfs,
        "hfs": machine.hfs,
        "type": machine.type.value,
        "room": machine.room,
        "faulty": machine.faulty,
        "faulty_reason": machine.faulty_reason,
        "channel": machine.channel,
        "pinned": machine.pinned,
        "notes": machine.notes,
        "declared": machine.declared,
        "created": machine.created,
        "updated": machine.updated,
        "revision": machine.revision,
    }


def load(session: Session, ids: Collection[int] | None) -> dict[int, Machine]:
    """Machines by id; all of them without `ids`."""
    parts: Iterable[Sequence[int] | None] = [None] if ids is None else chunks(list(ids))
    found: dict[int, Machine] = {}
    table, names = MachineRow.__table__.c, NameRow.__table__.c
    for part in parts:
        machines = select(MachineRow.__table__)
        named = select(names.machine_id, names.name).order_by(names.machine_id, names.position)
        if part is not None:
            machines, named = machines.where(table.id.in_(part)), named.where(names.machine_id.in_(part))
        known: dict[int, list[str]] = {}
        for id, name in session.execute(named):
            known.setdefault(id, []).append(name)
        for row in session.execute(machines).mappings():
            values = dict(row)
            hostname, *aliases = known[row["id"]]
            values |= {"ip": IPv4Address(row["ip"]), "type": MachineType(row["type"]), "faulty": bool(row["faulty"])}
            values["declared"] = bool(row["declared"])
            found[row["id"]] = Machine(hostname=hostname, aliases=aliases, **values)
    return found


def find(session: Session, name: int | str) -> int | None:
    if isinstance(name, int):
        return session.scalar(select(MachineRow.id).where(MachineRow.id == name))
    if label_problem(name.lower()) is None:
        found = session.scalar(select(NameRow.machine_id).where(NameRow.name == name.lower()))
        if found is not None:
            return found
    try:
        return session.scalar(select(MachineRow.id).where(MachineRow.ip == int(IPv4Address(name))))
    except ValueError:
        pass
    try:
        return session.scalar(select(MachineRow.id).where(MachineRow.mac == normal_mac(name)))
    except ValueError:
        return None


def addresses(session: Session) -> tuple[set[IPv4Address], dict[IPv4Address, float]]:
    """Addresses that machines have, and those that rest with the time since when."""
    taken = {IPv4Address(number) for number in session.scalars(select(MachineRow.ip))}
    resting = {IPv4Address(row.ip): row.since for row in session.execute(select(RestRow.ip, RestRow.since))}
    return taken, resting


def chunks(values: Sequence[Any]) -> Iterator[Sequence[Any]]:
    for begin in range(0, len(values), CHUNK):
        yield values[begin : begin + CHUNK]
