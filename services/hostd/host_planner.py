"""The plan of a whole host: its units, then what it holds and exports, then its machines. Pure.

In this order because each may need the one before: a root file server its service, a machine a bridge. What the plans
promise one by one (`planner`, `roots_planner`, `machines_planner`) they promise together, and property tests say so.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from services.hostd import machines_planner, planner, roots_planner
from services.hostd.desired import Desired
from services.hostd.machines_planner import MachineBefore, MachinesSeen
from services.hostd.planner import Original, Seen, Step
from services.hostd.roots_planner import RootsSeen


class HostSeen(msgspec.Struct, frozen=True):
    """A host as it is; `machines` is null where none can run, `roots` where no roots are served."""

    units: dict[str, Seen] = {}
    machines: MachinesSeen | None = None
    roots: RootsSeen | None = None


class Originals(msgspec.Struct, frozen=True, omit_defaults=True):
    """What units and machines were before documents wished for them."""

    units: dict[str, Original] = {}
    machines: dict[str, MachineBefore] = {}


class Plan(msgspec.Struct, frozen=True):
    """The steps, and what has to be remembered of before."""

    steps: list[Step]
    originals: Originals


def plan(seen: HostSeen, desired: Desired, originals: Originals) -> Plan:
    """What leads from `seen` to `desired`. Raises InputError("plan.*")."""
    units = planner.plan(seen.units, desired, originals.units)
    roots = roots_planner.plan(seen.roots, desired.roots, desired.exports)
    machines, befores = machines_planner.plan(seen.machines, desired.machines, originals.machines)
    return Plan([*units.steps, *roots, *machines], Originals(units.originals, befores))


def concerned(desired: Desired, originals: Originals) -> list[str]:
    """The units that a plan is about, by name, besides those that have files of documents."""
    return planner.concerned({}, desired, originals.units)


def merged(older: Originals, newer: Originals) -> Originals:
    """What was before the first of two plans: the older knowledge counts."""
    return Originals(planner.merged(older.units, newer.units), {**newer.machines, **older.machines})


def simulate(seen: HostSeen, steps: Iterable[Step]) -> HostSeen:
    """What the steps make of a host: for tests, and for those who want to look ahead."""
    steps = list(steps)
    return HostSeen(
        planner.simulate(seen.units, steps),
        machines_planner.simulate(seen.machines, steps),
        roots_planner.simulate(seen.roots, steps),
    )
