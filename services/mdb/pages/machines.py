"""Pages of machines: the list, one machine, its form, its end."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute

from services.common.edge import read_query
from services.common.errors import BacklineError, UsageError
from services.common.pages import Page, Pages
from services.common.pages.forms import Form, read_form, refused, revision_of, was_of
from services.common.records import id_of
from services.mdb.pages import editing, listing
from services.mdb.pages.facts import Source, ask
from services.mdb.pages.people import Person, caller, visible, writer
from services.mdb.schema import Machine, MachineType, Strict
from services.mdb.store import MACHINES, Store

HISTORY = 20
OWNED = ("hostname", "aliases", "ip", "type")


class Seen(Strict, frozen=True, kw_only=True):
    """The query of a machine's page."""

    done: str = ""


class MachinePages:
    """The handlers, around one store."""

    def __init__(self, pages: Pages, store: Store, sources: Sequence[Source]) -> None:
        self.pages = pages
        self.store = store
        self.sources = sources

    def routes(self) -> list[BaseRoute]:
        """The order counts: what is not one of these is a name."""
        return [
            Page("GET", "/machines", self.machines),
            Page("GET", "/machines/new", self.new),
            Page("POST", "/machines/new", self.create),
            Page("GET", "/machines/{id:int}", self.show),
            Page("GET", "/machines/{id:int}/edit", self.edit),
            Page("POST", "/machines/{id:int}/edit", self.save),
            Page("POST", "/machines/{id:int}/code", self.code),
            Page("GET", "/machines/{id:int}/remove", self.doomed),
            Page("POST", "/machines/{id:int}/remove", self.remove),
            Page("GET", "/machines/{name}", self.named),
        ]

    async def machines(self, request: Request) -> Response:
        """The list. A query that cannot be read is explained beside the box, and finds nothing."""
        asked = read_query(request, listing.Asked)
        person = caller(request)
        machines = [visible(machine, person) for machine in await asyncio.to_thread(self.store.machines)]
        mistake: UsageError | None = None
        try:
            found = await asyncio.to_thread(listing.listing, machines, asked)
        except UsageError as error:
            mistake = error
            found = listing.nothing(asked, total=len(machines))
        return await self.pages.answer(
            request,
            "machines.html",
            asked=asked,
            found=found,
            mistake=mistake,
            words=listing.words(asked),
            address=lambda **changed: listing.address(asked, **changed),
            sizes=listing.SIZES,
        )

    async def show(self, request: Request) -> Response:
        """One machine, its lease, what it boots and why, its history."""
        seen = read_query(request, Seen)
        machine = await asyncio.to_thread(self.store.machine, id_of(request))
        return await self._machine(request, machine, done=seen.done)

    async def named(self, request: Request) -> Response:
        """A machine by name, MAC or address: leads to its page."""
        machine = await asyncio.to_thread(self.store.machine, request.path_params["name"])
        return RedirectResponse(f"/machines/{machine.id}", status_code=303)

    async def edit(self, request: Request) -> Response:
        """The form, in the machine's page."""
        writer(request)
        machine = await asyncio.to_thread(self.store.machine, id_of(request))
        return await self._form(request, machine, mine=editing.texts(machine))

    async def save(self, request: Request) -> Response:
        """Take a form. What somebody changed meanwhile is shown, not overwritten."""
        actor = writer(request)
        form = await read_form(request)
        mine, was, match = _mine(form), was_of(form), revision_of(form)
        machine = await asyncio.to_thread(self.store.machine, id_of(request))
        if machine.revision != match:
            return await self._contested(request, machine, form, mine=mine, was=was)
        try:
            patch = editing.patch(mine, was)
            await asyncio.to_thread(self.store.update, actor, machine.id, patch, match=match)
        except editing.FieldsError as wrong:
            return await self._form(request, machine, mine=mine, errors=wrong.errors, status=422)
        except BacklineError as error:
            if error.code == "conflict.changed":  # between our look and our write
                machine = await asyncio.to_thread(self.store.machine, machine.id)
                return await self._contested(request, machine, form, mine=mine, was=was)
            return await self._form(
                request, machine, mine=mine, errors=_errors(error), refusal=error, status=refused(error)
            )
        return RedirectResponse(f"/machines/{machine.id}?done=saved", status_code=303)

    async def _contested(
        self, request: Request, machine: Machine, form: Form, *, mine: editing.Texts, was: editing.Texts
    ) -> Response:
        theirs = editing.texts(machine)
        seen = float(form.text("seen") or 0)
        entries = await asyncio.to_thread(self.store.audit, topic=MACHINES, key=str(machine.id), limit=HISTORY)
        return await self._form(
            request,
            machine,
            mine=editing.merged(mine, was, theirs),
            contested=editing.contested(mine, was, theirs),
            culprits=[entry for entry in entries if entry.at > seen and entry.topic == MACHINES],
            status=409,
        )

    async def new(self, request: Request) -> Response:
        """The form of a machine to be."""
        writer(request)
        return await self._new(request, editing.blank())

    async def create(self, request: Request) -> Response:
        """Add a machine."""
        actor = writer(request)
        mine = _mine(await read_form(request))
        try:
            made = await asyncio.to_thread(self.store.create, actor, editing.new(mine))
        except editing.FieldsError as wrong:
            return await self._new(request, mine, errors=wrong.errors, status=422)
        except BacklineError as error:
            return await self._new(request, mine, errors=_errors(error), refusal=error, status=refused(error))
        return RedirectResponse(f"/machines/{made.id}?done=added", status_code=303)

    async def code(self, request: Request) -> Response:
        """A one-time code with which the machine registers again; this answer alone shows it."""
        actor = writer(request)
        made = await asyncio.to_thread(self.store.make_code, actor, id_of(request))
        machine = await asyncio.to_thread(self.store.machine, made.machine)
        return await self._machine(request, machine, code=made)

    async def doomed(self, request: Request) -> Response:
        """Ask once more before a machine goes."""
        writer(request)
        machine = await asyncio.to_thread(self.store.machine, id_of(request))
        return await self.pages.answer(request, "remove.html", machine=machine)

    async def remove(self, request: Request) -> Response:
        """Remove a machine, if it is as it was shown."""
        actor = writer(request)
        form = await read_form(request)
        id = id_of(request)
        await asyncio.to_thread(self.store.delete, actor, id, match=revision_of(form))
        return RedirectResponse("/machines?done=1", status_code=303)

    # What several of them answer

    async def _machine(self, request: Request, machine: Machine, *, status: int = 200, **context: Any) -> Response:
        person = caller(request)
        history, answers, known = await asyncio.gather(
            asyncio.to_thread(self._history, machine, person),
            ask(self.sources if person.may_read else (), machine),
            self._suggestions(),
        )
        usual: dict[str, object] = {"form": None, "done": "", "code": None, "owned": self._owned(machine)}
        return await self.pages.answer(
            request,
            "machine.html",
            status=status,
            machine=visible(machine, person),
            history=history,
            answers=answers,
            shown=editing.shown,
            titles=editing.TITLES,
            **{**usual, **known, **context},
        )

    def _owned(self, machine: Machine) -> tuple[str, ...]:
        """The fields that hall.toml alone changes."""
        if not machine.declared:
            return ()
        seed = self.store.seeds.get(machine.hostname)
        return OWNED if seed is None or seed.mac is None else (*OWNED, "mac")

    def _history(self, machine: Machine, person: Person) -> list[object]:
        return list(self.store.audit(topic=MACHINES, key=str(machine.id), limit=HISTORY)) if person.may_read else []

    async def _form(
        self, request: Request, machine: Machine, *, mine: editing.Texts, status: int = 200, **context: Any
    ) -> Response:
        form = {
            "mine": mine,
            "was": msgspec.json.encode(editing.texts(machine)).decode(),
            "match": machine.revision,
            "seen": machine.updated,
            "errors": {},
            "refusal": None,
            "contested": [],
            "culprits": [],
            **context,
        }
        return await self._machine(request, machine, status=status, form=form)

    async def _new(self, request: Request, mine: editing.Texts, *, status: int = 200, **context: Any) -> Response:
        form = {"mine": mine, "errors": {}, "refusal": None, **context}
        return await self.pages.answer(
            request, "new.html", status=status, form=form, titles=editing.TITLES, **await self._suggestions()
        )

    async def _suggestions(self) -> dict[str, Any]:
        machines = await asyncio.to_thread(self.store.machines)
        return suggestions(machines)


def suggestions(machines: Sequence[Machine]) -> dict[str, Any]:
    """What fields are usually filled with: types, and the rooms, channels and versions that are in use."""
    return {
        "types": [type.value for type in MachineType],
        "rooms": sorted({machine.room for machine in machines}, key=listing.natural),
        "channels": sorted({machine.channel for machine in machines} | {"stable"}),
        "versions": sorted({machine.pinned for machine in machines if machine.pinned}, reverse=True),
    }


def _mine(form: Form) -> editing.Texts:
    """The fields of a form; where a choice between two people's values was made, the chosen one."""
    mine = {name: "\n".join(form.text(name).splitlines()) for name in editing.TITLES}
    theirs = {name: value for name, value in was_of(form).items() if form.text(f"take.{name}") == "theirs"}
    return mine | theirs


def _errors(error: BacklineError) -> dict[str, str]:
    field = editing.field_of(error)
    return {field: error.message} if field else {}
