"""A systemd in memory, for tests of what talks to one. What it can do wrong is named: `Fault`.

It behaves as the real one does where services rely on it: jobs end by themselves, results come as JobRemoved, a unit
that does not exist is MissingError, changes are announced to whoever has subscribed. With a `folder`, unit files there
are loaded by `reload_manager`, and units whose file is gone are forgotten.
"""

from __future__ import annotations

import asyncio
import contextlib
import fnmatch
import itertools
import threading
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from enum import Enum, auto
from pathlib import Path

import msgspec

from services.common.bus.model import (
    BusError,
    Event,
    JobRemoved,
    PropertyValue,
    Resync,
    TransientService,
    UnitChanged,
    UnitDetails,
    UnitStatus,
    is_unit_name,
)
from services.common.errors import BusyError, MissingError


class Fault(Enum):
    """What the fake does wrong while the fault is in `FakeSystemd.faults`."""

    UNREACHABLE = auto()  # there is no bus
    DENIED = auto()  # every change is refused
    JOBS_FAIL = auto()  # jobs end with result "failed", units with it
    JOBS_HANG = auto()  # jobs never end


class FakeSystemd:
    """Implements `model.Manager` and `model.Events`."""

    def __init__(self, units: Iterable[UnitDetails] = (), *, folder: Path | None = None) -> None:
        self.units = {unit.name: unit for unit in units}
        self.folder = folder
        self.cancelled: list[str] = []
        self.reloads = 0
        self.state = "running"
        self._set: dict[str, dict[str, PropertyValue]] = {}
        self.faults: set[Fault] = set()
        self._lock = threading.Lock()
        self._jobs = itertools.count(1)
        self._hanging: set[str] = set()
        self._subscribers: list[tuple[asyncio.AbstractEventLoop, asyncio.Queue[Event]]] = []

    def list_units(self, *, states: Sequence[str] = (), patterns: Sequence[str] = ()) -> list[UnitStatus]:
        """Loaded units, by name."""
        self._reachable()
        with self._lock:
            units = sorted(self.units.values(), key=lambda unit: unit.name)
        return [
            UnitStatus(unit.name, unit.description, unit.load, unit.active, unit.sub)
            for unit in units
            if (not states or {unit.load, unit.active, unit.sub} & set(states))
            and (not patterns or any(fnmatch.fnmatchcase(unit.name, pattern) for pattern in patterns))
        ]

    def unit(self, name: str) -> UnitDetails:
        """One unit."""
        self._reachable()
        with self._lock:
            if name not in self.units:
                raise MissingError("unit.unknown", f"there is no unit {name}")
            return self.units[name]

    def start(self, name: str, *, mode: str = "replace") -> str:  # noqa: ARG002
        """Start it: active, running."""
        return self._job(name, "active", "running")

    def stop(self, name: str, *, mode: str = "replace") -> str:  # noqa: ARG002
        """Stop it: inactive, dead."""
        return self._job(name, "inactive", "dead")

    def restart(self, name: str, *, mode: str = "replace") -> str:  # noqa: ARG002
        """Restart it: active, running."""
        return self._job(name, "active", "running")

    def reload(self, name: str, *, mode: str = "replace") -> str:  # noqa: ARG002
        """Reload it: nothing changes."""
        unit = self.unit(name)
        return self._job(name, unit.active, unit.sub)

    def start_transient(self, service: TransientService, *, mode: str = "fail") -> str:  # noqa: ARG002
        """Add a unit and start it."""
        self._reachable()
        with self._lock:
            if service.name in self.units:
                raise BusyError("unit.exists", f"unit {service.name} exists")
            self.units[service.name] = make_unit(service.name, service.description, active="inactive", sub="dead")
        return self._job(service.name, "active", "running")

    def job_goes_on(self, job: str) -> bool:
        """Those that hang do, until they are cancelled."""
        self._reachable()
        return job in self._hanging

    def cancel(self, job: str) -> None:
        """End a job that hangs."""
        self._reachable()
        self.cancelled.append(job)
        self._hanging.discard(job)
        self._announce(JobRemoved(job, "", "canceled"))

    def system_state(self) -> str:
        """Running, unless a test says otherwise."""
        self._reachable()
        return self.state

    def reload_manager(self) -> None:
        """Load the unit files of the folder."""
        self._changing()
        self.reloads += 1
        if self.folder is None:
            return
        files = {path.name: path for path in self.folder.iterdir() if path.is_file() and is_unit_name(path.name)}
        with self._lock:
            for name, path in files.items():
                seen = self.units.get(name, make_unit(name, active="inactive", sub="dead"))
                installable = "[Install]" in path.read_text()
                state = seen.file_state if name in self.units else "disabled"
                state = state if installable else "static"
                self.units[name] = msgspec.structs.replace(
                    seen, load="loaded", fragment=str(path), file_state=state or "disabled"
                )
            for name, unit in list(self.units.items()):
                if unit.fragment.startswith(f"{self.folder}/") and name not in files:
                    del self.units[name]

    def reset_failed(self, name: str) -> None:
        """Inactive, if it has failed."""
        self._changing()
        with self._lock:
            unit = self.units.get(name)
            if unit is not None and unit.active == "failed":
                self.units[name] = msgspec.structs.replace(unit, active="inactive", sub="dead")

    def enable(self, name: str) -> None:
        """Enabled from now on."""
        self._file_state(name, "enabled")

    def disable(self, name: str) -> None:
        """Disabled from now on."""
        self._file_state(name, "disabled")

    def properties(self, name: str) -> dict[str, object]:
        """A few, and what was set."""
        unit = self.unit(name)
        return {"Id": unit.name, "ActiveState": unit.active, "LoadState": unit.load, **self._set.get(name, {})}

    def set_properties(self, name: str, properties: Mapping[str, PropertyValue]) -> None:
        """Kept as they are."""
        self.unit(name)
        self._changing()
        self._set.setdefault(name, {}).update(properties)

    @contextlib.asynccontextmanager
    async def subscribe(self, *, jobs_only: bool = False) -> AsyncIterator[AsyncIterator[Event]]:
        """Events, for a block."""
        self._reachable()
        queue: asyncio.Queue[Event] = asyncio.Queue()
        queue.put_nowait(Resync())
        entry = (asyncio.get_running_loop(), queue)
        self._subscribers.append(entry)

        async def events() -> AsyncIterator[Event]:
            while True:
                event = await queue.get()
                if not (jobs_only and isinstance(event, UnitChanged)):
                    yield event

        try:
            yield events()
        finally:
            self._subscribers.remove(entry)

    def lose_connection(self) -> None:
        """What a bus that restarts looks like to those who have subscribed."""
        self._announce(Resync())

    def set_state(self, name: str, active: str, sub: str) -> None:
        """Change a unit behind everybody's back."""
        with self._lock:
            self.units[name] = msgspec.structs.replace(self.units[name], active=active, sub=sub)
        self._announce(UnitChanged(name, active, sub))

    def _job(self, name: str, active: str, sub: str) -> str:
        self.unit(name)
        self._changing()
        path = f"/org/freedesktop/systemd1/job/{next(self._jobs)}"
        if Fault.JOBS_HANG in self.faults:
            self._hanging.add(path)
            return path
        failed = Fault.JOBS_FAIL in self.faults
        self.set_state(name, "failed" if failed else active, "failed" if failed else sub)
        self._announce(JobRemoved(path, name, "failed" if failed else "done"))
        return path

    def _file_state(self, name: str, state: str) -> None:
        unit = self.unit(name)
        self._changing()
        with self._lock:
            self.units[name] = msgspec.structs.replace(unit, file_state=state)

    def _changing(self) -> None:
        self._reachable()
        if Fault.DENIED in self.faults:
            raise BusError("bus.denied", "systemd refused: access denied")

    def _reachable(self) -> None:
        if Fault.UNREACHABLE in self.faults:
            raise BusError("bus.unreachable", "no answer from the bus at fake:")

    def _announce(self, event: Event) -> None:
        for loop, queue in list(self._subscribers):
            loop.call_soon_threadsafe(queue.put_nowait, event)


def make_unit(
    name: str, description: str = "", *, load: str = "loaded", active: str = "active", sub: str = "running"
) -> UnitDetails:
    """A unit with everything filled in."""
    return UnitDetails(
        name=name,
        description=description or name,
        load=load,
        active=active,
        sub=sub,
        file_state="enabled",
        active_since=1_700_000_000.5,
        invocation="00" * 16,
        main_pid=100,
        result="success",
        restarts=0,
    )
