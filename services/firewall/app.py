"""The HTTP face of the firewall: what is in force, for whom, and why. Organizers may see it, and say which groups."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

from starlette.requests import Request

from services.common.access import Access, Role, require
from services.common.app import Application, create_app
from services.common.changes import Actor, Audit
from services.common.edge import Operation, read_body
from services.common.identity import ImageIdentity
from services.common.pages import HTMX
from services.firewall.pages import FirewallPages, make_pages
from services.firewall.schema import Decision, GroupStates, Standings, Status, Why, group_named
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

    async def groups(self, request: Request) -> GroupStates:
        """Which groups of users get out now, and who decided."""
        require(request, Role.ORGANIZER)
        return GroupStates(groups=self.worker.switch.states())

    async def decide(self, request: Request) -> GroupStates:
        """Let a group out or keep it in, whatever hall.toml says, or with null as it says; what is open ends."""
        caller = require(request, Role.ORGANIZER)
        group = group_named(request.path_params["group"])
        wanted = await read_body(request, Decision)
        await self.worker.decide(group, wanted.allowed, Actor(caller.name, caller.origin))
        return GroupStates(groups=self.worker.switch.states())

    async def audit(self, request: Request) -> Audit:
        """Who decided about groups, the newest first."""
        require(request, Role.ORGANIZER)
        return Audit(entries=list(self.worker.switch.kept.entries))


def make_app(
    worker: Worker, access: Access, *, identity: ImageIdentity | None = None, htmx: Path = HTMX
) -> Application:
    """The service's application."""
    handlers = Firewall(worker)
    pages = make_pages(login=access.tokens is not None, htmx=htmx)

    @contextlib.asynccontextmanager
    async def lifespan(app: Application) -> AsyncIterator[None]:
        async with worker.run(app.metrics):
            yield

    return create_app(
        service="firewall",
        access=access,
        description="Who gets out of the hall, from mdb, udb and presence; and which groups, as organizers decide.",
        checks={**worker.feeds.checks(), "rules": worker.in_force},
        lifespan=lifespan,
        identity=identity,
        error_page=pages.error,
        routes=[
            *FirewallPages(pages, worker).routes(),
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
            Operation(
                "GET",
                "/v1/groups",
                handlers.groups,
                summary="Groups that get out",
                answer=GroupStates,
                errors=[401, 403],
            ),
            Operation(
                "PUT",
                "/v1/groups/{group}",
                handlers.decide,
                summary="Let a group out, or keep it in",
                body=Decision,
                answer=GroupStates,
                errors=[400, 401, 403, 404, 413, 415, 422, 503],
            ),
            Operation("GET", "/v1/audit", handlers.audit, summary="Who decided", answer=Audit, errors=[401, 403]),
        ],
    )
