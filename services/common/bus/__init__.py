"""systemd over D-Bus, behind one adapter: no other module of the house imports pystemd or dbus_next.

`model` has the types, the errors and the protocols that services are written against; `manager` answers calls through
pystemd (blocking: call it from a thread); `signals` follows changes through dbus-next (asyncio); `jobs` joins the two;
`fake` is a systemd in memory with named faults, for tests. Importing this package imports neither library.
"""

from services.common.bus.model import (
    SYSTEM_BUS,
    BusError,
    Event,
    Events,
    JobRemoved,
    Manager,
    Resync,
    TransientService,
    UnitChanged,
    UnitDetails,
    UnitStatus,
    is_unit_name,
    unit_from_path,
)

__all__ = [
    "SYSTEM_BUS",
    "BusError",
    "Event",
    "Events",
    "JobRemoved",
    "Manager",
    "Resync",
    "TransientService",
    "UnitChanged",
    "UnitDetails",
    "UnitStatus",
    "is_unit_name",
    "unit_from_path",
]
