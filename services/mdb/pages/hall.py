"""Pages of the whole hall: pools, history."""

from __future__ import annotations

import asyncio
import functools

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from services.common.edge import read_query
from services.common.pages import Page, Pages
from services.mdb.pages import editing
from services.mdb.pages.people import reader
from services.mdb.schema import AuditQuery
from services.mdb.store import MACHINES, Store


class HallPages:
    """The handlers, around one store."""

    def __init__(self, pages: Pages, store: Store) -> None:
        self.pages = pages
        self.store = store

    def routes(self) -> list[BaseRoute]:
        return [Page("GET", "/pools", self.pools), Page("GET", "/history", self.history)]

    async def pools(self, request: Request) -> Response:
        """How full each pool is."""
        return await self.pages.answer(request, "pools.html", pools=await asyncio.to_thread(self.store.pools))

    async def history(self, request: Request) -> Response:
        """Who changed what, the newest first."""
        reader(request)
        asked = read_query(request, AuditQuery)
        topic, key = None if asked.topic is None else asked.topic.value, asked.key
        if asked.machine is not None:
            topic, key = MACHINES, str(asked.machine)
        read = functools.partial(self.store.audit, topic=topic, key=key, before=asked.before, limit=asked.limit + 1)
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
