"""mdb's queries and rules; no HTTP. One transaction a call: all of its changes, their audit and their feed, or nothing.

Writers come one after the other: each takes the feed's counter first, so what a writer read stays true until it
commits, on both databases. Every refusal is one of the house's errors: `machine.*` for what a record cannot be,
`conflict.*` for what another record has already, `pool.*` for addresses.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import msgspec
from sqlalchemy import delete, insert, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from services.common.codec import to_builtins
from services.common.database import Database, violated
from services.common.errors import BusyError, InputError, MissingError
from services.common.feed.wire import Item, Kind, Record
from services.common.names import label_problem, normal_mac
from services.mdb import pools
from services.mdb.models import AuditRow, MachineRow, NameRow, RestRow, outbox
from services.mdb.schema import (
    Action,
    Actor,
    AuditEntry,
    Machine,
    MachinePatch,
    MachineType,
    NewMachine,
    Pool,
)

MIGRATIONS = Path(__file__).parent / "migrations"
MACHINES = "machines"
TOPICS = frozenset({MACHINES})
_CHUNK = 500  # SQLite takes 32,766 parameters a statement, PostgreSQL 65,535
_FIELDS = tuple(field.name for field in msgspec.structs.fields(NewMachine))
_CLOCK: Callable[[], float] = time.time


@dataclass(frozen=True)
class Create:
    """Make a machine."""

    machine: NewMachine


@dataclass(frozen=True)
class Update:
    """Change a machine; with `match`, only while its revision is that one."""

    id: int
    patch: MachinePatch
    match: int | None = None


@dataclass(frozen=True)
class Delete:
    """Remove a machine; with `match`, only while its revision is that one."""

    id: int
    match: int | None = None


Edit = Create | Update | Delete


@dataclass
class _Step:
    """One edit while it is worked out: the machine before and after (None: does not exist)."""

    number: int
    before: Machine | None
    after: Machine | None


class Store:
    """mdb's database. `bounds` are the pools by type; a type without one takes written addresses only."""

    def __init__(
        self, database: Database, bounds: Mapping[MachineType, pools.Bounds], *, clock: Callable[[], float] = _CLOCK
    ) -> None:
        self.database = database
        self.bounds = bounds
        self._clock = clock

    def prepare(self) -> None:
        """Make or move on the schema; called once, before anything else."""
        self.database.migrate(MIGRATIONS)
        with self.database.write() as session:
            outbox.begin(session)

    # Reading

    def machines(self, ids: Collection[int] | None = None) -> list[Machine]:
        """Machines in the order of their host names; all of them without `ids`."""
        with self.database.read() as session:
            return sorted(_load(session, ids).values(), key=lambda machine: machine.hostname)

    def machine(self, name: int | str) -> Machine:
        """By id, or by exact host name, alias, MAC or address. Raises MissingError("machine.unknown")."""
        with self.database.read() as session:
            found = _find(session, name)
            if found is None:
                raise MissingError("machine.unknown", f"there is no machine {name}")
            return _load(session, [found])[found]

    def pools(self) -> list[Pool]:
        """How full each pool is."""
        now = self._clock()
        with self.database.read() as session:
            return [
                Pool(
                    type=type,
                    first=bounds.span.first,
                    last=bounds.span.last,
                    excluded=[str(span) for span in bounds.excluded],
                    size=level.size,
                    used=level.used,
                    resting=level.resting,
                    free=level.free,
                )
                for type, bounds in self.bounds.items()
                for level in [pools.level(bounds, *_addresses(session), now=now)]
            ]

    def audit(self, *, key: str | None = None, before: int | None = None, limit: int = 100) -> list[AuditEntry]:
        """The newest changes first; of one machine with `key` (its id), older than entry `before`."""
        query = select(AuditRow).order_by(AuditRow.id.desc()).limit(limit)
        if key is not None:
            query = query.where(AuditRow.key == key)
        if before is not None:
            query = query.where(AuditRow.id < before)
        with self.database.read() as session:
            return [_entry(row) for row in session.scalars(query)]

    # Writing

    def create(self, actor: Actor, machine: NewMachine) -> Machine:
        """Add a machine. Raises as `edit`."""
        (made,) = self.edit(actor, [Create(machine)])
        assert made is not None
        return made

    def update(self, actor: Actor, id: int, patch: MachinePatch, *, match: int | None = None) -> Machine:
        """Change a machine. Raises as `edit`."""
        (changed,) = self.edit(actor, [Update(id, patch, match)])
        assert changed is not None
        return changed

    def delete(self, actor: Actor, id: int, *, match: int | None = None) -> None:
        """Remove a machine; its address rests. Raises as `edit`."""
        self.edit(actor, [Delete(id, match)])

    def edit(self, actor: Actor, edits: Sequence[Edit], *, dry: bool = False) -> list[Machine | None]:
        """Do all of `edits`, in order, or none. Returns each machine afterwards, None for one removed.

        What counts is the end: two machines may swap names, MACs or addresses. With `dry` nothing is kept, and machines
        to be made have id 0. Raises InputError (`machine.*`, `pool.*`), BusyError (`conflict.*`, `pool.exhausted`),
        MissingError("machine.unknown"); `where` says which edit it was, when there are several.
        """
        try:
            with self.database.write() as session:
                revision = outbox.lock(session)
                steps = _Work(session, self.bounds, self._clock(), revision, edits).settle()
                if not dry:
                    _write(session, actor, steps, self._clock())
        except IntegrityError as error:  # a rule that `settle` did not foresee; nothing was kept
            raise BusyError("conflict.rule", f"the database refuses it: {violated(error)}") from error
        return [step.after for step in steps]

    # The feed

    def source(self, session: Session, topics: frozenset[str]) -> Iterable[Item]:
        """Every record of the feed (`services.common.feed.server.Source`)."""
        if MACHINES in topics:
            for machine in _load(session, None).values():
                yield Item(MACHINES, str(machine.id), record(machine))


