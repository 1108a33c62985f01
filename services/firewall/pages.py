"""Pages of the firewall: the contest's switch, machines and whether they get out, and why one does or does not.

They are whole without a script; where htmx is there, the first one is asked every few seconds, and answers with the
page when it would look different.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from pathlib import Path
from typing import Literal

import msgspec
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute

from services.common.access import Role, require
from services.common.changes import Actor
from services.common.codec import encode_json
from services.common.edge import read_query
from services.common.errors import UsageError
from services.common.pages import HTMX, Link, Page, Pages
from services.common.pages.forms import read_form
from services.common.pages.people import person
from services.firewall.schema import Reason, Standing, group_named
from services.firewall.work import Worker

DECISIONS = 20
"""So many of the last decisions are shown."""
SAID = {"allow": True, "deny": False, "default": None}
REASONS = {
    Reason.GROUP: "somebody is there whose group may",
    Reason.TYPE: "their type always does",
    Reason.SERVER: "servers of hall.toml",
    Reason.NOBODY: "nobody is there",
    Reason.REFUSED: "somebody is there whose group may not",
    Reason.UNKNOWN: "somebody is there whom udb does not know",
    Reason.ADDRESS: "their address is not the hall's, or another's as well",
}
"""What machines that have the same reason have in common."""


class Shown(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which machines the list shows: `q` is a part of a machine's name, its address or a login."""

    q: str = ""
    out: Literal["", "yes", "no"] = ""


def make_pages(*, login: bool, htmx: Path = HTMX) -> Pages:
    """The templates, the navigation, and who is looking."""
    return Pages(
        "firewall",
        title="Firewall of the hall",
        templates=Path(__file__).parent / "templates",
        navigation=(Link("Switch", "/"), Link("Machines", "/machines")),
        visitor=person,
        htmx=htmx,
        login=login,
    )


class FirewallPages:
    """The handlers, around one worker."""

    def __init__(self, pages: Pages, worker: Worker) -> None:
        self.pages = pages
        self.worker = worker

    def routes(self) -> list[BaseRoute]:
        return [
            *self.pages.routes(),
            Page("GET", "/", self.switch),
            Page("POST", "/groups/{group}", self.decide),
            Page("GET", "/machines", self.machines),
            Page("GET", "/machines/{name}", self.why),
        ]

    async def switch(self, request: Request) -> Response:
        """Which groups get out, and what follows from it now."""
        require(request, Role.ORGANIZER)
        status = self.worker.status()
        standings = self.worker.standings()
        groups, entries = self.worker.switch.states(), self.worker.switch.kept.entries[:DECISIONS]
        reasons = Counter((each.allowed, each.reason) for each in standings)
        stale = [each.name for each in status.feeds if each.stale]
        pending = sum(not each.in_force for each in standings)
        looks = (groups, entries, sorted((ok, why.value, count) for (ok, why), count in reasons.items()))
        parts = (looks, status.problem, status.left_out, stale, pending, person(request).name)
        seen = hashlib.sha256(encode_json(parts)).hexdigest()[:16]
        if request.query_params.get("seen") == seen:
            return Response(status_code=204)
        return await self.pages.answer(
            request,
            "switch.html",
            seen=seen,
            groups=groups,
            entries=entries,
            problem=status.problem,
            left_out=status.left_out,
            stale=stale,
            pending=pending,
            machines=len(standings),
            out=sum(each.allowed for each in standings),
            reasons=sorted(reasons.items(), key=lambda each: (not each[0][0], -each[1])),
            words=REASONS,
        )

    async def decide(self, request: Request) -> Response:
        """Let a group out, keep it in, or leave it to hall.toml."""
        caller = require(request, Role.ORGANIZER)
        group = group_named(request.path_params["group"])
        said = (await read_form(request)).text("say")
        if said not in SAID:
            raise UsageError("group.said", f"{said!r} is nothing to say about a group", hint=f"say {', '.join(SAID)}")
        await self.worker.decide(group, SAID[said], Actor(caller.name, caller.origin))
        return RedirectResponse("/", status_code=303)

    async def machines(self, request: Request) -> Response:
        """Every machine, or those that were asked for."""
        require(request, Role.ORGANIZER)
        asked = read_query(request, Shown)
        found = [each for each in self.worker.standings() if _shown(each, asked)]
        return await self.pages.answer(request, "machines.html", machines=found, asked=asked)

    async def why(self, request: Request) -> Response:
        """One, and everything that decides."""
        require(request, Role.ORGANIZER)
        return await self.pages.answer(request, "why.html", why=self.worker.why(request.path_params["name"]))


def _shown(standing: Standing, asked: Shown) -> bool:
    if asked.out and standing.allowed is not (asked.out == "yes"):
        return False
    words = (standing.hostname, standing.address, *(each.login for each in standing.people))
    return any(asked.q.strip().lower() in word for word in words)
