"""Pages of the whole hall: pools, history."""

from __future__ import annotations

import asyncio

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from services.common.edge import read_query
from services.common.pages import Page, Pages
from services.mdb.pages import editing
from services.mdb.pages.people import reader
from services.mdb.schema import AuditQuery
from services.mdb.store import Store


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
        key = None if asked.machine is None else str(asked.machine)
        entries = await asyncio.to_thread(self.store.audit, key=key, before=asked.before, limit=asked.limit + 1)
        return await self.pages.answer(
            request,
            "history.html",
            asked=asked,
            entries=entries[: asked.limit],
            more=len(entries) > asked.limit,
            shown=editing.shown,
            titles=editing.TITLES,
        )
