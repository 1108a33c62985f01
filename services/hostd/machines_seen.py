"""Machines as they are, read by who changes nothing: the supervisor, which plans, and tells others."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable

import msgspec

from services.common.bus import Manager
from services.common.errors import BacklineError, MissingError
from services.hostd import machines_render
from services.hostd.machines_images import Images
from services.hostd.machines_planner import MachineSeen, MachinesSeen
from services.hostd.machines_records import Records
from services.hostd.machines_schema import Record, Running, Status, Step


class MachineDetail(msgspec.Struct, frozen=True):
    """One machine: how it is, and its whole record."""

    status: Status
    record: Record
    home: str


class Machines(msgspec.Struct, frozen=True):
    """The machines of an iron, by name; `held` are the versions that can run here, as ROLE@VERSION."""

    machines: list[Status]
    held: list[str]


class Viewer:
    """Looks at the machines below a folder, and asks systemd whether they run. Blocks."""

    def __init__(self, manager: Manager, records: Records, images: Images) -> None:
        self.manager, self.records, self.images = manager, records, images

    def seen(self) -> MachinesSeen:
        """All of it, as the planner takes it. Raises BusError, OSError, IntegrityError("machine.record")."""
        return MachinesSeen(
            machines={
                record.machine.name: self._seen(record, self._active(record.machine.name)) for record in self._all()
            },
            aside={name: self._aside(record) for name, (_, record) in self.records.aside().items()},
            held=self.held(),
        )

    def held(self) -> list[str]:
        """Versions that can run here."""
        return [f"{role}@{version}" for role in self.images.roles() for version in self.images.versions(role)]

    def machines(self) -> Machines:
        """All machines."""
        return Machines([self._status(record) for record in self._all()], self.held())

    def machine(self, name: str) -> MachineDetail:
        """One machine. Raises MissingError("machine.unknown"), UsageError("machine.name")."""
        record = self.records.load(name)
        return MachineDetail(self._status(record), record, str(self.records.home(name)))

    def _all(self) -> Iterable[Record]:
        for name in self.records.names():
            with contextlib.suppress(MissingError):  # removed meanwhile
                yield self.records.load(name)

    def _active(self, name: str) -> str:
        try:
            return self.manager.unit(machines_render.unit(name)).active
        except MissingError:
            return "inactive"

    def _status(self, record: Record) -> Status:
        try:
            state = self._active(record.machine.name)
        except BacklineError:
            state = "unknown"
        return status(record, state)

    @staticmethod
    def _seen(record: Record, active: str) -> MachineSeen:
        running, before, changing = record.current, record.previous, False
        if record.change is not None and record.change.step is not Step.FAILED:
            running, before, changing = record.change.to, record.current, True
        return _machine(record, running, before, active=active, changing=changing)

    @staticmethod
    def _aside(record: Record) -> MachineSeen:
        seen = _machine(record, record.current, record.previous, active="inactive", changing=False)
        return msgspec.structs.replace(seen, wanted="stopped")


def _machine(record: Record, running: Running, before: Running | None, *, active: str, changing: bool) -> MachineSeen:
    machine = record.machine
    return MachineSeen(
        role=machine.role,
        version=running.version,
        network=machine.network,
        resources=machine.resources,
        folders=dict(machine.folders),
        wanted=record.wanted,
        active=active,
        previous=before.version if before is not None else None,
        changing=changing,
    )


def status(record: Record, state: str) -> Status:
    """A machine as a list shows it; nobody looks into it."""
    return Status(
        name=record.machine.name,
        role=record.machine.role,
        version=record.running.version,
        state=state,
        wanted=record.wanted,
        previous=record.previous.version if record.previous else "",
        change=f"to {record.change.to.version}: {record.change.step.value}" if record.change else "",
    )
