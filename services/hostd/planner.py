"""From units as they are and should be to the steps between them. Pure: no file, no bus, no clock.

Steps are those of all kinds of things; `services.hostd.host_planner` puts the plan of a whole host together.

Promises, which property tests hold it to: the steps lead to what is wished for; of a state that has been reached the
plan is empty; what a plan does, `simulate` does to a copy. The order is always: stop, reset (what has failed and shall
not run), disable, write and remove files, one reload of systemd, enable, start and restart; units by name within each.

Originals: before the first wish for a unit's state is fulfilled, the state is noted. When no document wishes for it any
more, the unit gets it back. That is what makes a rollback more than a document.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import Enum

import msgspec

from services.common.errors import InputError
from services.hostd.desired import Desired, MachineWish, UnitWish, installs

UP = frozenset({"active", "activating", "reloading", "refreshing"})
RELOADED = (".slice", ".scope", ".target", ".device")
"""Kinds of units to which a reload of systemd suffices; a restart would take others with them."""
ENABLED, DISABLED = frozenset({"enabled"}), frozenset({"disabled", "enabled-runtime", "indirect"})


class Kind(Enum):
    """What a step does."""

    STOP = "stop"
    RESET = "reset"
    DISABLE = "disable"
    WRITE = "write"
    REMOVE = "remove"
    RELOAD = "reload"
    ENABLE = "enable"
    START = "start"
    RESTART = "restart"
    # Machines; START and STOP too.
    SET_ASIDE = "set-aside"
    BRING_BACK = "bring-back"
    CREATE = "create"
    LIMITS = "limits"
    CONFIGURE = "configure"
    UPGRADE = "upgrade"
    REVERT = "revert"
    # Root file servers.
    HOLD = "hold"
    STAGE = "stage"
    EXPORT = "export"


class Step(msgspec.Struct, frozen=True, omit_defaults=True):
    """One step. Files: `drop_in` names the drop-in, null is the unit's own file; `text` is what is written.

    Of a machine: `wish` is what it becomes, or `version` what it shall run. `names` are roots or an export.
    """

    kind: Kind
    unit: str | None = None
    drop_in: str | None = None
    text: str | None = None
    machine: str | None = None
    wish: MachineWish | None = None
    version: str | None = None
    names: list[str] | None = None

    def __str__(self) -> str:
        if self.machine is not None:
            verbs = {Kind.LIMITS: "change limits of", Kind.CONFIGURE: "change network and folders of"}
            verb = verbs.get(self.kind, self.kind.value.replace("-", " "))
            to = f" to {self.version}" if self.version is not None else ""
            return f"{verb} machine {self.machine}{to}"
        if self.names is not None:
            named = ", ".join(self.names) or "no further version"
            return f"hold {named}" if self.kind is Kind.HOLD else f"{self.kind.value} {named}"
        what = f" drop-in {self.drop_in} of" if self.drop_in is not None else ""
        what += " the file of" if self.kind in (Kind.WRITE, Kind.REMOVE) and self.drop_in is None else ""
        return f"{self.kind.value}{what} {self.unit}" if self.unit is not None else "reload systemd"


class Seen(msgspec.Struct, frozen=True):
    """One unit as it is. `file` and `drop_ins` are those that a document put there, without their first line."""

    load: str = "not-found"
    active: str = "inactive"
    file_state: str = ""
    file: str | None = None
    drop_ins: dict[str, str] = {}
    fragment: str = ""
    foreign: list[str] = []
    """Files of somebody else where a document's would be: names of drop-ins, and "" for the unit's file."""

    @property
    def up(self) -> bool:
        """Runs, or is about to."""
        return self.active in UP

    @property
    def enabled(self) -> bool:
        """Starts with the system."""
        return self.file_state in ENABLED

    @property
    def ours(self) -> bool:
        """Has a file of a document."""
        return self.file is not None or bool(self.drop_ins)


class Original(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a unit was before a document wished for it; null where none did."""

    enabled: bool | None = None
    running: bool | None = None


