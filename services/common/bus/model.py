"""What the house knows of systemd: units, jobs, events, and the two protocols that services use.

Names and states are systemd's own (org.freedesktop.systemd1(5)). A bus that cannot be reached or refuses is a
`BusError`; a unit that does not exist is MissingError("unit.unknown").
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Protocol

import msgspec

from services.common.errors import BacklineError, Exit

SYSTEM_BUS = "unix:path=/run/dbus/system_bus_socket"

PropertyValue = str | int | bool | Sequence[str]

_TYPES = "automount|device|mount|path|scope|service|slice|socket|swap|target|timer"
_UNIT_NAME = re.compile(rf"[A-Za-z0-9:_.\\@][A-Za-z0-9:_.\\@-]*\.(?:{_TYPES})|-\.(?:slice|mount)")
_ESCAPED = re.compile(r"_([0-9a-f]{2})")
_UNIT_PATH = "/org/freedesktop/systemd1/unit/"


class BusError(BacklineError):
    """`bus.unreachable`, `bus.denied`, `bus.late` or `bus.failed`: systemd could not be asked, or said no."""

    exit = Exit.HOST


class UnitStatus(msgspec.Struct, frozen=True):
    """One unit in a list: the states of ListUnits."""

    name: str
    description: str
    load: str
    active: str
    sub: str


class UnitDetails(msgspec.Struct, frozen=True):
    """One unit looked at closely. Times are seconds since the epoch, 0 for never; `main_pid` 0 for none."""

    name: str
    description: str
    load: str
    active: str
    sub: str
    file_state: str
    active_since: float
    invocation: str
    main_pid: int = 0
    result: str = ""
    restarts: int = 0
    fragment: str = ""
    """The path of its unit file; empty for a unit that has none."""


@dataclass(frozen=True)
class TransientService:
    """A service that exists as long as it runs (StartTransientUnit). The program is an absolute path.

    `properties` are further unit properties by systemd's names; pystemd must know their signature.
    """

    name: str
    argv: Sequence[str]
    description: str = ""
    user: str | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    working_directory: str | None = None
    slice: str | None = None
    remain_after_exit: bool = False
    oneshot: bool = False
    properties: Mapping[str, PropertyValue] = field(default_factory=dict)


class Manager(Protocol):
    """Blocking calls to one systemd. Raises BusError; MissingError("unit.unknown") where a unit is named."""

    def list_units(self, *, states: Sequence[str] = (), patterns: Sequence[str] = ()) -> list[UnitStatus]:
        """Loaded units, by name; `states` and shell `patterns` narrow the list, several of a kind mean "any"."""

    def unit(self, name: str) -> UnitDetails:
        """One unit; it is loaded for that if need be."""

    def start(self, name: str, *, mode: str = "replace") -> str:
        """Enqueue a start, and return the job's object path."""

    def stop(self, name: str, *, mode: str = "replace") -> str:
        """Enqueue a stop, and return the job's object path."""

    def restart(self, name: str, *, mode: str = "replace") -> str:
        """Enqueue a restart, and return the job's object path."""

    def reload(self, name: str, *, mode: str = "replace") -> str:
        """Enqueue a reload of the unit's own configuration, and return the job's object path."""

    def start_transient(self, service: TransientService, *, mode: str = "fail") -> str:
        """Create and start a transient service, and return the job's object path."""

    def job_goes_on(self, job: str) -> bool:
        """Is a job, by its object path, waiting or running? One that systemd does not know has ended."""

    def cancel(self, job: str) -> None:
        """Cancel a job by its object path; one that has ended is no error."""

    def system_state(self) -> str:
        """running, degraded, starting, stopping... as `systemctl is-system-running` says it."""

    def reload_manager(self) -> None:
        """Read all unit files again (daemon-reload), and return when that is done."""

    def reset_failed(self, name: str) -> None:
        """Forget that a unit has failed, and how often it was started; a unit that is not loaded is no error."""

    def enable(self, name: str) -> None:
        """Make the symbolic links that the unit's [Install] section asks for."""

    def disable(self, name: str) -> None:
        """Remove the symbolic links that lead to the unit."""

    def properties(self, name: str) -> dict[str, object]:
        """Every property of a unit, as systemd names them."""

    def set_properties(self, name: str, properties: Mapping[str, PropertyValue]) -> None:
        """Change properties of a loaded unit until the next boot (SetUnitProperties, runtime)."""


@dataclass(frozen=True)
class Resync:
    """The subscription is (again) in place: what happened before is unknown, so read the state anew."""


@dataclass(frozen=True)
class JobRemoved:
    """A job ended. `result` is done, canceled, timeout, failed, dependency, skipped, invalid..."""

    job: str
    unit: str
    result: str


@dataclass(frozen=True)
class UnitChanged:
    """Properties of a unit changed; those states that are part of the signal are given, others are None."""

    unit: str
    active: str | None = None
    sub: str | None = None


Event = Resync | JobRemoved | UnitChanged


class Events(Protocol):
    """Signals of one systemd."""

    def subscribe(self, *, jobs_only: bool = False) -> AbstractAsyncContextManager[AsyncIterator[Event]]:
        """Events from now on, for an `async with` block; the first one is Resync, as is one after every gap.

        With `jobs_only` no changes of units: a reload of systemd tells several of each, thousands in all.
        """


def is_unit_name(name: str) -> bool:
    """Is this the name of one unit: no pattern, no option, no path (systemd.unit(5), 255 characters at most)?"""
    return len(name) <= 255 and _UNIT_NAME.fullmatch(name) is not None


def unit_from_path(path: str) -> str | None:
    """The unit of an object path, as sd_bus_path_decode(3) reads it; None for another object."""
    if not path.startswith(_UNIT_PATH):
        return None
    escaped = path.removeprefix(_UNIT_PATH)
    if escaped == "_":
        return ""
    raw = _ESCAPED.sub(lambda found: chr(int(found[1], 16)), escaped)
    return raw.encode("latin-1", "replace").decode(errors="replace")


def unit_to_path(name: str) -> str:
    """The object path of a unit, as sd_bus_path_encode(3) writes it."""
    escaped = "".join(
        chr(byte) if byte < 128 and chr(byte).isalnum() and not (index == 0 and chr(byte).isdigit()) else f"_{byte:02x}"
        for index, byte in enumerate(name.encode())
    )
    return _UNIT_PATH + (escaped or "_")
