"""What is, as the planner takes it: unit files of documents, and systemd's word on the units concerned."""

from __future__ import annotations

from collections.abc import Iterable

from services.common.bus import Manager
from services.common.errors import MissingError
from services.hostd.planner import Seen
from services.hostd.unit_files import Found, UnitFiles


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
