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
    Extension,
    Heartbeat,
    Holding,
    Holdings,
    Leases,
    Move,
    NewOrder,
    NewPin,
    NewPointer,
    NewQuarantine,
    NewVersion,
    Orders,
    Pin,
    PinKind,
    Pins,
    Quarantine,
    Quarantines,
    Rollback,
    Seats,
    Version,
    Versions,
    VersionUsers,
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


def users_call(version: str) -> Call[VersionUsers]:
    return Call("GET", path_of("v1", "versions", version, "users"), VersionUsers)


def holdings_call() -> Call[Holdings]:
    return Call("GET", "/v1/holdings", Holdings)


def hold_call(rfs: int, version: str) -> Call[Holding]:
    return Call("PUT", path_of("v1", "holdings", str(rfs), version), Holding)


def release_call(rfs: int, version: str) -> Call[Nothing]:
    return Call("DELETE", path_of("v1", "holdings", str(rfs), version), Nothing)


def channels_call() -> Call[Channels]:
    return Call("GET", "/v1/channels", Channels)


def switch_channel_call(name: str, new: NewPointer) -> Call[Channel]:
    return Call("POST", path_of("v1", "channels", name, "switch"), Channel, body=new)


def extend_channel_call(name: str, more: Extension) -> Call[Channel]:
    return Call("POST", path_of("v1", "channels", name, "extend"), Channel, body=more)


def commit_channel_call(name: str, move: Move) -> Call[Channel]:
    return Call("POST", path_of("v1", "channels", name, "commit"), Channel, body=move)


def rollback_channel_call(name: str, back: Rollback) -> Call[Channel]:
    return Call("POST", path_of("v1", "channels", name, "rollback"), Channel, body=back)


def channel_history_call(name: str) -> Call[ChannelHistory]:
    return Call("GET", path_of("v1", "channels", name, "history"), ChannelHistory)


def quarantines_call() -> Call[Quarantines]:
    return Call("GET", "/v1/quarantine", Quarantines)


def quarantine_call(version: str, new: NewQuarantine) -> Call[Quarantine]:
    return Call("PUT", path_of("v1", "quarantine", version), Quarantine, body=new)


def lift_quarantine_call(version: str) -> Call[Nothing]:
    return Call("DELETE", path_of("v1", "quarantine", version), Nothing)


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


def leases_call() -> Call[Leases]:
    return Call("GET", "/v1/leases", Leases)


def mark_off_call(machine: str) -> Call[Nothing]:
    return Call("DELETE", path_of("v1", "leases", machine), Nothing)


def seats_call(channel: str | None = None, *, version: str | None = None) -> Call[Seats]:
    return Call("GET", "/v1/seats", Seats, query={"channel": channel, "version": version})


def order_call(new: NewOrder) -> Call[Nothing]:
    return Call("POST", "/v1/orders", Nothing, body=new)


def heartbeat_call(boot: str, token: str, heartbeat: Heartbeat) -> Call[Orders]:
    headers = {"authorization": f"Bearer {token}"}
    return Call("PUT", path_of("v1", "boots", boot, "heartbeat"), Orders, body=heartbeat, headers=headers)


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

    def users(self, version: str) -> VersionUsers:
        """Who uses a version, other than the servers that hold it."""
        return self.send(users_call(version))

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

    def switch_channel(self, name: str, new: NewPointer) -> Channel:
        """Move a channel's pointer."""
        return self.send(switch_channel_call(name, new))

    def commit_channel(self, name: str, move: Move | None = None) -> Channel:
        """Keep what a channel points to."""
        return self.send(commit_channel_call(name, move or Move()))

    def extend_channel(self, name: str, more: Extension) -> Channel:
        """More time for what it tries."""
        return self.send(extend_channel_call(name, more))

    def rollback_channel(self, name: str, back: Rollback | None = None) -> Channel:
        """Point to the previous version again."""
        return self.send(rollback_channel_call(name, back or Rollback()))

    def channel_history(self, name: str) -> ChannelHistory:
        """Who moved it, when and why."""
        return self.send(channel_history_call(name))

    def quarantines(self) -> Quarantines:
        """Versions that are not offered."""
        return self.send(quarantines_call())

    def quarantine(self, version: str, new: NewQuarantine) -> Quarantine:
        """Offer a version no longer."""
        return self.send(quarantine_call(version, new))

    def lift_quarantine(self, version: str) -> None:
        """Offer it again."""
        self.send(lift_quarantine_call(version))

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

    def leases(self) -> Leases:
        """Which version each machine runs."""
        return self.send(leases_call())

    def mark_off(self, machine: str) -> None:
        """End the lease of a machine that is off."""
        self.send(mark_off_call(machine))

    def seats(self, channel: str | None = None, *, version: str | None = None) -> Seats:
        """Machines, and how they are."""
        return self.send(seats_call(channel, version=version))

    def order(self, new: NewOrder) -> None:
        """Ask machines to run a version."""
        self.send(order_call(new))

    def heartbeat(self, boot: str, token: str, heartbeat: Heartbeat) -> Orders:
        """As a machine that is up."""
        return self.send(heartbeat_call(boot, token, heartbeat))

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

    async def leases(self) -> Leases:
        """Which version each machine runs."""
        return await self.send(leases_call())

    async def seats(self, channel: str | None = None, *, version: str | None = None) -> Seats:
        """Machines, and how they are."""
        return await self.send(seats_call(channel, version=version))

    async def order(self, new: NewOrder) -> None:
        """Ask machines to run a version."""
        await self.send(order_call(new))

    async def switch_channel(self, name: str, new: NewPointer) -> Channel:
        """Move a channel's pointer."""
        return await self.send(switch_channel_call(name, new))

    async def extend_channel(self, name: str, more: Extension) -> Channel:
        """More time for what it tries."""
        return await self.send(extend_channel_call(name, more))

    async def commit_channel(self, name: str, move: Move | None = None) -> Channel:
        """Keep what a channel points to."""
        return await self.send(commit_channel_call(name, move or Move()))

    async def rollback_channel(self, name: str, back: Rollback | None = None) -> Channel:
        """Point to the previous version again."""
        return await self.send(rollback_channel_call(name, back or Rollback()))

    async def quarantine(self, version: str, new: NewQuarantine) -> Quarantine:
        """Offer a version no longer."""
        return await self.send(quarantine_call(version, new))

    async def lift_quarantine(self, version: str) -> None:
        """Offer it again."""
        await self.send(lift_quarantine_call(version))

    async def channel_history(self, name: str) -> ChannelHistory:
        """Who moved it, when and why."""
        return await self.send(channel_history_call(name))

    async def channels(self) -> Channels:
        """Every channel's pointer."""
        return await self.send(channels_call())

    async def quarantines(self) -> Quarantines:
        """Versions that are not offered."""
        return await self.send(quarantines_call())

    async def versions(self) -> Versions:
        """Every version, the newest first."""
        return await self.send(versions_call())
