"""Heartbeats, leases and seats over HTTP. Handlers.

A heartbeat shows the token of its own boot. Leases are for whoever keeps versions: organizers, and root file servers
with the scope `rfs`; what machines do, and asking them to restart, is for organizers and root as everywhere.
"""

from __future__ import annotations

import asyncio

from starlette.requests import Request

from netboot.callers import beating, named, origin_of, reader, writer
from netboot.heartbeats import Heartbeats
from netboot.schema import Heartbeat, Leases, NewOrder, Orders, Seats, SeatsQuery
from services.common.access import LOCAL, Role, require
from services.common.edge import read_body, read_query
from services.common.errors import AccessError, MissingError


class Living:
    """The handlers, around what is known of machines that are up."""

    def __init__(self, heartbeats: Heartbeats) -> None:
        self.heartbeats = heartbeats
        self.machines = heartbeats.store.machines

    async def heartbeat(self, request: Request) -> Orders:
        """A machine is up: how it is, and who is logged in. The answer is what it shall do."""
        boot = named(request, "id")
        machine = beating(request, boot)
        self._check_address(machine, origin_of(request))
        heartbeat = await read_body(request, Heartbeat)
        if not self.heartbeats.knows(boot):
            await asyncio.to_thread(self.heartbeats.admit, boot, machine, heartbeat.version)
        return self.heartbeats.take(boot, heartbeat)

    def _check_address(self, machine: int, origin: str) -> None:
        """A token that was carried elsewhere says nothing of its machine. Raises AccessError("auth.denied")."""
        known = self.machines.by_id(machine)
        if known is not None and origin not in (LOCAL, known.ip):
            told = f"{known.hostname} is registered with address {known.ip}, and this came from {origin}"
            raise AccessError("auth.denied", told, hint="restart the machine")

    async def leases(self, request: Request) -> Leases:
        """Which version each machine runs: these must not be taken away."""
        require(request, Role.ORGANIZER, scope="rfs")
        return await asyncio.to_thread(self.heartbeats.leases)

    async def mark_off(self, request: Request) -> None:
        """End the lease of a machine that is off. One that is up keeps it, by its next heartbeat."""
        writer(request)
        name = named(request, "machine")
        found = self.machines.find(name)
        if found is None and not (name.isdecimal() and len(name) < 19):
            raise MissingError("machine.unknown", f"mdb has told netboot of no machine {name}")
        await asyncio.to_thread(self.heartbeats.store.mark_off, found.id if found else int(name))

    async def seats(self, request: Request) -> Seats:
        """Machines of a channel, what each would boot, what it runs and how it is."""
        reader(request)
        asked = read_query(request, SeatsQuery)
        machines = [each for each in self.machines if asked.channel in (None, each.channel)]
        return await asyncio.to_thread(self.heartbeats.seats, machines, asked.version)

    async def order(self, request: Request) -> None:
        """Ask machines to run a version: those that run another one restart. For a minute, unless asked again."""
        writer(request)
        self.heartbeats.order(await read_body(request, NewOrder))
