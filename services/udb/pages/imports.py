"""The page of imports: a list is pasted or picked, shown as what it would change, then taken, all of it or nothing.

What was shown is what is done: the preview carries a digest of its changes, and when they would be others by the time
of going ahead, there is a new preview instead.
"""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import dataclass
from typing import NamedTuple

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute

from services.common.codec import encode_json
from services.common.errors import BacklineError, UsageError
from services.common.pages import Page, Pages
from services.common.pages.forms import Form, read_form
from services.common.pages.planned import Row
from services.common.users import UserGroup
from services.udb import importing
from services.udb.eyes import Person
from services.udb.pages import editing
from services.udb.pages.people import writer
from services.udb.schema import Imported, ImportFormat, ImportQuery, Taken
from services.udb.store import Store

SHOWN = 500
"""So many changes stand in a preview one by one."""
FORMATS = {
    ImportFormat.NAMES: "first and last name, with a tab between",
    ImportFormat.LOGINS: "a login a line",
    ImportFormat.PASSWORDS: "login:password",
    ImportFormat.SITE: "the website's JSON",
    ImportFormat.CSV: "a table, CSV",
    ImportFormat.JSON: "a table, JSON",
    ImportFormat.YAML: "a table, YAML",
}


@dataclass(frozen=True)
class Wanted:
    """What a form of an import says."""

    people: str
    query: ImportQuery

    @classmethod
    def of(cls, form: Form) -> Wanted:
        """Raises UsageError("request.query")."""
        try:
            format = ImportFormat(form.text("format") or ImportFormat.NAMES.value)
            group = UserGroup(form.text("group") or UserGroup.USER.value)
        except ValueError as error:
            raise UsageError("request.query", "the form is not one of ours") from error
        # The file, where one was picked, else what was pasted.
        people = form.raw("file") or form.raw("people")
        return cls(people, ImportQuery(format=format, group=group, generate=form.text("generate") == "yes"))


_NOTHING = Wanted("", ImportQuery(format=ImportFormat.NAMES))


class ImportPages:
    """The handlers, around one store."""

    def __init__(self, pages: Pages, store: Store) -> None:
        self.pages = pages
        self.store = store

    def routes(self) -> list[BaseRoute]:
        return [
            Page("GET", "/import", self.ask),
            Page("POST", "/import", self.preview),
            Page("GET", "/import/apply", self.back),
            Page("POST", "/import/apply", self.apply),
        ]

    async def ask(self, request: Request) -> Response:
        """Where from, and how it is written."""
        writer(request)
        return await self._ask(request, _NOTHING)

    async def back(self, _: Request) -> Response:
        """An import begins with a list."""
        return RedirectResponse("/import", status_code=303)

    async def preview(self, request: Request) -> Response:
        """What it would change; nothing is changed."""
        person = writer(request)
        return await self._preview(request, person, Wanted.of(await read_form(request)))

    async def apply(self, request: Request) -> Response:
        """Change it, if that is what was shown."""
        person = writer(request)
        form = await read_form(request)
        wanted = Wanted.of(form)
        try:
            planned = await asyncio.to_thread(self._take, person, wanted, dry=True)
            if digest(planned) != form.text("digest"):
                return await self._preview(request, person, wanted, moved=True)
            done = await asyncio.to_thread(self._take, person, wanted, dry=False)
        except BacklineError as error:
            return await self._ask(request, wanted, refusal=error)
        return RedirectResponse(f"/users?done={len(done.changes)}", status_code=303)

    def _take(self, person: Person, wanted: Wanted, *, dry: bool) -> Imported:
        plan = importing.planner(wanted.people.encode(), wanted.query, foreign=self.store.foreign)
        return self.store.take(person, plan, dry=dry)

    async def _ask(self, request: Request, wanted: Wanted, *, refusal: BacklineError | None = None) -> Response:
        return await self.pages.answer(
            request,
            "import.html",
            status=200 if refusal is None else 422,
            wanted=wanted,
            formats={format.value: text for format, text in FORMATS.items()},
            groups=[group.value for group in UserGroup],
            refusal=refusal,
        )

    async def _preview(self, request: Request, person: Person, wanted: Wanted, *, moved: bool = False) -> Response:
        if not wanted.people.strip():
            nothing = UsageError("import.syntax", "there is nothing to import", hint="pick a file, or paste a list")
            return await self._ask(request, wanted, refusal=nothing)
        try:
            planned = await asyncio.to_thread(self._take, person, wanted, dry=True)
        except BacklineError as error:
            return await self._ask(request, wanted, refusal=error)
        return await self.pages.answer(
            request,
            "import_preview.html",
            status=409 if moved else 200,
            headers={"cache-control": "no-store"},
            moved=moved,
            planned=planned,
            rows=[Row(each, _differences(each)) for each in planned.changes[:SHOWN]],
            more=max(0, len(planned.changes) - SHOWN),
            wanted=wanted,
            digest=digest(planned),
        )


def digest(planned: Imported) -> str:
    """The same for the same changes, whenever they would be made."""
    changes = [(each.line, each.id, each.login, each.action, _differences(each)) for each in planned.changes]
    return hashlib.sha256(encode_json(changes)).hexdigest()


class Difference(NamedTuple):
    """A field that an import would change, for people."""

    title: str
    before: str
    after: str


def _differences(taken: Taken) -> list[Difference]:
    """What changes: title, before, after. A password is only said to be another one."""
    before, after = taken.before or {}, taken.after or {}
    return [
        Difference(
            title,
            editing.shown(name, before.get(name)),
            "another one" if name == "password_set" and before.get(name) else editing.shown(name, after[name]),
        )
        for name, title in editing.TITLES.items()
        if name in after and before.get(name) != after[name]
    ]
