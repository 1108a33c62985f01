"""What a call edits, and what becomes of it: the rules of machines. Reads the database, writes nothing.

What counts is the end: two machines may swap names, MACs or addresses. Every refusal is one of the house's errors:
`machine.*` for what a record cannot be, `conflict.*` for what another record has already, `pool.*` for addresses.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Any

import msgspec
from sqlalchemy import select
from sqlalchemy.orm import Session

from services.common.errors import BusyError, InputError, MissingError
from services.common.names import host_problem, label_problem, normal_mac
from services.mdb import pools
from services.mdb.models import MachineRow, NameRow
from services.mdb.rows import addresses, chunks, load
from services.mdb.schema import Machine, MachinePatch, MachineType, NewMachine, Seed

_FIELDS = tuple(field.name for field in msgspec.structs.fields(NewMachine))
_USUAL = NewMachine(hostname="", mac="")


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


@dataclass(frozen=True)
class Declare:
    """Have the machine that hall.toml declares: a new one, or the one with `id` becomes it."""

    seed: Seed
    id: int | None = None


Edit = Create | Update | Delete | Declare
_OWNED = ("hostname", "aliases", "ip", "type", "mac")


@dataclass
class Step:
    """One edit while it is worked out: the machine before and after (None: does not exist)."""

    number: int
    before: Machine | None
    after: Machine | None


class Work:
    """The edits of one call: read what they touch, work out what it becomes, and find what does not fit."""

    def __init__(
        self,
        session: Session,
        bounds: Mapping[MachineType, pools.Bounds],
        now: float,
        revision: int,
        edits: Sequence[Edit],
        *,
        seeds: Mapping[str, Seed],
        by_hall: bool = False,
        places: Sequence[str] = (),
    ) -> None:
        self.session = session
        self.bounds = bounds
        self.now = now
        self.revision = revision
        self.seeds = seeds
        self.by_hall = by_hall
        self.places = places
        self.steps: list[Step] = []
        self._edits = edits
        self._wanted: dict[int, IPv4Address | None] = {}

    def settle(self) -> list[Step]:
        """Work all of it out."""
        ids = [edit.id for edit in self._edits if not isinstance(edit, Create) and edit.id is not None]
        if doubled := [id for id, count in Counter(ids).items() if count > 1]:
            raise InputError("machine.twice", f"machine {doubled[0]} is edited twice in one call")
        known = load(self.session, ids)
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

    def _step(self, number: int, edit: Edit, known: Mapping[int, Machine]) -> Step:
        if isinstance(edit, Create):
            return self._made(number, {name: getattr(edit.machine, name) for name in _FIELDS})
        if isinstance(edit, Declare):
            return self._declared(number, edit.seed, None if edit.id is None else known[edit.id])
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
            self._owned(number, before, {"hostname": None})
            return Step(number, before, None)
        patch = {name: value for name in _FIELDS if (value := getattr(edit.patch, name)) is not msgspec.UNSET}
        if "mac" in patch and patch["mac"] is None and not before.declared:
            raise InputError("machine.mac", "a machine is known by its MAC address", where=self._where(number))
        patch = self._checked(number, patch)
        self._owned(number, before, patch)
        if "ip" in patch:
            if (wanted := patch.pop("ip")) != before.ip:
                self._wanted[number] = wanted
        elif patch.get("type", before.type) is not before.type and not self._at_home(before.ip, patch["type"]):
            self._wanted[number] = None
        after = msgspec.structs.replace(before, **patch)
        if after == before and number not in self._wanted:
            return Step(number, before, before)
        return Step(number, before, msgspec.structs.replace(after, updated=self.now))

    def _made(self, number: int, values: dict[str, Any], *, declared: bool = False) -> Step:
        self._wanted[number] = values.pop("ip")
        values |= {"id": 0, "created": self.now, "updated": self.now, "revision": 0, "ip": IPv4Address(0)}
        return Step(number, None, Machine(**self._checked(number, values), declared=declared))

    def _declared(self, number: int, seed: Seed, before: Machine | None) -> Step:
        """hall.toml's machine: what hall.toml says of it, and the rest as people left it."""
        said = {"hostname": seed.hostname, "aliases": seed.aliases, "ip": seed.ip, "type": MachineType.SERVICE}
        if seed.mac is not None:
            said["mac"] = seed.mac
        elif before is not None and before.mac in {other.mac for other in self.seeds.values()}:
            said["mac"] = None  # it is another host's
        if before is None:
            usual = {name: getattr(_USUAL, name) for name in _FIELDS}
            return self._made(number, {**usual, "mac": None, **said}, declared=True)
        after = msgspec.structs.replace(before, **self._checked(number, said), declared=True)
        if after == before:
            return Step(number, before, before)
        if after.ip != before.ip:
            self._wanted[number] = after.ip
        return Step(number, before, msgspec.structs.replace(after, updated=self.now))

    def _owned(self, number: int, before: Machine, patch: Mapping[str, Any]) -> None:
        """Leave to hall.toml what is its own. Raises InputError("machine.declared")."""
        if not before.declared or self.by_hall:
            return
        seed = self.seeds.get(before.hostname)
        for name in _OWNED:
            free = name == "mac" and (seed is None or seed.mac is None)
            if name in patch and not free and patch[name] != getattr(before, name):
                raise InputError(
                    "machine.declared",
                    f"{before.hostname} is declared in hall.toml, which owns its names, its address and its type",
                    hint="change it there, then reload backline-hall.service",
                    where=self._where(number),
                )

    def _checked(self, number: int, values: dict[str, Any]) -> dict[str, Any]:
        """The values in their one form. Raises InputError: `machine.name`, `machine.mac`."""
        for name in [*([values["hostname"]] if "hostname" in values else []), *values.get("aliases", [])]:
            if problem := host_problem(name):
                raise InputError("machine.name", problem, where=self._where(number))
        for key in ("room", "channel"):
            if key in values and (problem := label_problem(values[key])):
                raise InputError(f"machine.{key}", f"{key}: {problem}", where=self._where(number))
        if values.get("mac") is not None:
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
        taken, resting = addresses(self.session)
        leaving = {step.before.ip for step in self.steps if step.before and (step in moving or step.after is None)}
        staying = taken - leaving
        for step in moving:
            if (address := self._wanted[step.number]) is not None:
                assert step.after is not None
                bounds = self.bounds.get(step.after.type)
                if not self.by_hall and bounds and (problem := bounds.refusal(address, hostname=step.after.hostname)):
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
        names: dict[str, Step] = {}
        macs: dict[str, Step] = {}
        addresses: dict[IPv4Address, Step] = {}
        for step in self.steps:
            if step.after is None or step.after is step.before:
                continue
            for name in (step.after.hostname, *step.after.aliases):
                self._claim(names, name, step, "name", "the name")
            if step.after.mac is not None:
                self._claim(macs, step.after.mac, step, "mac", "the MAC address")
            self._claim(addresses, step.after.ip, step, "ip", "the address")
        self._against(names, NameRow.name, NameRow.machine_id, touched, "name")
        self._against(macs, MachineRow.mac, MachineRow.id, touched, "mac")
        numbers = {int(address): step for address, step in addresses.items()}
        self._against(numbers, MachineRow.ip, MachineRow.id, touched, "ip")

    def _claim(self, owners: dict[Any, Step], value: Any, step: Step, code: str, what: str) -> None:
        first = owners.setdefault(value, step)
        assert step.after is not None
        assert first.after is not None
        if first is not step:
            message = f"{what} {value} would belong to both {first.after.hostname} and {step.after.hostname}"
            raise BusyError(f"conflict.{code}", message, where=self._where(step.number))
        if code == "name" and [step.after.hostname, *step.after.aliases].count(value) > 1:
            raise InputError("machine.name", f"{value} is given twice", where=self._where(step.number))

    def _against(self, claims: Mapping[Any, Step], column: Any, owner: Any, touched: set[int], code: str) -> None:
        for part in chunks(list(claims)):
            for value, id in self.session.execute(select(column, owner).where(column.in_(part))):
                if id in touched:
                    continue
                other = load(self.session, [id])[id]
                shown = IPv4Address(value) if code == "ip" else value
                raise BusyError(
                    f"conflict.{code}", f"{shown} belongs to {other.hostname}", where=self._where(claims[value].number)
                )

    def _where(self, number: int) -> str | None:
        if self.places:
            return self.places[number]
        return f"edit {number + 1}" if len(self._edits) > 1 else None