class Plan(msgspec.Struct, frozen=True):
    """The steps for units, and what has to be remembered of before."""

    steps: list[Step]
    originals: dict[str, Original]


NOTHING, NO_WISH, UNTOUCHED = Seen(), UnitWish(), Original()


def plan(seen: Mapping[str, Seen], desired: Desired, originals: Mapping[str, Original]) -> Plan:
    """What leads from `seen` to `desired`.

    Raises InputError: "plan.unknown" (no such unit), "plan.foreign" (somebody else's file is there), "plan.masked",
    "plan.static" (nothing to enable).
    """
    ways = [
        _Way(name, seen.get(name, NOTHING), desired.units.get(name, NO_WISH), originals.get(name, UNTOUCHED))
        for name in concerned(seen, desired, originals)
    ]
    for way in ways:
        way.check()
    files = [step for way in ways for step in way.files()]
    steps = [
        *_each(Kind.STOP, (way for way in ways if way.stops)),
        *_each(Kind.RESET, (way for way in ways if way.resets)),
        *_each(Kind.DISABLE, (way for way in ways if way.disables)),
        *files,
        *([Step(Kind.RELOAD)] if files else []),
        *_each(Kind.ENABLE, (way for way in ways if way.enables)),
        *(step for way in ways for step in way.runs()),
    ]
    return Plan(steps, {way.name: way.remembered for way in ways if way.remembered != UNTOUCHED})


def concerned(seen: Mapping[str, Seen], desired: Desired, originals: Mapping[str, Original]) -> list[str]:
    """The units that a plan is about, by name."""
    return sorted({*desired.units, *originals, *(name for name, unit in seen.items() if unit.ours)})


def _each(kind: Kind, ways: Iterable[_Way]) -> list[Step]:
    return [Step(kind, way.name) for way in ways]


class _Way:
    """From one unit as it is to what it should be."""

    def __init__(self, name: str, seen: Seen, wish: UnitWish, original: Original) -> None:
        self.name, self.seen, self.wish, self.original = name, seen, wish, original
        self.going = seen.file is not None and wish.file is None
        """Its file is a document's, and is not wished for any more: the unit goes with it."""
        self.enabled = wish.enabled if wish.enabled is not None else original.enabled
        self.running = wish.running if wish.running is not None else original.running
        if self.going:
            self.enabled, self.running = False, False
        self.file_changes = wish.file != seen.file
        self.changes = self.file_changes or dict(wish.drop_ins) != seen.drop_ins

    @property
    def remembered(self) -> Original:
        """What it was before, of what is wished for now."""
        if self.going:
            return UNTOUCHED
        return Original(
            None if self.wish.enabled is None else _first(self.original.enabled, self.seen.enabled),
            None if self.wish.running is None else _first(self.original.running, self.seen.up),
        )

    def check(self) -> None:
        name, wish, seen = self.name, self.wish, self.seen
        wished = [("" if key is None else key) for key in ([None] if wish.file is not None else []) + [*wish.drop_ins]]
        taken = sorted(set(wished) & set(seen.foreign))
        if taken or (wish.file is not None and seen.file is None and seen.fragment):
            what = f"drop-in {taken[0]}" if taken and taken[0] else "a file"
            raise InputError(
                "plan.foreign", f"{name} has {what} that no document put there", hint="use another drop-in"
            )
        if seen.load == "masked" and (self.enabled or self.running):
            raise InputError("plan.masked", f"{name} is masked", hint=f"systemctl unmask {name}")
        if not self.exists and (wish.enabled or wish.running):
            raise InputError("plan.unknown", f"there is no unit {name}", hint="give it a `file`, or look at its name")
        if wish.enabled and not self._can_enable():
            raise InputError("plan.static", f"{name} has nothing to enable: no [Install] section")

    @property
    def exists(self) -> bool:
        """Will there be such a unit?"""
        return self.wish.file is not None or (self.seen.load != "not-found" and not self.going)

    def _can_enable(self) -> bool:
        if self.wish.file is not None:
            return installs(self.wish.file)
        return self.seen.file_state in ENABLED | DISABLED

    @property
    def stops(self) -> bool:
        return self.running is False and self.seen.up

    @property
    def resets(self) -> bool:
        return self.running is False and self.seen.active == "failed"

    @property
    def relinks(self) -> bool:
        """Its [Install] section may have changed: the links are made anew."""
        return self.file_changes and self.enabled is True and self.seen.enabled

    @property
    def disables(self) -> bool:
        return self.seen.enabled and (self.enabled is False or self.relinks)

    @property
    def enables(self) -> bool:
        return self.enabled is True and self._can_enable() and (not self.seen.enabled or self.relinks)

    def files(self) -> list[Step]:
        steps = []
        if self.file_changes:
            kind = Kind.REMOVE if self.wish.file is None else Kind.WRITE
            steps.append(Step(kind, self.name, None, self.wish.file))
        for key in sorted({*self.wish.drop_ins, *self.seen.drop_ins}):
            text = self.wish.drop_ins.get(key)
            if text is None:
                steps.append(Step(Kind.REMOVE, self.name, key))
            elif text != self.seen.drop_ins.get(key):
                steps.append(Step(Kind.WRITE, self.name, key, text))
        return steps

    def runs(self) -> list[Step]:
        if self.running is True and not self.seen.up and self.exists:
            return [Step(Kind.START, self.name)]
        if self.changes and self.seen.up and not self.stops and not self.name.endswith(RELOADED):
            return [Step(Kind.RESTART, self.name)]
        return []


