"""The overview over HTTP: one answer with everything, and pages. Organizers may see it; nothing can be changed here."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

from prometheus_client import Gauge
from starlette.requests import Request

from netboot.schema import Liveness
from services.common.access import Access, Role, require
from services.common.app import Application, create_app
from services.common.edge import Operation
from services.common.pages import HTMX
from services.overview.pages import HallPages, make_pages
from services.overview.schema import Hall
from services.overview.watch import Watch


def make_app(watch: Watch, access: Access, *, htmx: Path = HTMX) -> Application:
    """The service's application; it asks everybody while it lives."""
    pages = make_pages(watch.settings.hall, login=access.tokens is not None, htmx=htmx)

    async def hall(request: Request) -> Hall:
        """Hosts, seats, channels, rollouts and publications as they were heard last; who is silent is `unknown`."""
        require(request, Role.ORGANIZER)
        return await watch.hall()

    @contextlib.asynccontextmanager
    async def lifespan(app: Application) -> AsyncIterator[None]:
        hosts = Gauge("backline_overview_hosts", "Hosts by state", ["state"], registry=app.metrics.registry)
        patience = watch.settings.idle_seconds
        for state in (Liveness.UP, Liveness.DEGRADED, Liveness.UNKNOWN):
            hosts.labels(state=state.value).set_function(
                lambda state=state: sum(host.state is state for host in watch.now(patience=patience).hosts)  # type: ignore[misc]
            )
        rounds = Gauge("backline_overview_rounds", "How often everybody was asked", registry=app.metrics.registry)
        rounds.set_function(lambda: watch.rounds)
        task = asyncio.create_task(watch.run(), name="watch")
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    return create_app(
        service="overview",
        access=access,
        description="The hall at a glance: hosts, seats, channels, rollouts, publications.",
        checks={"watch": watch.well},
        lifespan=lifespan,
        error_page=pages.error,
        routes=[
            *HallPages(pages, watch).routes(),
            Operation("GET", "/v1/hall", hall, summary="The hall at a glance", answer=Hall, errors=[401, 403]),
        ],
    )
