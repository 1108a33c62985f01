"""The typed client of the DNS service: `AsyncDns` for asyncio, `Dns` that blocks; the calls are described once."""

from __future__ import annotations

from services.common.client import AsyncClient, Call, Client, path_of
from services.dns.schema import Lookup, Status

SOCKET = "unix:/run/backline/dns.sock"


def status_call() -> Call[Status]:
    return Call("GET", "/v1/status", Status)


def lookup_call(name: str) -> Call[Lookup]:
    return Call("GET", path_of("v1", "lookup", name), Lookup)


class Dns(Client):
    """The DNS service, blocking. Errors are those of `services.common.client`."""

    def status(self) -> Status:
        """What is in force."""
        return self.send(status_call())

    def lookup(self, name: str) -> Lookup:
        """What DNS has on a name or an address."""
        return self.send(lookup_call(name))


class AsyncDns(AsyncClient):
    """The DNS service, for asyncio. Errors are those of `services.common.client`."""

    async def status(self) -> Status:
        """What is in force."""
        return await self.send(status_call())

    async def lookup(self, name: str) -> Lookup:
        """What DNS has on a name or an address."""
        return await self.send(lookup_call(name))
