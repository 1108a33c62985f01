"""Pages of the whole hall: pools, settings, history."""

from __future__ import annotations

import asyncio
import contextlib
import functools

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute

from services.common.edge import read_query
from services.common.errors import InputError
from services.common.pages import Page, Pages
from services.common.pages.forms import read_form
from services.mdb.history import MACHINES, SETTINGS
from services.mdb.pages import editing
from services.mdb.pages.people import caller, reader, writer
from services.mdb.schema import AuditEntry, AuditQuery, Scalar
from services.mdb.store import Store

HISTORY = 20


class HallPages:
    """The handlers, around one store."""

    def __init__(self, pages: Pages, store: Store) -> None:
        self.pages = pages
        self.store = store

    def routes(self) -> list[BaseRoute]:
        return [
            Page("GET", "/pools", self.pools),
            Page("GET", "/settings", self.settings),
            Page("POST", "/settings/{key}", self.set),
            Page("GET", "/history", self.history),
        ]

    async def pools(self, request: Request) -> Response:
        """How full each pool is."""
        return await self.pages.answer(request, "pools.html", pools=await asyncio.to_thread(self.store.pools))

    async def settings(self, request: Request) -> Response:
        """What is changed while the hall runs, and who changed it."""
        return await self._settings(request)

    async def set(self, request: Request) -> Response:
        """Change one."""
        actor = writer(request)
        value, key = (await read_form(request)).text("value"), request.path_params["key"]
        try:
            await asyncio.to_thread(self.store.set, actor, key, await asyncio.to_thread(self._typed, key, value))
        except InputError as error:
            return await self._settings(request, refusal=error, status=422)
        return RedirectResponse("/settings", status_code=303)

    def _typed(self, key: str, value: str) -> Scalar:
        """A text of a form as the type that a setting has; as it is where that does not work out."""
        current = next((one.value for one in self.store.settings() if one.key == key), "")
        if isinstance(current, bool):
            return {"yes": True, "no": False}.get(value, value)
        for kind in (int, float):
            if isinstance(current, kind):
                with contextlib.suppress(ValueError):
                    return kind(value)
        return value

    async def _settings(self, request: Request, *, refusal: InputError | None = None, status: int = 200) -> Response:
        history: list[AuditEntry] = []
        if caller(request).may_read:
            history = await asyncio.to_thread(self.store.audit, topic=SETTINGS, limit=HISTORY)
        return await self.pages.answer(
            request,
            "settings.html",
            status=status,
            settings=await asyncio.to_thread(self.store.settings),
            history=history,
            refusal=refusal,
            shown=editing.shown,
        )

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
