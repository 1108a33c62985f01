"""From machines as they are and should be to the steps between them. Pure, like `services.hostd.planner`.

The order is: what goes (stop, set aside), then machine by machine, by name: bring back, its limits, its version, and
whether it runs. A version that is the one before is gone back to (`revert`: with its /var of then); any other is an
upgrade, with a copy of /var and a gate. A machine that is not wished for any more is set aside, never deleted, and one
that is wished for again is brought back with all that it had.

A machine that was there before any document spoke of it is given back as it was, with one exception: its version goes
back only where that is a revert. An older version on a copy of a newer /var is for an administrator to ask for.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Literal

import msgspec

from services.common.errors import InputError
from services.hostd.desired import MachineWish
from services.hostd.machines_schema import Card, Resources
from services.hostd.planner import UP, Kind, Step

_change = msgspec.structs.replace


class MachineSeen(msgspec.Struct, frozen=True, kw_only=True):
    """One machine as it is. While an upgrade is under way, `version` is the new one and `previous` the old one."""

    role: str
    version: str
    network: list[Card] = []
    resources: Resources = Resources()
    folders: dict[str, str] = {}
    wanted: Literal["running", "stopped"] = "running"
    active: str = "inactive"
    """systemd's word for its unit."""
    previous: str | None = None
    """What `revert` goes back to."""
    changing: bool = False
    """An upgrade is under way, and not committed."""

    @property
    def up(self) -> bool:
        """Runs, or is about to, and is to."""
        return self.wanted == "running" and self.active in UP

    @property
    def off(self) -> bool:
        """Does not run, and is not to."""
        return self.wanted == "stopped" and self.active not in UP

    def wish(self) -> MachineWish:
        """The wish that it fulfils."""
        return MachineWish(
            role=self.role,
            version=self.version,
            network=self.network,
            resources=self.resources,
            folders=self.folders,
            running=self.wanted == "running",
        )


class MachinesSeen(msgspec.Struct, frozen=True, kw_only=True):
    """The machines of an iron. `aside`: those that were set aside and can be brought back; `held`: ROLE@VERSION."""

    machines: dict[str, MachineSeen] = {}
    aside: dict[str, MachineSeen] = {}
    held: list[str] = []