def record(machine: Machine) -> Record:
    """A machine as the feed carries it: the fields of `Machine`."""
    plain = to_builtins(machine)
    assert isinstance(plain, dict)
    return plain


class _Work:
    """The edits of one call: read what they touch, work out what it becomes, and find what does not fit."""

    def __init__(
        self,
        session: Session,
        bounds: Mapping[MachineType, pools.Bounds],
        now: float,
        revision: int,
        edits: Sequence[Edit],
    ) -> None:
        self.session = session
        self.bounds = bounds
        self.now = now
        self.revision = revision
        self.steps: list[_Step] = []
        self._edits = edits
        self._wanted: dict[int, IPv4Address | None] = {}

    def settle(self) -> list[_Step]:
        """Work all of it out."""
        ids = [edit.id for edit in self._edits if not isinstance(edit, Create)]
        if doubled := [id for id, count in Counter(ids).items() if count > 1]:
            raise InputError("machine.twice", f"machine {doubled[0]} is edited twice in one call")
        known = _load(self.session, ids)
        for number, edit in enumerate(self._edits):
            self.steps.append(self._step(number, edit, known))
        self._addresses()
        self._unique()
        revision = self.revision
        for step in self.steps:
            if step.after is not step.before:
                revision += 1
                if step.after is not None:
                    step.after = msgspec.structs.replace(step.after, revision=revision)
        return self.steps

    def _step(self, number: int, edit: Edit, known: Mapping[int, Machine]) -> _Step:
        if isinstance(edit, Create):
            values = {name: getattr(edit.machine, name) for name in _FIELDS}
            self._wanted[number] = values.pop("ip")
            values |= {"id": 0, "created": self.now, "updated": self.now, "revision": 0, "ip": IPv4Address(0)}
            made = Machine(**self._checked(number, values))
            return _Step(number, None, made)
        before = known.get(edit.id)
        if before is None:
            raise MissingError("machine.unknown", f"there is no machine {edit.id}", where=self._where(number))
        if edit.match is not None and edit.match != before.revision:
            raise BusyError(
                "conflict.changed",
                f"{before.hostname} was changed meanwhile: it is at revision {before.revision}, not {edit.match}",
                hint="look at it again, then decide",
                where=self._where(number),
            )
        if isinstance(edit, Delete):
            return _Step(number, before, None)
        patch = {name: value for name in _FIELDS if (value := getattr(edit.patch, name)) is not msgspec.UNSET}
        if "ip" in patch:
            self._wanted[number] = patch.pop("ip")
        elif patch.get("type", before.type) is not before.type and not self._at_home(before.ip, patch["type"]):
            self._wanted[number] = None
        values = self._checked(number, patch)
        after = msgspec.structs.replace(before, **values)
        if after == before and number not in self._wanted:
            return _Step(number, before, before)
        return _Step(number, before, msgspec.structs.replace(after, updated=self.now))

    def _checked(self, number: int, values: dict[str, Any]) -> dict[str, Any]:
        """The values in their one form. Raises InputError: `machine.name`, `machine.mac`."""
        for name in [*([values["hostname"]] if "hostname" in values else []), *values.get("aliases", [])]:
            if problem := label_problem(name):
                raise InputError("machine.name", problem, where=self._where(number))
        for key in ("room", "channel"):
            if key in values and (problem := label_problem(values[key])):
                raise InputError(f"machine.{key}", f"{key}: {problem}", where=self._where(number))
        if "mac" in values:
            try:
                values["mac"] = normal_mac(values["mac"])
            except ValueError as error:
                raise InputError("machine.mac", str(error), where=self._where(number)) from error
        return values

    def _at_home(self, address: IPv4Address, type: MachineType) -> bool:
        bounds = self.bounds.get(type)
        return bounds is None or address in bounds.network

    def _addresses(self) -> None:
        """Give every machine that needs one an address, the written ones first."""
        moving = [step for step in self.steps if step.number in self._wanted]
        if not moving:
            return
        taken, resting = _addresses(self.session)
        leaving = {step.before.ip for step in self.steps if step.before and (step in moving or step.after is None)}
        staying = taken - leaving
        for step in moving:
            if (address := self._wanted[step.number]) is not None:
                assert step.after is not None
                bounds = self.bounds.get(step.after.type)
                if bounds and (problem := bounds.refusal(address, hostname=step.after.hostname)):
                    raise InputError("pool.refused", problem, where=self._where(step.number))
                step.after = msgspec.structs.replace(step.after, ip=address)
                staying.add(address)
        allocators: dict[MachineType, pools.Allocator] = {}
        for step in moving:
            if self._wanted[step.number] is None:
                assert step.after is not None
                type = step.after.type
                if type not in self.bounds:
                    raise InputError(
                        "pool.missing",
                        f"there is no pool for {type.value}",
                        hint="give an address, or a range for it in hall.toml",
                        where=self._where(step.number),
                    )
                if type not in allocators:
                    allocators[type] = pools.Allocator(self.bounds[type], staying, resting, now=self.now)
                address = allocators[type].next()
                for other in allocators.values():
                    other.take(address)
                staying.add(address)
                step.after = msgspec.structs.replace(step.after, ip=address)

    def _unique(self) -> None:
        """Every name, MAC and address has one owner afterwards. Raises BusyError("conflict.*")."""
        touched = {step.before.id for step in self.steps if step.before}
        names: dict[str, _Step] = {}
        macs: dict[str, _Step] = {}
        addresses: dict[IPv4Address, _Step] = {}
        for step in self.steps:
            if step.after is None or step.after is step.before:
                continue
            for name in (step.after.hostname, *step.after.aliases):
                self._claim(names, name, step, "name", "the name")
            self._claim(macs, step.after.mac, step, "mac", "the MAC address")
            self._claim(addresses, step.after.ip, step, "ip", "the address")
        self._against(names, NameRow.name, NameRow.machine_id, touched, "name")
        self._against(macs, MachineRow.mac, MachineRow.id, touched, "mac")
        numbers = {int(address): step for address, step in addresses.items()}
        self._against(numbers, MachineRow.ip, MachineRow.id, touched, "ip")

    def _claim(self, owners: dict[Any, _Step], value: Any, step: _Step, code: str, what: str) -> None:
        first = owners.setdefault(value, step)
        assert step.after is not None
        assert first.after is not None
        if first is not step:
            message = f"{what} {value} would belong to both {first.after.hostname} and {step.after.hostname}"
            raise BusyError(f"conflict.{code}", message, where=self._where(step.number))
        if code == "name" and [step.after.hostname, *step.after.aliases].count(value) > 1:
            raise InputError("machine.name", f"{value} is given twice", where=self._where(step.number))

    def _against(self, claims: Mapping[Any, _Step], column: Any, owner: Any, touched: set[int], code: str) -> None:
        for part in _chunks(list(claims)):
            for value, id in self.session.execute(select(column, owner).where(column.in_(part))):
                if id in touched:
                    continue
                other = _load(self.session, [id])[id]
                shown = IPv4Address(value) if code == "ip" else value
                raise BusyError(
                    f"conflict.{code}", f"{shown} belongs to {other.hostname}", where=self._where(claims[value].number)
                )

    def _where(self, number: int) -> str | None:
        return f"edit {number + 1}" if len(self._edits) > 1 else None


