"""The HTTP face of the identity service: which users are on this machine. Read-only, and open to everybody here.

All that it tells is in passwd anyway, or was left out.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from starlette.requests import Request

from services.common.app import Application, create_app
from services.common.edge import Operation
from services.common.identity import ImageIdentity
from services.identity.schema import Status
from services.identity.work import Worker


class Identity:
    """The handlers, around one worker."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker

    async def status(self, request: Request) -> Status:  # noqa: ARG002
        """How many users are in force, who is left out and why, and when that was brought into force."""
        return self.worker.status()


def make_app(worker: Worker, *, identity: ImageIdentity | None = None) -> Application:
    """The service's application."""
    handlers = Identity(worker)

    @contextlib.asynccontextmanager
    async def lifespan(app: Application) -> AsyncIterator[None]:
        async with worker.run(app.metrics):
            yield

    return create_app(
        service="identity",
        description="Users of the hall on this machine, from udb. Read-only.",
        checks={"udb": worker.follower.fresh, "users": worker.in_force},
        lifespan=lifespan,
        identity=identity,
        routes=[Operation("GET", "/v1/status", handlers.status, summary="What is in force", answer=Status)],
    )
