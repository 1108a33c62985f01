"""The map over HTTP: pages and a stream for whoever is in the hall, everything as JSON for organizers."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

from prometheus_client import Gauge
from starlette.requests import Request

from services.common.access import Access
from services.common.app import Application, create_app
from services.common.edge import Operation
from services.common.pages import HTMX
from services.common.pages.people import person
from services.usermap.pages import MapPages, make_pages
from services.usermap.schema import Map, State
from services.usermap.watch import Watch


def make_app(watch: Watch, access: Access, *, htmx: Path = HTMX) -> Application:
    """The service's application; it watches while it lives."""
    pages = make_pages(watch.settings.hall, login=access.tokens is not None, htmx=htmx)

    async def map(request: Request) -> Map:
        """Rooms, rows and seats; who sits there, versions and reasons for organizers only."""
        watch.look()
        return watch.shown(full=person(request).organizer).map

    @contextlib.asynccontextmanager
    async def lifespan(app: Application) -> AsyncIterator[None]:
        registry = app.metrics.registry
        seats = Gauge("backline_usermap_seats", "Seats by state", ["state"], registry=registry)
        for state in State:
            seats.labels(state=state.value).set_function(
                lambda state=state: watch.full.map.counts.get(state.value, 0)  # type: ignore[misc]
            )
        viewers = Gauge("backline_usermap_viewers", "Open pages that are told of changes", registry=registry)
        viewers.set_function(lambda: watch.viewers)
        async with watch.run(app.metrics):
            yield

    return create_app(
        service="usermap",
        access=access,
        description="The rooms: what each seat is, and for organizers who sits there.",
        checks={**watch.feeds.checks(), "map": watch.well},
        lifespan=lifespan,
        error_page=pages.error,
        routes=[
            *MapPages(pages, watch).routes(),
            Operation("GET", "/v1/map", map, summary="The rooms and their seats", answer=Map),
        ],
    )