def _write(session: Session, actor: Actor, steps: Sequence[_Step], now: float) -> None:
    """Bring the tables to where `steps` end, with audit and feed."""
    changed = [step for step in steps if step.after is not step.before]
    old = [step.before.id for step in changed if step.before]
    gone = [step.before.id for step in changed if step.before and step.after is None]
    for part in _chunks(old):
        session.execute(delete(NameRow).where(NameRow.machine_id.in_(part)))
    for part in _chunks(gone):
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
            update(MachineRow), [_columns(step.after) | {"id": step.after.id} for step in kept if step.after]
        )
    new = [step for step in changed if step.before is None]
    if new:
        rows = [_columns(step.after) for step in new if step.after]
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
    _log(session, actor, changed, now)


def _rest(session: Session, steps: Sequence[_Step], now: float) -> None:
    left = {step.before.ip for step in steps if step.before and (step.after is None or step.after.ip != step.before.ip)}
    held = {step.after.ip for step in steps if step.after}
    for part in _chunks([int(address) for address in left | held]):
        session.execute(delete(RestRow).where(RestRow.ip.in_(part)))
    if rows := [{"ip": int(address), "since": now} for address in sorted(left - held)]:
        session.execute(insert(RestRow), rows)


def _log(session: Session, actor: Actor, steps: Sequence[_Step], now: float) -> None:
    audit, feed = [], []
    for step in steps:
        machine = step.after or step.before
        assert machine is not None
        before, after = (record(each) if each else None for each in (step.before, step.after))
        if before is not None and after is not None:
            kind = Kind.UPDATED
            differs = {name for name in after if after[name] != before[name]} - {"revision", "updated"}
            shown: list[Record | None] = [{name: each[name] for name in sorted(differs)} for each in (before, after)]
        else:
            kind = Kind.CREATED if before is None else Kind.DELETED
            shown = [before, after]
        feed.append((MACHINES, str(machine.id), kind, after))
        audit.append(
            {
                "at": now,
                "actor": actor.name,
                "origin": actor.origin,
                "action": kind.value,
                "topic": MACHINES,
                "key": str(machine.id),
                "name": machine.hostname,
                "before": None if shown[0] is None else json.dumps(shown[0], sort_keys=True),
                "after": None if shown[1] is None else json.dumps(shown[1], sort_keys=True),
            }
        )
    if audit:
        session.execute(insert(AuditRow), audit)
    outbox.append(session, feed)


