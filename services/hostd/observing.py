"""What is, as the planner takes it: unit files of documents, and systemd's word on the units concerned; and, where
there are such, machines and roots."""

from __future__ import annotations

from collections.abc import Iterable

from services.common.bus import Manager
from services.common.errors import MissingError
from services.hostd.desired import Desired
from services.hostd.host_planner import HostSeen
from services.hostd.machines_seen import Viewer
from services.hostd.planner import Seen
from services.hostd.roots_seen import RootServer
from services.hostd.unit_files import Found, UnitFiles


class Observer:
    """Looks at a host. `viewer` is None where no machines run. Blocks."""

    def __init__(self, manager: Manager, files: UnitFiles, *, viewer: Viewer | None, roots: RootServer) -> None:
        self.manager, self.files, self.viewer, self.roots = manager, files, viewer, roots

    def __call__(self, units: Iterable[str], desired: Desired) -> HostSeen:
        """Those units, and the rest of the host. Raises BusError, OSError, IntegrityError("machine.record")."""
        return HostSeen(
            observe(self.manager, self.files, units),
            self.viewer.seen() if self.viewer is not None else None,
            self.roots.seen(exports=bool(desired.exports)),
        )


def observe(manager: Manager, files: UnitFiles, units: Iterable[str]) -> dict[str, Seen]:
    """The units that are named, and all that have a file of a document. Blocks. Raises BusError, OSError."""
    wanted = set(units)
    found = files.found(wanted)
    seen = {}
    for name in sorted(wanted | set(found)):
        there = found.get(name, Found())
        own = str(files.path(name, None))
        try:
            unit = manager.unit(name)
        except MissingError:
            seen[name] = Seen(file=there.file, drop_ins=there.drop_ins, foreign=there.foreign)
            continue
        seen[name] = Seen(
            load=unit.load,
            active=unit.active,
            file_state=unit.file_state,
            file=there.file,
            drop_ins=there.drop_ins,
            # systemd may not have been told yet that a file of ours is gone.
            fragment="" if unit.fragment == own and "" not in there.foreign else unit.fragment,
            foreign=there.foreign,
        )
    return seen
