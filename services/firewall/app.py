"""The HTTP face of the firewall: what is in force, for whom, and why. Read-only; organizers may see it."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from starlette.requests import Request

from services.common.access import Access, Role, require
from services.common.app import Application, create_app
from services.common.edge import Operation
from services.common.identity import ImageIdentity
from services.firewall.schema import Standings, Status, Why
from services.firewall.work import Worker


class Firewall:
    """The handlers, around one worker."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker

    async def status(self, request: Request) -> Status:
        """How many get out, what the kernel has counted, how the feeds are, and what is left out and why."""
        require(request, Role.ORGANIZER)
        return self.worker.status()

    async def machines(self, request: Request) -> Standings:
        """Every machine: whether it gets out, why, and who has a session there."""
        require(request, Role.ORGANIZER)
        return Standings(machines=self.worker.standings())

    async def why(self, request: Request) -> Why:
        """A machine by host name, alias or address, and everything that decides whether it gets out."""
        require(request, Role.ORGANIZER)
        return self.worker.why(request.path_params["name"])


def make_app(worker: Worker, access: Access, *, identity: ImageIdentity | None = None) -> Application:
    """The service's application."""
    handlers = Firewall(worker)

    @contextlib.asynccontextmanager
    async def lifespan(app: Application) -> AsyncIterator[None]:
        async with worker.run(app.metrics):
            yield

    return create_app(
        service="firewall",
        access=access,
        description="Who gets out of the hall: what the kernel is given from mdb, udb and presence. Read-only.",
        checks={**worker.feeds.checks(), "rules": worker.in_force},
        lifespan=lifespan,
        identity=identity,
        routes=[
            Operation(
                "GET", "/v1/status", handlers.status, summary="What is in force", answer=Status, errors=[401, 403]
            ),
            Operation(
                "GET", "/v1/machines", handlers.machines, summary="Machines", answer=Standings, errors=[401, 403]
            ),
            Operation(
                "GET",
                "/v1/machines/{name}",
                handlers.why,
                summary="Why a machine gets out, or does not",
                answer=Why,
                errors=[401, 403, 404],
            ),
        ],
    )
