"""Pages of the overview: the hall, a host, seats, a seat.

The hall is made once for all who look at it, when something has changed; who has it already is answered that nothing
has. Each page is whole without a script, and with one it is asked for again every few seconds.
"""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path

from markupsafe import Markup
from msgspec.structs import replace
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from netboot.schema import Liveness
from netboot.schema import Seat as NetbootSeat
from services.common.access import Role, require
from services.common.codec import encode_json
from services.common.errors import BacklineError, MissingError
from services.common.pages import HTMX, Link, Page, Pages, sites
from services.common.pages.people import person
from services.hostd.schema import Unit
from services.overview.schema import Hall, Seat
from services.overview.view import seats_of
from services.overview.watch import Watch

SHAPES = {
    Liveness.UP.value: ("up", "good"),
    Liveness.DEGRADED.value: ("degraded", "warn"),
    Liveness.STARTING.value: ("starting", "soon"),
    Liveness.UNKNOWN.value: ("unknown", "bad"),
    Liveness.OFF.value: ("off", "off"),
}
"""What each state is called, and the class of its mark: every one has a shape of its own beside its colour."""


def make_pages(hall: str, *, login: bool, htmx: Path = HTMX) -> Pages:
    """The templates, the navigation, and who is looking."""
    return Pages(
        "overview",
        title=hall,
        templates=Path(__file__).parent / "templates",
        navigation=(Link("At a glance", "/"), Link("Seats", "/seats")),
        visitor=person,
        htmx=htmx,
        login=login,
    )


class HallPages:
    """The handlers, around what is watched."""

    def __init__(self, pages: Pages, watch: Watch) -> None:
        self.pages = pages
        self.watch = watch
        self._parts: dict[tuple[str, str], Markup] = {}
        self._making = asyncio.Lock()

    def routes(self) -> list[BaseRoute]:
        return [
            *self.pages.routes(),
            Page("GET", "/", self.hall),
            Page("GET", "/hall", self.part),
            Page("GET", "/hosts/{name}", self.host),
            Page("GET", "/seats", self.seats),
            Page("GET", "/seats/{name}", self.seat),
        ]

    async def hall(self, request: Request) -> Response:
        """All of it."""
        require(request, Role.ORGANIZER)
        hall = await self.watch.hall()
        part = await self._part(hall, request)
        return await self.pages.answer(request, "glance.html", hall=hall, part=part, look=self._look())

    async def part(self, request: Request) -> Response:
        """What is new since the revision `seen`, for a page that is open; 204 when nothing is."""
        require(request, Role.ORGANIZER)
        hall = await self.watch.hall()
        if request.query_params.get("seen") == hall.revision:
            return Response(status_code=204)
        return Response(str(await self._part(hall, request)), media_type="text/html")

    async def _part(self, hall: Hall, request: Request) -> Markup:
        """The hall as HTML, made once a revision; the links to other services are as the viewer names us."""
        places = sites(self.pages.service, request)
        key = (hall.revision, places.get("rollout", ""))
        async with self._making:
            if key not in self._parts:
                made = await self.pages.part(
                    "hall.html", hall=hall, places=places, look=self._look(), shapes=SHAPES, seat_class=seat_class
                )
                kept = {other: part for other, part in self._parts.items() if other[0] == hall.revision}
                self._parts = {**dict(list(kept.items())[-7:]), key: made}
            return self._parts[key]

    def _look(self) -> str:
        return f"{max(1.0, self.watch.settings.look_seconds / 2):g}s"

    async def host(self, request: Request) -> Response:
        """One host: its units, those that failed first, and what runs on it."""
        require(request, Role.ORGANIZER)
        name, hall = request.path_params["name"], await self.watch.hall()
        host = next((host for host in hall.hosts if host.name == name), None)
        if host is None:
            raise MissingError("host.unknown", f"{name} is no host of hall.toml")
        units: list[Unit] = []
        problem = None
        try:
            units = sorted((await self.watch.units(name)).units, key=lambda unit: (_rank(unit), unit.name))
        except BacklineError as error:
            problem = error.message
        published = [each for each in hall.published if any(one.host == name for one in each.receivers)]
        told = replace(host, heard=None) if host.why is None else host
        seen = _revision(told, units, published, problem)
        if request.query_params.get("seen") == seen:
            return Response(status_code=204)
        return await self.pages.answer(
            request,
            "host.html",
            host=host,
            units=units,
            problem=problem,
            shapes=SHAPES,
            published=published,
            seen=seen,
            look=self._look(),
        )

    async def seats(self, request: Request) -> Response:
        """Seats as a table: all, or those of a room, a state or a version."""
        require(request, Role.ORGANIZER)
        hall = await self.watch.hall()
        asked = {key: request.query_params.get(key, "") for key in ("room", "state", "version")}
        found = [
            (said, seat)
            for said, seat in self._seats(hall)
            if asked["room"] in ("", said.room)
            and asked["state"] in ("", seat.state.value)
            and asked["version"] in ("", seat.version)
        ]
        seen = _revision([(seat, said.room, said.user, said.health) for said, seat in found])
        if request.query_params.get("seen") == seen:
            return Response(status_code=204)
        return await self.pages.answer(
            request,
            "seats.html",
            seats=found,
            seen=seen,
            asked=asked,
            hall=hall,
            versions=sorted({one.version for room in hall.rooms for one in room.versions}),
            shapes=SHAPES,
            look=self._look(),
        )

    async def seat(self, request: Request) -> Response:
        """One seat."""
        require(request, Role.ORGANIZER)
        name, hall = request.path_params["name"], await self.watch.hall()
        found = next(((said, seat) for said, seat in self._seats(hall) if said.hostname == name), None)
        if found is None:
            raise MissingError("seat.unknown", f"netboot knows no machine {name} that boots from it")
        return await self.pages.answer(
            request,
            "seat.html",
            said=found[0],
            seat=found[1],
            netboot=next(each for each in hall.sources if each.name == "netboot"),
            now=hall.at,
            places=sites(self.pages.service, request),
            shapes=SHAPES,
            look=self._look(),
        )

    def _seats(self, hall: Hall) -> list[tuple[NetbootSeat, Seat]]:
        silent = any(each.name == "netboot" and each.why is not None for each in hall.sources)
        netboot = self.watch.heard.netboot.value
        return seats_of(netboot.seats if netboot else [], silent=silent)


def seat_class(seat: Seat) -> str:
    """The classes of a seat's mark."""
    return f"{SHAPES[seat.state.value][1]}{' old' if seat.outdated else ''}"


def _revision(*shown: object) -> str:
    """Another one when something that is shown is."""
    return hashlib.sha256(encode_json(list(shown))).hexdigest()[:16]


def _rank(unit: Unit) -> int:
    """Failed units come first, then those that are on their way, then what runs."""
    order = {"failed": 0, "activating": 1, "deactivating": 1, "reloading": 1, "active": 2}
    return order.get(unit.active, 3)
