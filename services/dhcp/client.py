"""The typed client of the DHCP service: `AsyncDhcp` for asyncio, `Dhcp` that blocks; the calls are described once."""

from __future__ import annotations

from services.common.client import AsyncClient, Call, Client, path_of
from services.dhcp.schema import Leases, Offer, Status

SOCKET = "unix:/run/backline/dhcp.sock"


def status_call() -> Call[Status]:
    return Call("GET", "/v1/status", Status)


def leases_call(mac: str | None = None) -> Call[Leases]:
    return Call("GET", path_of("v1", "leases", *([mac] if mac else [])), Leases)


def offer_call(mac: str) -> Call[Offer]:
    return Call("GET", path_of("v1", "offer", mac), Offer)


class Dhcp(Client):
    """The service, blocking. Errors are those of `services.common.client`."""

    def status(self) -> Status:
        """What is in force."""
        return self.send(status_call())

    def leases(self, mac: str | None = None) -> Leases:
        """Leases that have not ended, of one MAC address if given."""
        return self.send(leases_call(mac))

    def offer(self, mac: str) -> Offer:
        """What a machine would be told."""
        return self.send(offer_call(mac))


class AsyncDhcp(AsyncClient):
    """The service, for asyncio. Errors are those of `services.common.client`."""

    async def status(self) -> Status:
        """What is in force."""
        return await self.send(status_call())

    async def leases(self, mac: str | None = None) -> Leases:
        """Leases that have not ended, of one MAC address if given."""
        return await self.send(leases_call(mac))

    async def offer(self, mac: str) -> Offer:
        """What a machine would be told."""
        return await self.send(offer_call(mac))