class MachineBefore(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a machine was before a document wished for it; null where there was none."""

    wish: MachineWish | None = None


Befores = Mapping[str, MachineBefore]


def plan(
    seen: MachinesSeen | None, wishes: Mapping[str, MachineWish], befores: Befores
) -> tuple[list[Step], dict[str, MachineBefore]]:
    """What leads from `seen` to `wishes`, and what has to be remembered. `seen` is None on a host without machines.

    Raises InputError: "plan.iron" (no machines here), "plan.role" (a machine keeps its role), "plan.version" (one that
    is not held).
    """
    if seen is None:
        if wishes:
            hint = "`backline host init` makes a plain Debian 13 iron"
            raise InputError("plan.iron", f"no machines run on this host: {', '.join(sorted(wishes))}", hint=hint)
        return [], {}
    going = [
        name
        for name, before in sorted(befores.items())
        if name not in wishes and before.wish is None and name in seen.machines
    ]
    steps = [step for name in going for step in _leave(name, seen.machines[name])]
    for name in sorted({*wishes, *befores} - set(going)):
        target = wishes.get(name) or _given_back(seen.machines.get(name), befores[name].wish)
        if target is not None:
            steps += _Way(name, seen, target).steps()
    return steps, {name: befores.get(name) or _before(seen, name) for name in sorted(wishes)}


def _before(seen: MachinesSeen, name: str) -> MachineBefore:
    found = seen.machines.get(name)
    return MachineBefore(found.wish() if found is not None else None)


def _given_back(seen: MachineSeen | None, wish: MachineWish | None) -> MachineWish | None:
    """What a machine becomes that no document wishes for any more and that was there before; None: left alone."""
    if seen is None or wish is None:
        return None
    return wish if wish.version in (seen.version, seen.previous) else _change(wish, version=seen.version)


def _leave(name: str, seen: MachineSeen) -> list[Step]:
    stop = [] if seen.off and not seen.changing else [Step(Kind.STOP, machine=name)]
    if seen.changing:
        stop.insert(0, Step(Kind.REVERT, machine=name, version=seen.previous))
    return [*stop, Step(Kind.SET_ASIDE, machine=name)]


class _Way:
    """From one machine as it is to what it should be."""

    def __init__(self, name: str, seen: MachinesSeen, wish: MachineWish) -> None:
        self.name, self.wish, self.held = name, wish, seen.held
        self.aside = seen.aside.get(name) if name not in seen.machines else None
        if self.aside is not None and self.aside.role != wish.role:
            self.aside = None  # another machine that had this name
        self.seen = seen.machines.get(name) or self.aside

    def steps(self) -> list[Step]:
        wish, seen = self.wish, self.seen
        if seen is None:
            self._require_held()
            return [self._step(Kind.CREATE, wish=wish)]
        if seen.role != wish.role:
            raise InputError(
                "plan.role",
                f"{self.name} is a machine of role {seen.role}, and a machine keeps its role",
                hint=f"take {self.name} out of the document first, or use another name",
            )
        steps = [self._step(Kind.BRING_BACK)] if self.aside is not None else []
        shape: list[Step] = []
        if (seen.network, seen.folders) != (wish.network, wish.folders):
            shape = [self._step(Kind.CONFIGURE, wish=wish)]
        elif seen.resources != wish.resources:
            shape = [self._step(Kind.LIMITS, wish=wish)]
        # A new version may need its new limits; what is being changed already comes to its end first.
        return [*steps, *self._rest(seen, shape)]

    def _rest(self, seen: MachineSeen, shape: list[Step]) -> list[Step]:
        wish, up = self.wish, seen.up
        steps = [] if seen.changing else list(shape)
        if seen.version != wish.version or seen.changing:
            if wish.version == seen.previous:
                steps.append(self._step(Kind.REVERT, version=wish.version))
                up = up or seen.wanted == "running"
            else:
                steps.append(self._step(Kind.UPGRADE, version=wish.version))
                up = True
            self._require_held()
        steps += shape if seen.changing else []
        if wish.running and not up:
            self._require_held()
            steps.append(self._step(Kind.START))
        if not wish.running and (up or not seen.off):
            steps.append(self._step(Kind.STOP))
        return steps

    def _step(self, kind: Kind, *, wish: MachineWish | None = None, version: str | None = None) -> Step:
        return Step(kind, machine=self.name, wish=wish, version=version)

    def _require_held(self) -> None:
        wanted = f"{self.wish.role}@{self.wish.version}"
        if wanted not in self.held:
            raise InputError(
                "plan.version",
                f"{self.name} is to run {wanted}, which this host does not hold",
                hint=f"`backline machine pull {wanted}` on it, or `import`",
            )


def simulate(seen: MachinesSeen | None, steps: Iterable[Step]) -> MachinesSeen | None:
    """What the steps make of machines; refuses, as AssertionError, what the real ones would refuse."""
    if seen is None:
        return None
    machines, aside = dict(seen.machines), dict(seen.aside)
    for step in steps:
        if (name := step.machine) is None:
            continue
        match step.kind:
            case Kind.CREATE:
                assert step.wish is not None
                assert name not in machines
                _must_hold(step.wish.role, step.wish.version, seen.held)
                machines[name] = _made(step.wish)
            case Kind.BRING_BACK:
                machines[name] = aside.pop(name)
            case Kind.SET_ASIDE:
                assert machines[name].off
                aside[name] = machines.pop(name)
            case _:
                machines[name] = _after(machines[name], step)
                if machines[name].active in UP:
                    _must_hold(machines[name].role, machines[name].version, seen.held)
    return _change(seen, machines=machines, aside=aside)


def _after(machine: MachineSeen, step: Step) -> MachineSeen:
    match step.kind:
        case Kind.START:
            return _change(machine, wanted="running", active="active")
        case Kind.STOP:
            assert not machine.changing
            return _change(machine, wanted="stopped", active="inactive")
        case Kind.UPGRADE:
            assert step.version is not None
            assert machine.version != step.version or machine.changing
            previous = machine.previous if machine.version == step.version else machine.version
            new = _change(machine, version=step.version, previous=previous, changing=False)
            return _change(new, wanted="running", active="active")
        case Kind.REVERT:
            assert step.version == machine.previous
            assert step.version is not None
            active = "active" if machine.wanted == "running" else "inactive"
            return _change(machine, version=step.version, previous=None, changing=False, active=active)
        case Kind.LIMITS | Kind.CONFIGURE:
            assert step.wish is not None
            wish = step.wish
            if step.kind is Kind.CONFIGURE and machine.wanted == "running":
                machine = _change(machine, active="active")
            return _change(machine, network=wish.network, resources=wish.resources, folders=wish.folders)
        case _:
            raise AssertionError(step.kind)


def _made(wish: MachineWish) -> MachineSeen:
    return MachineSeen(
        role=wish.role,
        version=wish.version,
        network=wish.network,
        resources=wish.resources,
        folders=dict(wish.folders),
        wanted="running" if wish.running else "stopped",
        active="active" if wish.running else "inactive",
    )


def _must_hold(role: str, version: str, held: Collection[str]) -> None:
    assert f"{role}@{version}" in held, f"{role}@{version} is not held"
