"""Pages of all users: what is left of the uids, the message of the day, and the history."""

from __future__ import annotations

import asyncio
import functools

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute

from services.common import message
from services.common.edge import read_query
from services.common.errors import InputError
from services.common.pages import Page, Pages
from services.common.pages.forms import read_form
from services.udb.pages import editing
from services.udb.pages.people import person_of
from services.udb.schema import AuditQuery
from services.udb.store import Store


class HallPages:
    """The handlers, around one store."""

    def __init__(self, pages: Pages, store: Store) -> None:
        self.pages = pages
        self.store = store

    def routes(self) -> list[BaseRoute]:
        return [
            Page("GET", "/pools", self.pools),
            Page("GET", "/message", self.message),
            Page("POST", "/message", self.announce),
            Page("GET", "/history", self.history),
        ]

    async def pools(self, request: Request) -> Response:
        """How full each pool is."""
        pools = await asyncio.to_thread(self.store.pools, person_of(request))
        return await self.pages.answer(request, "pools.html", pools=pools)

    async def message(self, request: Request) -> Response:
        """The message of the day, and a form for another one."""
        said = await asyncio.to_thread(self.store.message, person_of(request))
        return await self._message(request, said.text, since=said.updated)

    async def announce(self, request: Request) -> Response:
        """Say another one; an empty one takes it away."""
        person = person_of(request)
        text = (await read_form(request)).raw("text")
        try:
            await asyncio.to_thread(self.store.announce, person, text)
        except InputError as error:
            return await self._message(request, text, refusal=error, status=422)
        return RedirectResponse("/message", status_code=303)

    async def _message(
        self,
        request: Request,
        text: str,
        *,
        since: float | None = None,
        refusal: InputError | None = None,
        status: int = 200,
    ) -> Response:
        limits = {"characters": message.CHARACTERS, "lines": message.LINES}
        return await self.pages.answer(
            request, "message.html", status=status, text=text, since=since, refusal=refusal, limits=limits
        )

    async def history(self, request: Request) -> Response:
        """Who changed what and who saw which password, the newest first."""
        person = person_of(request)
        asked = read_query(request, AuditQuery)
        topic = None if asked.topic is None else asked.topic.value
        key = None if asked.user is None else str(asked.user)
        read = functools.partial(
            self.store.audit, person, topic=topic, key=key, before=asked.before, limit=asked.limit + 1
        )
        entries = await asyncio.to_thread(read)
        return await self.pages.answer(
            request,
            "history.html",
            asked=asked,
            entries=entries[: asked.limit],
            more=len(entries) > asked.limit,
            shown=editing.shown,
            titles=editing.TITLES,
        )
