"""The HTTP face of the DNS service: what is in force, and what DNS has on a name. Read-only, and open to everybody.

All that it tells is in DNS anyway, or was refused there.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from starlette.requests import Request

from services.common.app import Application, create_app
from services.common.edge import Operation
from services.common.identity import ImageIdentity
from services.dns.schema import Lookup, Status
from services.dns.work import Worker


class Dns:
    """The handlers, around one worker."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker

    async def status(self, request: Request) -> Status:  # noqa: ARG002
        """Zones with their serials, what is left out of them and why, and when they were last brought into force."""
        return self.worker.status()

    async def lookup(self, request: Request) -> Lookup:
        """What DNS has on a name (with or without the domain) or an address, in every view."""
        return await self.worker.lookup(request.path_params["name"])


def make_app(worker: Worker, *, identity: ImageIdentity | None = None) -> Application:
    """The service's application."""
    handlers = Dns(worker)

    @contextlib.asynccontextmanager
    async def lifespan(app: Application) -> AsyncIterator[None]:
        async with worker.run(app.metrics):
            yield

    return create_app(
        service="dns",
        description="Names and addresses of the hall: what BIND is given from mdb. Read-only.",
        checks={"mdb": worker.follower.fresh, "zones": worker.in_force, "named": worker.named_answers},
        lifespan=lifespan,
        identity=identity,
        routes=[
            Operation("GET", "/v1/status", handlers.status, summary="What is in force", answer=Status),
            Operation("GET", "/v1/lookup/{name}", handlers.lookup, summary="A name or an address", answer=Lookup),
        ],
    )
