"""Pages of switches: which servers are nearest to what is plugged into one."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute

from services.common.codec import convert
from services.common.errors import BacklineError, BusyError
from services.common.pages import Page, Pages
from services.common.pages.forms import Form, read_form, revision_of
from services.common.records import id_of
from services.mdb.pages import editing
from services.mdb.pages.machines import suggestions
from services.mdb.pages.people import writer
from services.mdb.schema import NewSwitch, Switch, SwitchPatch
from services.mdb.store import Store

TITLES = {
    "name": "Name",
    "chassis": "Chassis id",
    "room": "Room",
    "rfs": "Nearest rfs",
    "hfs": "Nearest hfs",
}


class SwitchPages:
    """The handlers, around one store."""

    def __init__(self, pages: Pages, store: Store) -> None:
        self.pages = pages
        self.store = store

    def routes(self) -> list[BaseRoute]:
        return [
            Page("GET", "/switches", self.switches),
            Page("POST", "/switches", self.create),
            Page("GET", "/switches/{id:int}", self.edit),
            Page("POST", "/switches/{id:int}", self.save),
            Page("POST", "/switches/{id:int}/remove", self.remove),
        ]

    async def switches(self, request: Request) -> Response:
        """All of them, and the form for one more."""
        return await self._list(request, {"name": "", "chassis": "", "room": "other", "rfs": "0", "hfs": "0"})

    async def create(self, request: Request) -> Response:
        """Add one."""
        actor = writer(request)
        mine = _mine(await read_form(request))
        try:
            new = convert(_plain(mine), NewSwitch)
            await asyncio.to_thread(self.store.create_switch, actor, new)
        except editing.FieldsError as wrong:
            return await self._list(request, mine, errors=wrong.errors, status=422)
        except BacklineError as error:
            return await self._list(request, mine, refusal=error, status=_refused(error))
        return RedirectResponse("/switches", status_code=303)

    async def edit(self, request: Request) -> Response:
        """The form of one."""
        writer(request)
        switch = await asyncio.to_thread(self.store.switch, id_of(request))
        return await self._one(request, switch, _texts(switch))

    async def save(self, request: Request) -> Response:
        """Take a form. What somebody changed meanwhile is shown, not overwritten."""
        actor = writer(request)
        form = await read_form(request)
        mine, id = _mine(form), id_of(request)
        switch = await asyncio.to_thread(self.store.switch, id)
        try:
            patch = convert(_plain(mine), SwitchPatch)
            await asyncio.to_thread(self.store.update_switch, actor, id, patch, match=revision_of(form))
        except editing.FieldsError as wrong:
            return await self._one(request, switch, mine, errors=wrong.errors, status=422)
        except BacklineError as error:
            switch = await asyncio.to_thread(self.store.switch, id)
            theirs = _texts(switch) if error.code == "conflict.changed" else {}
            return await self._one(request, switch, mine, refusal=error, theirs=theirs, status=_refused(error))
        return RedirectResponse("/switches", status_code=303)

    async def remove(self, request: Request) -> Response:
        """Remove one, if it is as it was shown."""
        actor = writer(request)
        match = revision_of(await read_form(request))
        await asyncio.to_thread(self.store.delete_switch, actor, id_of(request), match=match)
        return RedirectResponse("/switches", status_code=303)

    async def _list(self, request: Request, mine: editing.Texts, *, status: int = 200, **context: Any) -> Response:
        form = {"mine": mine, "errors": {}, "refusal": None, **context}
        found = await asyncio.to_thread(self.store.switches)
        known = suggestions(await asyncio.to_thread(self.store.machines))
        return await self.pages.answer(
            request, "switches.html", status=status, switches=found, form=form, titles=TITLES, rooms=known["rooms"]
        )

    async def _one(
        self, request: Request, switch: Switch, mine: editing.Texts, *, status: int = 200, **context: Any
    ) -> Response:
        form = {"mine": mine, "errors": {}, "refusal": None, "theirs": {}, **context}
        known = suggestions(await asyncio.to_thread(self.store.machines))
        return await self.pages.answer(
            request, "switch.html", status=status, switch=switch, form=form, titles=TITLES, rooms=known["rooms"]
        )


def _texts(switch: Switch) -> editing.Texts:
    return {name: editing.text(getattr(switch, name)) for name in TITLES}


def _mine(form: Form) -> editing.Texts:
    return {name: form.text(name) for name in TITLES}


def _plain(mine: Mapping[str, str]) -> dict[str, object]:
    """The fields as the API takes them. Raises FieldsError."""
    plain: dict[str, object] = dict(mine)
    errors = {}
    for name in ("rfs", "hfs"):
        if mine[name].isascii() and mine[name].isdigit():
            plain[name] = int(mine[name][:9])
    for name, value in plain.items():
        try:
            convert({name: value}, SwitchPatch)
        except msgspec.ValidationError as error:
            message = str(error).partition(" - at ")[0]
            errors[name] = f"{TITLES[name]}: {message[:1].lower()}{message[1:]}"
    if errors:
        raise editing.FieldsError(errors)
    return plain


def _refused(error: BacklineError) -> int:
    return 409 if isinstance(error, BusyError) else 422
