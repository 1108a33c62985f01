"""The typed client of netboot: `AsyncNetboot` for asyncio, `Netboot` that blocks; the calls are described once."""

from __future__ import annotations

from netboot.schema import (
    Aliens,
    Boot,
    Bootlogs,
    Boots,
    Channel,
    ChannelHistory,
    Channels,
    Holding,
    Holdings,
    Move,
    NewPin,
    NewPointer,
    NewVersion,
    Pin,
    PinKind,
    Pins,
    Version,
    Versions,
)
from netboot.why_schema import WhyAnswer
from services.common.client import AsyncClient, Call, Client, Nothing, path_of

SOCKET = "unix:/run/backline/netboot.sock"


def versions_call() -> Call[Versions]:
    return Call("GET", "/v1/versions", Versions)


def add_version_call(new: NewVersion) -> Call[Version]:
    return Call("POST", "/v1/versions", Version, body=new)


def remove_version_call(version: str) -> Call[Nothing]:
    return Call("DELETE", path_of("v1", "versions", version), Nothing)


def holdings_call() -> Call[Holdings]:
    return Call("GET", "/v1/holdings", Holdings)


def hold_call(rfs: int, version: str) -> Call[Holding]:
    return Call("PUT", path_of("v1", "holdings", str(rfs), version), Holding)


def release_call(rfs: int, version: str) -> Call[Nothing]:
    return Call("DELETE", path_of("v1", "holdings", str(rfs), version), Nothing)


def channels_call() -> Call[Channels]:
    return Call("GET", "/v1/channels", Channels)


def set_channel_call(name: str, new: NewPointer) -> Call[Channel]:
    return Call("PUT", path_of("v1", "channels", name), Channel, body=new)


def commit_channel_call(name: str, move: Move) -> Call[Channel]:
    return Call("POST", path_of("v1", "channels", name, "commit"), Channel, body=move)


def revert_channel_call(name: str, move: Move) -> Call[Channel]:
    return Call("POST", path_of("v1", "channels", name, "revert"), Channel, body=move)


def channel_history_call(name: str) -> Call[ChannelHistory]:
    return Call("GET", path_of("v1", "channels", name, "history"), ChannelHistory)


def pins_call() -> Call[Pins]:
    return Call("GET", "/v1/pins", Pins)


def pin_call(kind: PinKind, value: str, new: NewPin) -> Call[Pin]:
    return Call("PUT", path_of("v1", "pins", kind.value, value), Pin, body=new)


def unpin_call(kind: PinKind, value: str) -> Call[Nothing]:
    return Call("DELETE", path_of("v1", "pins", kind.value, value), Nothing)


def boots_call(machine: str | None = None, *, limit: int | None = None) -> Call[Boots]:
    return Call("GET", "/v1/boots", Boots, query={"machine": machine, "limit": limit})


def boot_call(id: str) -> Call[Boot]:
    return Call("GET", path_of("v1", "boots", id), Boot)


def bootlogs_call(machine: str | None = None, *, limit: int | None = None) -> Call[Bootlogs]:
    return Call("GET", "/v1/bootlogs", Bootlogs, query={"machine": machine, "limit": limit})


def why_call(name: str) -> Call[WhyAnswer]:
    return Call("GET", path_of("v1", "why", name), WhyAnswer)


def aliens_call() -> Call[Aliens]:
    return Call("GET", "/v1/aliens", Aliens)


class Netboot(Client):
    """netboot, blocking. Errors are those of `services.common.client`."""

    def versions(self) -> Versions:
        """Every version, the newest first."""
        return self.send(versions_call())

    def add_version(self, new: NewVersion) -> Version:
        """Make a version known; the same one again changes nothing."""
        return self.send(add_version_call(new))

    def remove_version(self, version: str) -> None:
        """Forget a version that nobody uses."""
        self.send(remove_version_call(version))

    def holdings(self) -> Holdings:
        """Which root file server holds what."""
        return self.send(holdings_call())

    def hold(self, rfs: int, version: str) -> Holding:
        """A root file server holds a version."""
        return self.send(hold_call(rfs, version))

    def release(self, rfs: int, version: str) -> None:
        """It holds it no longer."""
        self.send(release_call(rfs, version))

    def channels(self) -> Channels:
        """Every channel's pointer."""
        return self.send(channels_call())

    def set_channel(self, name: str, new: NewPointer) -> Channel:
        """Move a channel's pointer."""
        return self.send(set_channel_call(name, new))

    def commit_channel(self, name: str, move: Move | None = None) -> Channel:
        """Keep what a channel points to."""
        return self.send(commit_channel_call(name, move or Move()))

    def revert_channel(self, name: str, move: Move | None = None) -> Channel:
        """Point to the previous version again."""
        return self.send(revert_channel_call(name, move or Move()))

    def channel_history(self, name: str) -> ChannelHistory:
        """Who moved it, when and why."""
        return self.send(channel_history_call(name))

    def pins(self) -> Pins:
        """Pins of rooms and types."""
        return self.send(pins_call())

    def pin(self, kind: PinKind, value: str, new: NewPin) -> Pin:
        """Pin a room or type."""
        return self.send(pin_call(kind, value, new))

    def unpin(self, kind: PinKind, value: str) -> None:
        """Take a pin away."""
        self.send(unpin_call(kind, value))

    def boots(self, machine: str | None = None, *, limit: int | None = None) -> Boots:
        """What machines were answered, the newest first."""
        return self.send(boots_call(machine, limit=limit))

    def boot(self, id: str) -> Boot:
        """One boot."""
        return self.send(boot_call(id))

    def bootlogs(self, machine: str | None = None, *, limit: int | None = None) -> Bootlogs:
        """What failing initrds sent, the newest first."""
        return self.send(bootlogs_call(machine, limit=limit))

    def why(self, name: str) -> WhyAnswer:
        """What a machine boots, and why."""
        return self.send(why_call(name))

    def aliens(self) -> Aliens:
        """Unknown MAC addresses that asked."""
        return self.send(aliens_call())


class AsyncNetboot(AsyncClient):
    """netboot, for asyncio. Errors are those of `services.common.client`."""

    async def boots(self, machine: str | None = None, *, limit: int | None = None) -> Boots:
        """What machines were answered, the newest first."""
        return await self.send(boots_call(machine, limit=limit))

    async def why(self, name: str) -> WhyAnswer:
        """What a machine boots, and why."""
        return await self.send(why_call(name))

    async def channels(self) -> Channels:
        """Every channel's pointer."""
        return await self.send(channels_call())

    async def versions(self) -> Versions:
        """Every version, the newest first."""
        return await self.send(versions_call())
