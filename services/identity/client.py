"""The typed client of the identity service: `AsyncIdentity` for asyncio, `Identity` that blocks; one call."""

from __future__ import annotations

from services.common.client import AsyncClient, Call, Client
from services.identity.schema import Status

SOCKET = "unix:/run/backline/identity.sock"


def status_call() -> Call[Status]:
    return Call("GET", "/v1/status", Status)


class Identity(Client):
    """The identity service, blocking. Errors are those of `services.common.client`."""

    def status(self) -> Status:
        """What is in force."""
        return self.send(status_call())


class AsyncIdentity(AsyncClient):
    """The identity service, for asyncio. Errors are those of `services.common.client`."""

    async def status(self) -> Status:
        """What is in force."""
        return await self.send(status_call())
