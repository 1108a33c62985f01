"""Passwords to be printed: of those who were ticked, or all that a query found."""

from __future__ import annotations

import asyncio

import msgspec
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute

from services.common.codec import convert
from services.common.errors import UsageError
from services.common.pages import Page, Pages
from services.common.pages.forms import Form, read_form
from services.udb import sheets
from services.udb.eyes import Person
from services.udb.pages.listing import FILTERS, LISTS, ORDERS, Asked
from services.udb.pages.people import person_of
from services.udb.store import Store


class SheetPages:
    """The handlers, around one store."""

    def __init__(self, pages: Pages, store: Store, *, hall: str) -> None:
        self.pages = pages
        self.store = store
        self.hall = hall

    def routes(self) -> list[BaseRoute]:
        return [Page("GET", "/sheet", self.back), Page("POST", "/sheet", self.sheet)]

    async def back(self, _: Request) -> Response:
        """A sheet begins with people."""
        return RedirectResponse("/users", status_code=303)

    async def sheet(self, request: Request) -> Response:
        """The sheet. The history says of each password who saw it."""
        person = person_of(request)
        form = await read_form(request)
        per_page = _per_page(form)
        ids = await asyncio.to_thread(self._ids, person, form)
        if not ids:
            raise UsageError("request.query", "nobody was ticked", hint="go back and tick somebody, or print all found")
        people = await asyncio.to_thread(self.store.show, person, ids, how="sheet")
        css = self.pages.address("sheet.css")
        text = await asyncio.to_thread(sheets.page, people, hall=self.hall, per_page=per_page, back="/users", css=css)
        return Response(text, headers={"cache-control": "no-store"}, media_type="text/html")

    def _ids(self, person: Person, form: Form) -> list[int]:
        if form.text("which") == "all":
            words = {name: form.text(name) for name in ("q", *FILTERS)}
            try:
                asked = convert(words, Asked)
            except msgspec.ValidationError as error:
                raise UsageError("request.query", "the form is not one of ours") from error
            return [user.id for user in LISTS.listing(self.store.users(person), asked).found]
        ids = {int(value) for value in form.all("user") if value.isascii() and value.isdigit() and len(value) < 19}
        return [user.id for user in sorted(self.store.users(person, ids), key=ORDERS["login"])]


def _per_page(form: Form) -> int:
    try:
        number = int(form.text("per_page") or sheets.USUAL)
    except ValueError:
        number = 0
    if number not in sheets.GRIDS:
        raise UsageError("request.query", f"a page has {', '.join(map(str, sheets.GRIDS))} passwords")
    return number