def merged(older: Mapping[str, Original], newer: Mapping[str, Original]) -> dict[str, Original]:
    """What units were before the first of two plans; field by field, the older knowledge counts."""
    units = dict(newer)
    for name, known in older.items():
        new = newer.get(name, UNTOUCHED)
        units[name] = Original(
            new.enabled if known.enabled is None else known.enabled,
            new.running if known.running is None else known.running,
        )
    return units


def _first(known: bool | None, now: bool) -> bool:  # noqa: FBT001
    return now if known is None else known


def simulate(seen: Mapping[str, Seen], steps: Iterable[Step]) -> dict[str, Seen]:
    """What the steps make of what is, as systemd would: for tests, and for those who want to look ahead."""
    units = dict(seen)
    for step in steps:
        if step.kind is Kind.RELOAD:
            units = {name: _reloaded(unit) for name, unit in units.items()}
            continue
        if step.unit is not None:
            units[step.unit] = _after(units.get(step.unit, NOTHING), step)
    return {name: unit for name, unit in units.items() if unit != NOTHING}


def _after(unit: Seen, step: Step) -> Seen:
    change = msgspec.structs.replace
    match step.kind:
        case Kind.STOP | Kind.RESET:
            return change(unit, active="inactive")
        case Kind.START | Kind.RESTART:
            return change(unit, active="active")
        case Kind.ENABLE:
            return change(unit, file_state="enabled")
        case Kind.DISABLE:
            return change(unit, file_state="disabled")
        case Kind.WRITE | Kind.REMOVE if step.drop_in is None:
            return change(unit, file=step.text)
        case Kind.WRITE | Kind.REMOVE:
            kept = {key: text for key, text in unit.drop_ins.items() if key != step.drop_in}
            return change(unit, drop_ins=kept if step.text is None else {**kept, str(step.drop_in): step.text})
        case Kind.RELOAD:
            return _reloaded(unit)
        case _:
            return unit


def _reloaded(unit: Seen) -> Seen:
    change = msgspec.structs.replace
    if unit.file is not None:
        state = (unit.file_state if unit.enabled else "disabled") if installs(unit.file) else "static"
        return change(unit, load="loaded", file_state=state)
    if not unit.fragment and unit.load == "loaded":
        return change(unit, load="not-found", active="inactive", file_state="")
    return unit
