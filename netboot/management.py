"""Versions, holdings, channels, pins and boot records for those who run the hall. Handlers.

Everybody may see what is published and where; boots, logs and unknown machines are for organizers, changing for root.
"""

from __future__ import annotations

import asyncio

from starlette.requests import Request
from starlette.responses import Response

from netboot.aliens import Strangers
from netboot.boots import Boots
from netboot.callers import holder, named, publisher, reader, user_reader, writer
from netboot.schema import (
    RFS_MAX,
    Aliens,
    Boot,
    Bootlogs,
    BootsQuery,
    Channel,
    ChannelHistory,
    Channels,
    Extension,
    Holding,
    Holdings,
    Move,
    NewPin,
    NewPointer,
    NewQuarantine,
    NewVersion,
    Pin,
    PinKind,
    Pins,
    Quarantine,
    Quarantines,
    Rollback,
    Version,
    Versions,
    VersionUsers,
)
from netboot.schema import Boots as BootsAnswer
from netboot.why import Why
from netboot.why_schema import WhyAnswer
from services.common.edge import read_body, read_query
from services.common.errors import MissingError, UsageError


class Management:
    """The handlers, around one store and its boots."""

    def __init__(self, boots: Boots, strangers: Strangers, why: Why, *, domain: str) -> None:
        self.boots = boots
        self.store = boots.store
        self.strangers = strangers
        self.domain = domain
        self._why = why

    # Versions and who holds them

    async def versions(self, request: Request) -> Versions:  # noqa: ARG002
        """Every version that netboot knows, the newest first."""
        return Versions(versions=await asyncio.to_thread(self.store.versions))

    async def add_version(self, request: Request) -> Version:
        """Make a version known; the same one again changes nothing."""
        actor = publisher(request)
        return await asyncio.to_thread(self.store.add_version, actor, await read_body(request, NewVersion))

    async def remove_version(self, request: Request) -> None:
        """Forget a version that no channel, pin, server or running machine uses."""
        writer(request)
        await asyncio.to_thread(self.store.remove_version, named(request, "version"))

    async def users(self, request: Request) -> VersionUsers:
        """Who uses a version: channels, pins, machines. Refused before mdb was heard, which has the machines' pins."""
        user_reader(request)
        return await asyncio.to_thread(self.store.users, named(request, "version"))

    async def holdings(self, request: Request) -> Holdings:  # noqa: ARG002
        """Which root file server has confirmed which version."""
        return Holdings(holdings=await asyncio.to_thread(self.store.holdings))

    async def hold(self, request: Request) -> Holding:
        """A root file server holds a version, whole and verified: its own word, or an administrator's."""
        rfs = _rfs(request)
        holder(request, rfs, self.store.machines)
        return await asyncio.to_thread(self.store.hold, rfs, named(request, "version"))

    async def release(self, request: Request) -> None:
        """A root file server holds a version no longer."""
        rfs = _rfs(request)
        holder(request, rfs, self.store.machines)
        await asyncio.to_thread(self.store.release, rfs, named(request, "version"))

    # Channels

    async def channels(self, request: Request) -> Channels:  # noqa: ARG002
        """Every channel's pointer."""
        return Channels(channels=await asyncio.to_thread(self.store.channels))

    async def switch_channel(self, request: Request) -> Channel:
        """Move a channel's pointer, for good or until it is not committed in time."""
        actor = writer(request)
        new = await read_body(request, NewPointer)
        return await asyncio.to_thread(self.store.switch_channel, actor, named(request, "name"), new)

    async def commit_channel(self, request: Request) -> Channel:
        """Keep what a channel points to."""
        actor = writer(request)
        move = await read_body(request, Move)
        return await asyncio.to_thread(self.store.commit_channel, actor, named(request, "name"), move)

    async def extend_channel(self, request: Request) -> Channel:
        """Give what a channel tries more time, and say which machines try it."""
        actor = writer(request)
        more = await read_body(request, Extension)
        return await asyncio.to_thread(self.store.extend_channel, actor, named(request, "name"), more)

    async def rollback_channel(self, request: Request) -> Channel:
        """Point a channel to what it pointed to before."""
        actor = writer(request)
        back = await read_body(request, Rollback)
        return await asyncio.to_thread(self.store.rollback_channel, actor, named(request, "name"), back)

    async def channel_history(self, request: Request) -> ChannelHistory:
        """Who moved a channel, when and why; the newest first."""
        changes = await asyncio.to_thread(self.store.channel_history, named(request, "name"))
        return ChannelHistory(changes=changes)

    # Quarantine

    async def quarantines(self, request: Request) -> Quarantines:  # noqa: ARG002
        """Versions that are not offered, and why."""
        return Quarantines(quarantines=await asyncio.to_thread(self.store.quarantines))

    async def quarantine(self, request: Request) -> Quarantine:
        """Offer a version no longer; where a channel points to it, its previous version counts."""
        actor = writer(request)
        new = await read_body(request, NewQuarantine)
        return await asyncio.to_thread(self.store.quarantine, actor, named(request, "version"), new.why)

    async def lift_quarantine(self, request: Request) -> None:
        """Offer a version again."""
        writer(request)
        await asyncio.to_thread(self.store.lift_quarantine, named(request, "version"))

    # Pins

    async def pins(self, request: Request) -> Pins:  # noqa: ARG002
        """Pins of rooms and types; a machine's own is in mdb."""
        return Pins(pins=await asyncio.to_thread(self.store.pins))

    async def pin(self, request: Request) -> Pin:
        """Have a room or type boot one version, whatever its channels say."""
        actor = writer(request)
        new = await read_body(request, NewPin)
        return await asyncio.to_thread(self.store.pin, actor, _kind(request), named(request, "value"), new)

    async def unpin(self, request: Request) -> None:
        """Take a pin away."""
        writer(request)
        await asyncio.to_thread(self.store.unpin, _kind(request), named(request, "value"))

    # Boots

    async def list_boots(self, request: Request) -> BootsAnswer:
        """What machines were answered, and what became of it; the newest first."""
        reader(request)
        asked = read_query(request, BootsQuery)
        machine = self._machine(asked.machine)
        return BootsAnswer(boots=await asyncio.to_thread(self.boots.recent, machine=machine, limit=asked.limit))

    async def one_boot(self, request: Request) -> Boot:
        """One boot by its id."""
        reader(request)
        return await asyncio.to_thread(self.boots.one, named(request, "id"))

    async def bootlogs(self, request: Request) -> Bootlogs:
        """What failing initrds sent, the newest first."""
        reader(request)
        asked = read_query(request, BootsQuery)
        machine = self._machine(asked.machine)
        return Bootlogs(logs=await asyncio.to_thread(self.boots.logs, machine=machine, limit=asked.limit))

    async def aliens(self, request: Request) -> Aliens:
        """MAC addresses that asked and are unknown, the newest first."""
        reader(request)
        return Aliens(aliens=self.strangers.all())

    async def hostkeys(self, request: Request) -> Response:  # noqa: ARG002
        """The ssh host keys that machines made at their last boot, as lines of a known_hosts file."""
        return Response(await asyncio.to_thread(self.boots.known_hosts, self.domain), media_type="text/plain")

    async def why(self, request: Request) -> WhyAnswer:
        """What a machine boots and why, from its record in mdb to its last boot."""
        reader(request)
        return await self._why.explain(named(request, "name"))

    def _machine(self, text: str | None) -> int | None:
        if text is None:
            return None
        found = self.store.machines.find(text)
        if found is None:
            raise MissingError("machine.unknown", f"mdb has told netboot of no machine {text}")
        return found.id


def _kind(request: Request) -> PinKind:
    try:
        return PinKind(request.path_params["kind"])
    except ValueError as error:
        raise MissingError("pin.kind", "there are pins of rooms and types", hint="room or type") from error


def _rfs(request: Request) -> int:
    number = int(request.path_params["rfs"])
    if number > RFS_MAX:
        raise UsageError("request.path", f"there is no rfs{number}")
    return number
