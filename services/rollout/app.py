"""The rollout service over HTTP: start, look at, pause, resume and abort rollouts.

Organizers may see them, root may change them (`services.common.access`).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from prometheus_client import Gauge
from starlette.requests import Request

from services.common.access import Access, Role, require
from services.common.app import Application, create_app
from services.common.edge import Operation, read_body, read_query
from services.common.pages import HTMX
from services.rollout import machine
from services.rollout.pages import RolloutPages, make_pages
from services.rollout.schema import Plan, Reason, Rollout, Rollouts, RolloutsQuery
from services.rollout.store import Store
from services.rollout.work import Work

_CHANGING = [400, 401, 403, 404, 409, 503]


class Handlers:
    """The handlers, around what is at work."""

    def __init__(self, work: Work) -> None:
        self.work = work
        self.store: Store = work.store

    async def list(self, request: Request) -> Rollouts:
        """Rollouts, the newest first."""
        require(request, Role.ORGANIZER)
        asked = read_query(request, RolloutsQuery)
        found = [each for each in self.store.all() if asked.channel in (None, each.plan.channel)]
        return Rollouts(rollouts=found[: asked.limit])

    async def one(self, request: Request) -> Rollout:
        """One rollout: its rings, its seats, and what happened."""
        require(request, Role.ORGANIZER)
        return self.store.one(int(request.path_params["id"]))

    async def start(self, request: Request) -> Rollout:
        """Have a channel's machines boot a version, ring by ring."""
        caller = require(request, Role.ROOT)
        return await self.work.start(await read_body(request, Plan), caller.name)

    async def pause(self, request: Request) -> Rollout:
        """Hold a rollout where it is: no other seat is asked to restart, and the trial goes on."""
        caller = require(request, Role.ROOT)
        why = (await read_body(request, Reason)).why
        told = f"{caller.name}: {why}" if why else f"{caller.name} paused it"
        return await self.work.change(_id(request), lambda rollout, now: machine.pause(rollout, told, now))

    async def resume(self, request: Request) -> Rollout:
        """Go on. Seats that did not restart in time are left out from now on."""
        caller = require(request, Role.ROOT)
        await read_body(request, Reason)
        return await self.work.change(_id(request), lambda rollout, now: machine.resume(rollout, caller.name, now))

    async def abort(self, request: Request) -> Rollout:
        """Take a rollout back: the channel points to its previous version again."""
        caller = require(request, Role.ROOT)
        why = (await read_body(request, Reason)).why
        told = f"{caller.name}: {why}" if why else f"{caller.name} aborted it"
        return await self.work.change(_id(request), lambda rollout, now: machine.abort(rollout, told, now))


def _id(request: Request) -> int:
    return int(request.path_params["id"])


def make_app(work: Work, access: Access, *, htmx: Path = HTMX) -> Application:
    """The service's application; it takes open rollouts on while it lives."""
    its = Handlers(work)
    pages = make_pages(login=access.tokens is not None, htmx=htmx)

    @contextlib.asynccontextmanager
    async def lifespan(app: Application) -> AsyncIterator[None]:
        await asyncio.to_thread(work.store.load)
        open_ = Gauge("backline_rollout_open", "Rollouts that are not over", registry=app.metrics.registry)
        open_.set_function(lambda: len(work.store.open()))
        paused = Gauge("backline_rollout_paused", "Rollouts that wait for somebody", registry=app.metrics.registry)
        paused.set_function(lambda: sum(each.paused is not None for each in work.store.open()))
        task = asyncio.create_task(work.run(), name="rollouts")
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def change(path: str, handler: Any, summary: str) -> Operation:
        return Operation("POST", path, handler, summary=summary, body=Reason, answer=Rollout, errors=_CHANGING)

    return create_app(
        service="rollout",
        access=access,
        description="Rollouts: a version goes to one seat, its row, its room and then all, or back.",
        checks={"netboot": work.healthy},
        lifespan=lifespan,
        error_page=pages.error,
        routes=[
            *RolloutPages(pages, work).routes(),
            Operation(
                "GET",
                "/v1/rollouts",
                its.list,
                summary="Rollouts",
                query=RolloutsQuery,
                answer=Rollouts,
                errors=[401, 403],
            ),
            Operation(
                "POST",
                "/v1/rollouts",
                its.start,
                summary="Start a rollout",
                body=Plan,
                answer=Rollout,
                status=201,
                errors=_CHANGING,
            ),
            Operation(
                "GET", "/v1/rollouts/{id:int}", its.one, summary="A rollout", answer=Rollout, errors=[401, 403, 404]
            ),
            change("/v1/rollouts/{id:int}/pause", its.pause, "Pause it"),
            change("/v1/rollouts/{id:int}/resume", its.resume, "Resume it"),
            change("/v1/rollouts/{id:int}/abort", its.abort, "Take it back"),
        ],
    )
