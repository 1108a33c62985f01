"""Pages of the map: the rooms, and a seat. Whoever is in the hall may look; logins are for organizers.

The page is whole without a script, and with one its seats change by themselves: `pages.js` takes them from a stream.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import BaseRoute

from services.common.errors import BusyError, MissingError
from services.common.pages import HEADERS, HTMX, Link, Page, Pages, sites
from services.common.pages.people import person
from services.common.serve import stopping
from services.usermap import drawing
from services.usermap.schema import Map
from services.usermap.view import by_name
from services.usermap.watch import Shown, Watch

VIEWERS = 1000
"""Open pages; a hall's seats may all have one."""
BEAT_SECONDS = 8.0
"""A page that hears nothing for three of them says that it is old."""
STREAM_SECONDS = 300.0
"""How long a stream lasts: the next one is asked for anew, with a session that may have ended."""


def make_pages(hall: str, *, login: bool, htmx: Path = HTMX) -> Pages:
    """The templates, the navigation, and who is looking."""
    return Pages(
        "map",
        title=hall,
        templates=Path(__file__).parent / "templates",
        navigation=(Link("Map", "/"), Link("For a wall", "/wall")),
        visitor=person,
        htmx=htmx,
        login=login,
    )


class MapPages:
    """The handlers, around what is watched."""

    def __init__(self, pages: Pages, watch: Watch) -> None:
        self.pages = pages
        self.watch = watch
        self._counted: dict[str, Markup] = {}

    def routes(self) -> list[BaseRoute]:
        return [
            *self.pages.routes(),
            Page("GET", "/", self.map),
            Page("GET", "/wall", self.wall),
            Page("GET", "/map.svg", self.file),
            Page("GET", "/events", self.events),
            Page("GET", "/seats/{name}", self.seat),
        ]

    async def map(self, request: Request) -> Response:
        """All rooms."""
        return await self._map(request, wall=False)

    async def wall(self, request: Request) -> Response:
        """The same without a bar, as large as the screen allows."""
        return await self._map(request, wall=True)

    async def _map(self, request: Request, *, wall: bool) -> Response:
        self.watch.look()
        shown = self.watch.shown(full=person(request).organizer)
        return await self.pages.answer(
            request,
            "map.html",
            map=shown.map,
            drawn=shown.drawn,
            rooms=shown.rooms,
            layout=shown.layout,
            counts=await self._counts(shown.map),
            wall=wall,
        )

    async def file(self, request: Request) -> Response:
        """The map as one SVG, to be put somewhere else; as everybody may see it."""
        del request
        self.watch.look()
        shown = self.watch.shown(full=False)
        svg = drawing.whole(shown.map, STYLE)
        # Its own style sheet is inside: a file has no other.
        headers = {**HEADERS, "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'"}
        return Response(str(svg), media_type="image/svg+xml", headers=headers)

    async def seat(self, request: Request) -> Response:
        """One seat."""
        self.watch.look()
        viewer = person(request)
        shown = self.watch.shown(full=viewer.organizer)
        seat = by_name(shown.map).get(request.path_params["name"])
        if seat is None:
            raise MissingError("seat.unknown", f"there is no seat {request.path_params['name']}")
        return await self.pages.answer(
            request,
            "seat.html",
            seat=seat,
            drawn=drawing.seat(seat, link=False),
            name=drawing.TITLES[seat.state],
            organizer=viewer.organizer,
            map=shown.map,
            places=sites(self.pages.service, request),
        )

    async def events(self, request: Request) -> Response:
        """What changes on an open page: `parts` with seats that are another now, `again` when there are other seats.

        The page says which map it shows: `revision`, and Last-Event-ID when it comes back.
        """
        if self.watch.viewers >= VIEWERS:
            raise BusyError("map.viewers", f"{VIEWERS} pages are open already")
        full = person(request).organizer
        layout = request.query_params.get("layout", "")
        known = request.headers.get("last-event-id") or request.query_params.get("revision", "")
        stream = self._stream(layout, known, stopping(request), full=full)
        headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
        return StreamingResponse(stream, media_type="text/event-stream", headers=headers)

    async def _stream(self, layout: str, known: str, stop: asyncio.Event, *, full: bool) -> AsyncIterator[str]:
        loop = asyncio.get_running_loop()
        ends = loop.time() + STREAM_SECONDS
        with self.watch.looking():
            shown: Shown | None = self.watch.shown(full=full)
            sent: dict[str, Markup] = {}
            revision = ""
            if shown is not None and (shown.layout, shown.map.revision) == (layout, known):
                revision, sent = known, {**shown.parts, "counts": await self._counts(shown.map)}
                shown = None  # the page has all of it: 550 kB with a thousand seats
            while not stop.is_set() and loop.time() < ends:
                if shown is None:
                    yield "event: beat\ndata:\n\n"
                elif shown.layout != layout:
                    yield "event: again\ndata:\n\n"
                    return
                else:
                    parts = {**shown.parts, "counts": await self._counts(shown.map)}
                    news = Markup("").join(part for id, part in parts.items() if sent.get(id) != part)
                    revision, sent = shown.map.revision, parts
                    yield f"event: parts\nid: {revision}\ndata: {' '.join(news.splitlines())}\n\n"
                waiting = asyncio.create_task(self.watch.wait(revision, full=full, seconds=BEAT_SECONDS))
                ending = asyncio.create_task(stop.wait())
                await asyncio.wait({waiting, ending}, return_when=asyncio.FIRST_COMPLETED)
                ending.cancel()
                if not waiting.done():
                    waiting.cancel()
                    return
                shown = waiting.result()

    async def _counts(self, map: Map) -> Markup:
        """The legend with its numbers, and who is silent; made once for all who look."""
        if map.revision not in self._counted:
            legend = [(state.value, name) for state, name in drawing.TITLES.items()]
            made = await self.pages.part("counts.html", map=map, legend=legend)
            self._counted = {**dict(list(self._counted.items())[-3:]), map.revision: made}
        return self._counted[map.revision]


STYLE = """
text { font: 600 18px sans-serif; fill: #1b2224 } .line { font-weight: 400; font-size: 15px; fill: #5a666a }
.room-name { font-size: 20px } .sign { text-anchor: end } .ground { fill: #fff; stroke: #b9c3c5; stroke-width: 2 }
.stripes, .degraded-mark, .old-mark { display: none } .user .ground { fill: #d5efdf; stroke: #2e9e5b }
.orga .ground { fill: #d9e7fa; stroke: #3f7fd0 } .root .ground { fill: #fbdcd9; stroke: #d8392f }
.faulty .stripes { display: block; stroke: #e09a1a; stroke-width: 5; opacity: .5 } .faulty .ground { stroke: #e09a1a }
.unreachable .ground { stroke: #d8392f; stroke-dasharray: 6 4 } .off .ground { fill: none; stroke-dasharray: 2 5 }
.degraded .degraded-mark { display: block; fill: #e09a1a } .old .old-mark { display: block; fill: #3f7fd0 }
""".replace("\n", " ").strip()
