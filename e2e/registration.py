"""What a lab tells gw's machine database, as an administrator would: its seats, so that gw has an address for each.

Everything goes the way that it goes in a hall: mdb's own API over its unix socket, its feed, Kea. A seat is powered on
when Kea knows it; one that the topology calls a stranger is told to nobody, and registers itself.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from e2e.topology import mac_of
from services.common.feed.wire import Position
from services.dhcp.client import Dhcp
from services.dhcp.schema import State, Status
from services.mdb.client import Mdb
from services.mdb.schema import Edits, Machine, MachineType, NewMachine

if TYPE_CHECKING:
    from e2e.node import Node

NUMBERS = 2
"""How many root and home file servers the seats are spread over: a server with two cards is two of them."""


def register(gateway: Node, seats: Sequence[Node], *, seconds: float) -> dict[str, Machine]:
    """Make every seat a machine of mdb that is none yet; returns all of them by name, once Kea has them.

    Raises the errors of `services.common.client`, and WaitFailed when gw does not get there in time.
    """
    deadline = time.monotonic() + seconds
    with Mdb(gateway.service("mdb", seconds=seconds), seconds=seconds) as mdb:
        known = {machine.hostname: machine for machine in mdb.machines().machines}
        new = [
            NewMachine(
                hostname=seat.name,
                mac=seat.spec.nics[0].mac or mac_of(seat.name, 0),
                type=MachineType.USER,
                room=seat.spec.nics[0].segment,
                rfs=(len(known) + number) % NUMBERS,
                hfs=(len(known) + number) % NUMBERS,
            )
            for number, seat in enumerate(seats)
            if seat.name not in known
        ]
        made = mdb.edit(Edits(create=new)).machines if new else []
    known |= {machine.hostname: machine for machine in made}
    revision = max((machine.revision for machine in made), default=0)
    with Dhcp(gateway.service("dhcp", seconds=seconds)) as dhcp:
        gateway.wait_until(
            f"Kea with revision {revision} of mdb",
            lambda: _applied(dhcp.status()) >= revision,
            seconds=max(1.0, deadline - time.monotonic()),
        )
    return {seat.name: known[seat.name] for seat in seats}


def _applied(status: Status) -> int:
    """mdb's revision that Kea answers with; -1 before there is one."""
    position = Position.parse(status.position) if status.state is State.LIVE else None
    return position.revision if position else -1
