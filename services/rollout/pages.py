"""Pages of rollouts: the list, and one rollout with its rings and seats, which move while it goes on.

They are whole without a script; where htmx is there, the same addresses are asked every few seconds, and answer with
the page when it would look different.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

from msgspec.structs import replace
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute

from services.common.access import Role, require
from services.common.codec import encode_json
from services.common.pages import HTMX, Link, Page, Pages
from services.common.pages.people import person
from services.rollout import machine
from services.rollout.schema import OVER, Phase, Progress, Ring, Rollout, Standing, tallies, word
from services.rollout.work import Work

SHOWN = 100
_ORDER = (
    Standing.BAD,
    Standing.ASKED,
    Standing.COMING,
    Standing.SETTLING,
    Standing.BUSY,
    Standing.LEFT_OUT,
    Standing.GOOD,
)


def make_pages(*, login: bool, htmx: Path = HTMX) -> Pages:
    """The templates, the navigation, and who is looking."""
    return Pages(
        "rollout",
        title="Rollouts of the hall",
        templates=Path(__file__).parent / "templates",
        navigation=(Link("Rollouts", "/"),),
        visitor=person,
        htmx=htmx,
        login=login,
    )


class RolloutPages:
    """The handlers, around what is at work."""

    def __init__(self, pages: Pages, work: Work) -> None:
        self.pages = pages
        self.work = work

    def routes(self) -> list[BaseRoute]:
        return [
            *self.pages.routes(),
            Page("GET", "/", self.list),
            Page("GET", "/rollouts/{id:int}", self.one),
            Page("POST", "/rollouts/{id:int}/pause", self.pause),
            Page("POST", "/rollouts/{id:int}/resume", self.resume),
            Page("POST", "/rollouts/{id:int}/abort", self.abort),
        ]

    async def list(self, request: Request) -> Response:
        """Rollouts, the newest first."""
        require(request, Role.ORGANIZER)
        found = self.work.store.all()[:SHOWN]
        seen = revision(request, found)
        if request.query_params.get("seen") == seen:
            return Response(status_code=204)
        return await self.pages.answer(
            request, "rollouts.html", rollouts=found, seen=seen, state=word, colour=colour, tallies=tallies
        )

    async def one(self, request: Request) -> Response:
        """One, with its rings and seats."""
        require(request, Role.ORGANIZER)
        rollout = self.work.store.one(int(request.path_params["id"]))
        seen = revision(request, [rollout])
        if request.query_params.get("seen") == seen:
            return Response(status_code=204)
        actions = [("pause", "Pause"), ("abort", "Abort")]
        if rollout.paused is not None:
            actions[0] = ("resume", "Resume")
        elif rollout.phase is not Phase.RUNNING:
            del actions[0]
        if rollout.phase is Phase.REVERTING:
            actions = []
        return await self.pages.answer(
            request,
            "rollout.html",
            rollout=rollout,
            over=rollout.phase in OVER,
            actions=actions,
            seen=seen,
            state=word,
            colour=colour,
            tallies=tallies(rollout),
            worst_first=worst_first,
            bad=[seat for ring in rollout.rings for seat in ring.seats if seat.standing is Standing.BAD],
        )

    async def pause(self, request: Request) -> Response:
        """Hold it where it is."""
        name = require(request, Role.ROOT).name
        return await self._change(request, lambda rollout, now: machine.pause(rollout, f"{name} paused it", now))

    async def resume(self, request: Request) -> Response:
        """Go on."""
        name = require(request, Role.ROOT).name
        return await self._change(request, lambda rollout, now: machine.resume(rollout, name, now))

    async def abort(self, request: Request) -> Response:
        """Take it back."""
        name = require(request, Role.ROOT).name
        return await self._change(request, lambda rollout, now: machine.abort(rollout, f"{name} aborted it", now))

    async def _change(self, request: Request, change: Callable[[Rollout, float], Rollout]) -> Response:
        id = int(request.path_params["id"])
        await self.work.change(id, change)
        return RedirectResponse(f"/rollouts/{id}", status_code=303)


def revision(request: Request, rollouts: Sequence[Rollout]) -> str:
    """Another one whenever a page of these rollouts would look different to this visitor."""
    content = encode_json([replace(each, looked=None) for each in rollouts])
    mark = f"{person(request)}".encode()
    return hashlib.sha256(content + mark).hexdigest()[:16]


def worst_first(ring: Ring) -> list[Progress]:
    """The seats of a ring: bad ones first, those that are good last."""
    return sorted(ring.seats, key=lambda seat: (_ORDER.index(seat.standing), seat.hostname))


def colour(rollout: Rollout) -> str:
    """The class of its tag."""
    if rollout.paused is not None:
        return "warn"
    bad = rollout.phase in (Phase.REVERTING, Phase.REVERTED)
    return "good" if rollout.phase is Phase.DONE else "bad" if bad else "warn" if rollout.phase is Phase.ABORTED else ""
