"""What hostd knows of its host: identity, units, journals. No HTTP, and nothing here changes anything.

Calls block; the application runs them in threads.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from pathlib import Path

from services.common.bus import Manager, is_unit_name
from services.common.errors import MissingError, UsageError
from services.common.identity import ImageIdentity
from services.hostd.journal import JournalReader
from services.hostd.schema import Disk, Host, Journal, JournalQuery, Unit, UnitDetail, Units, UnitsQuery

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class Store:
    """One host, through one systemd and one journal."""

    def __init__(
        self, *, manager: Manager, journal: JournalReader, identity: ImageIdentity, disks: Sequence[str] = ()
    ) -> None:
        self.manager = manager
        self.journal_reader = journal
        self.identity = identity
        self.disks = disks

    def host(self) -> Host:
        """This host now."""
        return Host(
            hostname=socket.gethostname(),
            boot_id=BOOT_ID.read_text().strip(),
            role=self.identity.role,
            version=self.identity.version,
            state="configured" if self.identity.configured else "unconfigured",
            disks=disks_of(self.disks),
        )

    def units(self, query: UnitsQuery) -> Units:
        """Loaded units that fit the query, by name. Raises BusError."""
        found = self.manager.list_units(states=query.state, patterns=query.match)
        return Units([Unit(unit.name, unit.description, unit.load, unit.active, unit.sub) for unit in found])

    def unit(self, name: str) -> UnitDetail:
        """One unit. Raises UsageError("unit.name"), MissingError("unit.unknown"), BusError."""
        unit = self.manager.unit(checked(name))
        return UnitDetail(
            name=unit.name,
            description=unit.description,
            load=unit.load,
            active=unit.active,
            sub=unit.sub,
            file_state=unit.file_state,
            active_since=unit.active_since or None,
            invocation=unit.invocation,
            main_pid=unit.main_pid or None,
            result=unit.result,
            restarts=unit.restarts,
        )

    def journal(self, name: str, query: JournalQuery) -> Journal:
        """The newest journal entries of a unit.

        A unit with entries need not exist any more; one with neither is MissingError("unit.unknown"). Raises also
        UsageError("unit.name"), BusError, HostError("journal.*").
        """
        journal = self.journal_reader.read(checked(name), lines=query.lines)
        if not journal.entries:
            try:
                self.manager.unit(name)
            except MissingError as error:
                raise MissingError("unit.unknown", f"there is no unit {name}, and no journal of one") from error
        return journal


def disks_of(folders: Sequence[str]) -> list[Disk]:
    """The file systems of folders, each once. What is not there, or cannot be looked at, is left out."""
    found: dict[int, Disk] = {}
    for folder in folders:
        try:
            device, disk = Path(folder).stat().st_dev, os.statvfs(folder)
        except OSError:
            continue
        found.setdefault(device, Disk(folder, disk.f_blocks * disk.f_frsize, disk.f_bavail * disk.f_frsize))
    return list(found.values())


def checked(name: str) -> str:
    """The name of one unit. Raises UsageError("unit.name")."""
    if not is_unit_name(name):
        raise UsageError("unit.name", f"{name[:80]!r} is not the name of a unit", hint="write it as nginx.service")
    return name
