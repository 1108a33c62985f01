"""The page of imports: a table is pasted or picked, shown as what it would change, then taken, all of it or nothing.

What was shown is what is done: the preview carries a digest of its changes, and when they would be others by the time
of going ahead, there is a new preview instead.
"""

from __future__ import annotations

import asyncio
import hashlib

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute

from services.common.codec import encode_json
from services.common.errors import BacklineError, UsageError
from services.common.pages import Page, Pages
from services.common.pages.forms import Form, read_form
from services.common.pages.planned import Row
from services.mdb import tables
from services.mdb.pages import editing
from services.mdb.pages.people import writer
from services.mdb.schema import Actor, Format, Imported, Taken
from services.mdb.store import Store

SHOWN = 500
"""So many changes stand in a preview one by one."""


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
        return await self._ask(request, "", "")

    async def back(self, _: Request) -> Response:
        """An import begins with a table."""
        return RedirectResponse("/import", status_code=303)

    async def preview(self, request: Request) -> Response:
        """What it would change; nothing is changed."""
        actor = writer(request)
        form = await read_form(request)
        return await self._preview(request, actor, _table(form), form.text("format"))

    async def apply(self, request: Request) -> Response:
        """Change it, if that is what was shown."""
        actor = writer(request)
        form = await read_form(request)
        table, format = _table(form), form.text("format")
        try:
            planned = await asyncio.to_thread(self._take, actor, table, format, dry=True)
            if digest(planned) != form.text("digest"):
                return await self._preview(request, actor, table, format, moved=True)
            done = await asyncio.to_thread(self._take, actor, table, format, dry=False)
        except BacklineError as error:
            return await self._ask(request, table, format, refusal=error)
        return RedirectResponse(f"/machines?done={len(done.changes)}", status_code=303)

    def _take(self, actor: Actor, table: str, format: str, *, dry: bool) -> Imported:
        return self.store.take(actor, tables.read(table.encode(), format_of(table, format)), dry=dry)

    async def _ask(
        self, request: Request, table: str, format: str, *, refusal: BacklineError | None = None
    ) -> Response:
        return await self.pages.answer(
            request,
            "import.html",
            status=200 if refusal is None else 422,
            table=table,
            format=format,
            formats=[each.value for each in Format],
            columns=tables.COLUMNS,
            refusal=refusal,
        )

    async def _preview(
        self, request: Request, actor: Actor, table: str, format: str, *, moved: bool = False
    ) -> Response:
        if not table.strip():
            nothing = UsageError("import.syntax", "there is nothing to import", hint="pick a file, or paste a table")
            return await self._ask(request, table, format, refusal=nothing)
        try:
            planned = await asyncio.to_thread(self._take, actor, table, format, dry=True)
        except BacklineError as error:
            return await self._ask(request, table, format, refusal=error)
        return await self.pages.answer(
            request,
            "import_preview.html",
            status=409 if moved else 200,
            moved=moved,
            planned=planned,
            rows=[Row(each, _differences(each)) for each in planned.changes[:SHOWN]],
            more=max(0, len(planned.changes) - SHOWN),
            table=table,
            format=format,
            digest=digest(planned),
        )


def digest(planned: Imported) -> str:
    """The same for the same changes, whenever they would be made."""
    changes = [(each.line, each.id, each.action, _differences(each)) for each in planned.changes]
    return hashlib.sha256(encode_json(changes)).hexdigest()


def format_of(table: str, format: str) -> Format:
    """The format that was picked, or the one that a table looks like. Raises UsageError("request.query")."""
    if format:
        try:
            return Format(format)
        except ValueError as error:
            raise UsageError("request.query", f"there is no format {format!r}") from error
    begin = table.lstrip("\ufeff \t\r\n")
    if begin.startswith("["):
        return Format.JSON
    return Format.YAML if begin.startswith(("- ", "-\n", "---", "#")) else Format.CSV


def _table(form: Form) -> str:
    """The file, where one was picked, else what was pasted."""
    return form.raw("file") or form.raw("table")


def _differences(taken: Taken) -> list[editing.Difference]:
    before, after = taken.before or {}, taken.after or {}
    return [
        editing.Difference(name, editing.shown(before.get(name)), editing.shown(after[name]))
        for name in editing.TITLES
        if name in after and before.get(name) != after[name]
    ]