# Rows and structs


def _columns(machine: Machine | None) -> dict[str, object]:
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
        "created": machine.created,
        "updated": machine.updated,
        "revision": machine.revision,
    }


def _load(session: Session, ids: Collection[int] | None) -> dict[int, Machine]:
    """Machines by id; all of them without `ids`."""
    parts: Iterable[Sequence[int] | None] = [None] if ids is None else _chunks(list(ids))
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
            found[row["id"]] = Machine(hostname=hostname, aliases=aliases, **values)
    return found


def _find(session: Session, name: int | str) -> int | None:
    if isinstance(name, int):
        return session.scalar(select(MachineRow.id).where(MachineRow.id == name))
    try:
        return session.scalar(select(MachineRow.id).where(MachineRow.ip == int(IPv4Address(name))))
    except ValueError:
        pass
    try:
        return session.scalar(select(MachineRow.id).where(MachineRow.mac == normal_mac(name)))
    except ValueError:
        return session.scalar(select(NameRow.machine_id).where(NameRow.name == name.lower()))


def _addresses(session: Session) -> tuple[set[IPv4Address], dict[IPv4Address, float]]:
    """Addresses that machines have, and those that rest with the time since when."""
    taken = {IPv4Address(number) for number in session.scalars(select(MachineRow.ip))}
    resting = {IPv4Address(row.ip): row.since for row in session.execute(select(RestRow.ip, RestRow.since))}
    return taken, resting


def _entry(row: AuditRow) -> AuditEntry:
    return AuditEntry(
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


def _chunks(values: Sequence[Any]) -> Iterator[Sequence[Any]]:
    for begin in range(0, len(values), _CHUNK):
        yield values[begin : begin + _CHUNK]
