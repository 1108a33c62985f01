"""The HTTP face of the DHCP service: what is in force, who has a lease, and what a machine would be told. Read-only."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from starlette.requests import Request

from services.common.app import Application, create_app
from services.common.edge import Operation
from services.dhcp.schema import Leases, Offer, Status
from services.dhcp.store import Store


class Dhcp:
    """The handlers, around one store."""

    def __init__(self, store: Store) -> None:
        self.store = store

    async def status(self, request: Request) -> Status:  # noqa: ARG002
        """What is in force, since when, and which machines are left out and why."""
        return self.store.status()

    async def leases(self, request: Request) -> Leases:  # noqa: ARG002
        """Every lease of Kea's, by address."""
        return await asyncio.to_thread(self.store.leases)

    async def leases_of(self, request: Request) -> Leases:
        """The leases of one MAC address; none is no error."""
        return await asyncio.to_thread(self.store.leases, request.path_params["mac"])

    async def offer(self, request: Request) -> Offer:
        """What a machine with this MAC address would be told now, and what it has been given."""
        return await asyncio.to_thread(self.store.offer, request.path_params["mac"])


def make_app(store: Store) -> Application:
    """The service's application; it follows mdb while it lives."""
    dhcp = Dhcp(store)

    @contextlib.asynccontextmanager
    async def lifespan(app: Application) -> AsyncIterator[None]:
        store.measure(app.metrics)
        task = asyncio.create_task(store.follow())
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def following() -> None:
        await store.follower.fresh()

    return create_app(
        service="dhcp",
        description="What Kea answers: reservations from mdb, leases, and what a machine would be told. Read-only.",
        checks={"kea": store.healthy, "mdb": following},
        lifespan=lifespan,
        routes=[
            Operation("GET", "/v1/status", dhcp.status, summary="What is in force", answer=Status),
            Operation("GET", "/v1/leases", dhcp.leases, summary="Leases", answer=Leases, errors=[404]),
            Operation(
                "GET", "/v1/leases/{mac}", dhcp.leases_of, summary="Leases of a MAC", answer=Leases, errors=[400, 404]
            ),
            Operation(
                "GET", "/v1/offer/{mac}", dhcp.offer, summary="What a machine is told", answer=Offer, errors=[400]
            ),
        ],
    )
