"""Many machines at once: picked, then what to change, then what that would do, then done, all of them or none.

A selection carries each machine's revision, so that what is done is what was shown. When something was changed between
preview and going ahead, the preview is made again and says so.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute

from services.common.codec import convert
from services.common.errors import BacklineError, UsageError
from services.common.pages import Page, Pages
from services.common.pages.forms import Form, read_form
from services.mdb.pages import editing, listing
from services.mdb.pages.machines import suggestions
from services.mdb.pages.people import writer
from services.mdb.schema import Actor, Machine
from services.mdb.store import Delete, Edit, Store, Update

SHOWN = 500
"""So many machines stand in a preview one by one."""
FIELDS = ("room", "rfs", "hfs", "type", "channel")


@dataclass(frozen=True)
class Picked:
    """Machines by id with the revision at which they were shown."""

    revisions: dict[int, int]

    @classmethod
    def parse(cls, text: str) -> Picked:
        """`12:345 13:346`. Raises UsageError("request.syntax")."""
        try:
            pairs = [word.split(":") for word in text.split()]
            return cls({int(id): int(revision) for id, revision in pairs})
        except ValueError as error:
            raise UsageError("request.syntax", "the form does not say which machines are meant") from error

    @classmethod
    def of(cls, machines: Sequence[Machine]) -> Picked:
        return cls({machine.id: machine.revision for machine in machines})

    def __str__(self) -> str:
        return " ".join(f"{id}:{revision}" for id, revision in self.revisions.items())


class BulkPages:
    """The handlers, around one store."""

    def __init__(self, pages: Pages, store: Store) -> None:
        self.pages = pages
        self.store = store

    def routes(self) -> list[BaseRoute]:
        return [
            Page("GET", "/machines/edit", self.back),
            Page("POST", "/machines/edit", self.choose),
            Page("GET", "/machines/edit/preview", self.back),
            Page("POST", "/machines/edit/preview", self.preview),
            Page("POST", "/machines/edit/apply", self.apply),
        ]

    async def back(self, _: Request) -> Response:
        """These pages are made from a selection; without one there is the list."""
        return RedirectResponse("/machines", status_code=303)

    async def choose(self, request: Request) -> Response:
        """What to change of the machines that were picked, or of all that the query finds."""
        writer(request)
        form = await read_form(request)
        machines = await asyncio.to_thread(self._selected, form)
        return await self._choose(request, machines, _values(form))

    async def preview(self, request: Request) -> Response:
        """What it would do; nothing is done."""
        actor = writer(request)
        form = await read_form(request)
        machines = await asyncio.to_thread(self._again, form)
        return await self._preview(request, actor, machines, form)

    async def apply(self, request: Request) -> Response:
        """Do it, if everything is as it was shown."""
        actor = writer(request)
        form = await read_form(request)
        picked = Picked.parse(form.raw("machines"))
        edits = _edits(form, picked)
        try:
            await asyncio.to_thread(self.store.edit, actor, edits)
        except BacklineError as error:
            machines = await asyncio.to_thread(self._again, form)
            changed = [machine for machine in machines if machine.revision != picked.revisions[machine.id]]
            return await self._preview(request, actor, machines, form, changed=changed, refusal=error)
        return RedirectResponse(f"/machines?done={len(edits)}", status_code=303)

    def _selected(self, form: Form) -> list[Machine]:
        """Of the list's form: those with a tick, or all that its query finds. Of our own: those that it names."""
        if form.raw("machines"):
            return self._again(form)
        if form.text("which") == "all":
            words = {name: form.text(name) for name in ("q", *listing.FILTERS)}
            try:
                asked = convert(words, listing.Asked)
            except msgspec.ValidationError as error:
                raise UsageError("request.query", str(error)) from error
            return list(listing.listing(self.store.machines(), asked).found)
        ids = [int(word) for word in form.all("machine") if word.isascii() and word.isdigit() and len(word) < 19]
        return sorted(self.store.machines(ids), key=listing.ORDERS["hostname"])

    def _again(self, form: Form) -> list[Machine]:
        machines = self.store.machines(list(Picked.parse(form.raw("machines")).revisions))
        return sorted(machines, key=listing.ORDERS["hostname"])

    async def _choose(
        self, request: Request, machines: Sequence[Machine], values: editing.Texts, *, status: int = 200, **context: Any
    ) -> Response:
        every = await asyncio.to_thread(self.store.machines)
        usual: dict[str, object] = {"errors": {}, "refusal": None}
        return await self.pages.answer(
            request,
            "bulk.html",
            status=status,
            machines=machines,
            picked=str(Picked.of(machines)),
            values=values,
            **{**usual, **suggestions(every), **context},
        )

    async def _preview(
        self,
        request: Request,
        actor: Actor,
        machines: Sequence[Machine],
        form: Form,
        *,
        changed: Sequence[Machine] = (),
        refusal: BacklineError | None = None,
    ) -> Response:
        values, picked = _values(form), Picked.of(machines)
        try:
            edits = _edits(form, picked)
            planned = await asyncio.to_thread(self.store.edit, actor, edits, dry=True)
        except editing.FieldsError as wrong:
            return await self._choose(request, machines, values, errors=wrong.errors, status=422)
        except BacklineError as error:
            return await self._choose(request, machines, values, refusal=error, status=422)
        changes = [editing.Change(before, after) for before, after in zip(machines, planned, strict=True)]
        changes = [change for change in changes if change.after is None or change.differences]
        if not changes:
            return await self._choose(request, machines, values, refusal=NOTHING, status=422)
        return await self.pages.answer(
            request,
            "preview.html",
            status=200 if refusal is None else 409,
            changes=changes,
            groups=editing.groups(changes),
            untouched=len(machines) - len(changes),
            removing=form.text("what") == "remove",
            picked=str(Picked.of([change.before for change in changes])),
            values=values,
            changed=changed,
            refusal=refusal,
            shown_at_most=SHOWN,
        )


NOTHING = UsageError("request.query", "nothing would change", hint="fill in at least one field with another value")


def _values(form: Form) -> editing.Texts:
    return {name: form.text(name) for name in (*FIELDS, "pin", "pinned", "faulty", "faulty_reason", "what")}


def _edits(form: Form, picked: Picked) -> list[Edit]:
    """Raises FieldsError, UsageError."""
    if not picked.revisions:
        raise UsageError("request.query", "no machine is picked", hint="put a tick before at least one")
    if form.text("what") == "remove":
        return [Delete(id, revision) for id, revision in picked.revisions.items()]
    values = _values(form)
    given = {name: values[name] for name in FIELDS if values[name]}
    match values["pin"]:
        case "pin":
            if not values["pinned"]:
                raise editing.FieldsError({"pinned": "Pinned version: which one?"})
            given["pinned"] = values["pinned"]
        case "unpin":
            given["pinned"] = ""
    match values["faulty"]:
        case "yes":
            given |= {"faulty": "yes", "faulty_reason": values["faulty_reason"]}
        case "no":
            given |= {"faulty": "", "faulty_reason": ""}
    patch = editing.patch(given, dict.fromkeys(given, "\0"))
    return [Update(id, patch, revision) for id, revision in picked.revisions.items()]
