"""The HTTP face of mdb: machines, their pools and history, and the feed.

Reading is open to the LAN, as it always was; notes, history and exports are for the users of this host and those who
have logged in, the feed for them and who has its scope. Writing is for role root (`services.common.access`): over the
unix socket root, mdb's own user and the members of the groups of setting `writer_groups`; over HTTPS who has logged in
as root.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import re
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from services.common.access import LOCAL, Access, Role, caller_of, require
from services.common.app import Application, create_app
from services.common.edge import Operation, read_body, read_query, read_text
from services.common.errors import AccessError
from services.common.feed.server import Feed
from services.common.pages import HTMX
from services.common.records import id_of, match_of, placed, tagged
from services.mdb import inventory, query, tables
from services.mdb.models import outbox
from services.mdb.pages import make_pages
from services.mdb.pages import routes as pages_of
from services.mdb.pages.facts import Source
from services.mdb.schema import (
    Actor,
    Audit,
    AuditQuery,
    Code,
    Edited,
    Edits,
    ExportQuery,
    Format,
    Imported,
    ImportQuery,
    InventoryQuery,
    Machine,
    MachinePatch,
    Machines,
    MachinesQuery,
    NewMachine,
    NewSwitch,
    Pools,
    Registration,
    Switch,
    Switches,
    SwitchPatch,
    Target,
    TargetsQuery,
    Variable,
    VariablesList,
    VariableValue,
    without_notes,
)
from services.mdb.store import MACHINES, TOPICS, Create, Delete, Edit, Store, Update

BULK_BYTES = 16 * 1024 * 1024


class Mdb:
    """The handlers, around one store."""

    def __init__(self, store: Store) -> None:
        self.store = store

    async def machines(self, request: Request) -> Machines:
        """Machines that a query finds (see `services.mdb.query`), in the order of their host names."""
        asked = read_query(request, MachinesQuery)
        found = await asyncio.to_thread(self._found, asked.q, public=not may_read(request))
        return Machines(machines=found[asked.offset : asked.offset + asked.limit], total=len(found))

    async def machine(self, request: Request) -> Response:
        """One machine by id, or by exact name, MAC or address; its ETag is what If-Match wants."""
        name = request.path_params["name"]
        public = not may_read(request)
        id = int(name) if re.fullmatch(r"[0-9]{1,18}", name) else name
        machine = await asyncio.to_thread(self.store.machine, id)
        return tagged(without_notes(machine) if public else machine)

    async def create(self, request: Request) -> Response:
        """Add a machine."""
        actor = writer(request)
        new = await read_body(request, NewMachine)
        made = await asyncio.to_thread(self.store.create, actor, new)
        return tagged(made, status=201)

    async def change(self, request: Request) -> Response:
        """Change a machine; with If-Match, only while it is as the caller last saw it."""
        actor = writer(request)
        patch = await read_body(request, MachinePatch)
        id, match = id_of(request), match_of(request)
        return tagged(await asyncio.to_thread(self.store.update, actor, id, patch, match=match))

    async def delete(self, request: Request) -> None:
        """Remove a machine; its address rests before it is given again."""
        actor = writer(request)
        await asyncio.to_thread(self.store.delete, actor, id_of(request), match=match_of(request))

    async def edit(self, request: Request) -> Edited:
        """Many edits, all of them or none; with `dry`, only told."""
        actor = writer(request)
        asked = await read_body(request, Edits)
        edits: list[Edit] = [Create(new) for new in asked.create]
        edits += [Update(change.id, change.patch, change.match) for change in asked.update]
        edits += [Delete(gone.id, gone.match) for gone in asked.delete]
        after = await placed(lambda: self.store.edit(actor, edits, dry=asked.dry))
        return Edited(machines=[machine for machine in after if machine is not None], dry=asked.dry)

    async def take(self, request: Request) -> Imported:
        """Import machines from a table, all of them or none; with `dry`, only tell what would change.

        A row means the machine with its id, else with its MAC address, else with its host name, else a new one.
        """
        actor = writer(request)
        asked = read_query(request, ImportQuery)
        media_type, content = await read_text(request, *(format.media_type for format in Format))
        format = next(format for format in Format if format.media_type == media_type)

        return await placed(lambda: self.store.take(actor, tables.read(content, format), dry=asked.dry))

    async def export(self, request: Request) -> Response:
        """Machines as a table, which an import takes back."""
        check_reader(request)
        asked = read_query(request, ExportQuery)
        text = await asyncio.to_thread(lambda: tables.write(self._found(asked.q), asked.format))
        headers = {"content-disposition": f'attachment; filename="machines.{asked.format.value}"'}
        return Response(text, headers=headers, media_type=asked.format.media_type)

    async def ansible(self, request: Request) -> dict[str, object]:
        """The hall as an inventory of Ansible: a group for each type and room."""
        asked = read_query(request, InventoryQuery)
        return inventory.ansible(await asyncio.to_thread(self._found, asked.q, public=not may_read(request)))

    async def prometheus(self, request: Request) -> list[Target]:
        """The hall as targets for Prometheus (HTTP service discovery)."""
        asked = read_query(request, TargetsQuery)
        return inventory.prometheus(
            await asyncio.to_thread(self._found, asked.q, public=not may_read(request)), asked.port
        )

    def _found(self, words: str, *, public: bool = False) -> list[Machine]:
        """`public`: as everybody may see them, and search for them."""
        test = query.parse(words)
        machines = self.store.machines()
        return [machine for machine in (map(without_notes, machines) if public else machines) if test(machine)]

    async def code(self, request: Request) -> Code:
        """A code with which this machine registers again: shown once, good once, for 15 minutes."""
        actor = writer(request)
        return await asyncio.to_thread(self.store.make_code, actor, id_of(request))

    async def register(self, request: Request) -> Response:
        """A machine that boots registers itself, or again with a code; netboot asks for it.

        What is refused is worded for the screen of that machine.
        """
        check_registrar(request)
        asked = await read_body(request, Registration)
        return tagged(await asyncio.to_thread(self.store.register, asked), status=201)

    async def switches(self, request: Request) -> Switches:  # noqa: ARG002
        """Switches, in the order of their names."""
        return Switches(switches=await asyncio.to_thread(self.store.switches))

    async def switch(self, request: Request) -> Response:
        """One switch; its ETag is what If-Match wants."""
        return tagged(await asyncio.to_thread(self.store.switch, id_of(request)))

    async def create_switch(self, request: Request) -> Response:
        """Add a switch."""
        actor = writer(request)
        new = await read_body(request, NewSwitch)
        return tagged(await asyncio.to_thread(self.store.create_switch, actor, new), status=201)

    async def change_switch(self, request: Request) -> Response:
        """Change a switch; with If-Match, only while it is as the caller last saw it."""
        actor = writer(request)
        patch = await read_body(request, SwitchPatch)
        id, match = id_of(request), match_of(request)
        return tagged(await asyncio.to_thread(self.store.update_switch, actor, id, patch, match=match))

    async def delete_switch(self, request: Request) -> None:
        """Remove a switch."""
        actor = writer(request)
        id, match = id_of(request), match_of(request)
        await asyncio.to_thread(self.store.delete_switch, actor, id, match=match)

    async def settings(self, request: Request) -> VariablesList:  # noqa: ARG002
        """What is changed while the hall runs, with types, defaults and meanings."""
        return VariablesList(settings=await asyncio.to_thread(self.store.settings))

    async def set(self, request: Request) -> Variable:
        """Change a setting; its history is in the audit."""
        actor = writer(request)
        asked = await read_body(request, VariableValue)
        return await asyncio.to_thread(self.store.set, actor, request.path_params["key"], asked.value)

    async def pools(self, request: Request) -> Pools:  # noqa: ARG002
        """The pools of addresses, and what is left in them."""
        return Pools(pools=await asyncio.to_thread(self.store.pools))

    async def audit(self, request: Request) -> Audit:
        """Who changed what, the newest first."""
        check_reader(request)
        asked = read_query(request, AuditQuery)
        topic, key = None if asked.topic is None else asked.topic.value, asked.key
        if asked.machine is not None:
            topic, key = MACHINES, str(asked.machine)
        read = functools.partial(self.store.audit, topic=topic, key=key, before=asked.before, limit=asked.limit)
        return Audit(entries=await asyncio.to_thread(read))


def may_read(request: Request) -> bool:
    """Is it more than what everybody sees? Raises AccessError of `caller_of`."""
    caller = caller_of(request)
    return caller.origin == LOCAL or caller.has(Role.ORGANIZER)


def check_reader(request: Request) -> None:
    """Raises AccessError of `require`."""
    if not may_read(request):
        require(request, Role.ORGANIZER)


def writer(request: Request) -> Actor:
    """Who is writing. Raises AccessError of `services.common.access.require`."""
    caller = require(request, Role.ROOT)
    return Actor(caller.name, caller.origin)


def check_registrar(request: Request) -> None:
    """netboot on this host, who has scope `register`, or who writes. Raises AccessError of `require`."""
    caller = caller_of(request)
    if not (caller.origin == LOCAL and caller.has(Role.SERVICE)):
        require(request, Role.ROOT, scope="register")


def make_app(store: Store, access: Access, *, htmx: Path = HTMX, sources: Sequence[Source] = ()) -> Application:
    """mdb's application. `sources` know more of a machine, for its page."""
    mdb = Mdb(store)
    pages = make_pages(htmx=htmx, login=access.tokens is not None)
    feed = Feed(store.database, outbox, store.source, topics=TOPICS)

    async def subscribe(request: Request) -> Response:
        if caller_of(request).origin != LOCAL:
            caller = require(request, Role.ORGANIZER, Role.SERVICE, scope="feed")
            if caller.machine is not None:  # a seat, whose user may have its token: records hold notes
                raise AccessError("auth.denied", "machines of seats do not follow mdb")
        return await feed.subscribe(request)

    @contextlib.asynccontextmanager
    async def lifespan(app: Application) -> AsyncIterator[None]:
        await asyncio.to_thread(store.prepare)
        async with feed.run(app):
            yield

    writing = [401, 403, 404, 409, 422]
    return create_app(
        service="mdb",
        access=access,
        description="The machine database: what is in the hall, where it gets its address, root and home from.",
        checks={"feed": feed.healthy, "hall": store.declared},
        lifespan=lifespan,
        max_body_size=BULK_BYTES,
        error_page=pages.error,
        routes=[
            Operation("GET", "/v1/machines", mdb.machines, summary="Machines", query=MachinesQuery, answer=Machines),
            Operation(
                "POST",
                "/v1/machines",
                mdb.create,
                summary="Add a machine",
                body=NewMachine,
                answer=Machine,
                status=201,
                errors=writing,
            ),
            Operation(
                "POST", "/v1/edits", mdb.edit, summary="Many edits at once", body=Edits, answer=Edited, errors=writing
            ),
            Operation("GET", "/v1/machines/{name}", mdb.machine, summary="A machine", answer=Machine, errors=[404]),
            Operation(
                "PATCH",
                "/v1/machines/{id:int}",
                mdb.change,
                summary="Change a machine",
                body=MachinePatch,
                answer=Machine,
                errors=writing,
            ),
            Operation(
                "DELETE", "/v1/machines/{id:int}", mdb.delete, summary="Remove a machine", status=204, errors=writing
            ),
            Operation(
                "POST",
                "/v1/machines/{id:int}/code",
                mdb.code,
                summary="A code to register again",
                answer=Code,
                status=201,
                errors=[403, 404],
            ),
            Operation(
                "POST",
                "/v1/register",
                mdb.register,
                summary="Register a machine",
                body=Registration,
                answer=Machine,
                status=201,
                errors=writing,
            ),
            Operation("GET", "/v1/switches", mdb.switches, summary="Switches", answer=Switches),
            Operation(
                "POST",
                "/v1/switches",
                mdb.create_switch,
                summary="Add a switch",
                body=NewSwitch,
                answer=Switch,
                status=201,
                errors=writing,
            ),
            Operation("GET", "/v1/switches/{id:int}", mdb.switch, summary="A switch", answer=Switch, errors=[404]),
            Operation(
                "PATCH",
                "/v1/switches/{id:int}",
                mdb.change_switch,
                summary="Change a switch",
                body=SwitchPatch,
                answer=Switch,
                errors=writing,
            ),
            Operation(
                "DELETE",
                "/v1/switches/{id:int}",
                mdb.delete_switch,
                summary="Remove a switch",
                status=204,
                errors=writing,
            ),
            Operation("GET", "/v1/settings", mdb.settings, summary="Settings", answer=VariablesList),
            Operation(
                "PUT",
                "/v1/settings/{key}",
                mdb.set,
                summary="Change a setting",
                body=VariableValue,
                answer=Variable,
                errors=writing,
            ),
            Operation(
                "POST",
                "/v1/import",
                mdb.take,
                summary="Import machines",
                query=ImportQuery,
                texts=[format.media_type for format in Format],
                answer=Imported,
                errors=writing,
            ),
            Operation(
                "GET",
                "/v1/export",
                mdb.export,
                summary="Export machines",
                query=ExportQuery,
                answers=[format.media_type for format in Format],
                errors=[401, 403],
            ),
            Operation(
                "GET",
                "/v1/ansible",
                mdb.ansible,
                summary="Inventory for Ansible",
                query=InventoryQuery,
                answer=dict[str, Any],
            ),
            Operation(
                "GET",
                "/v1/prometheus",
                mdb.prometheus,
                summary="Targets for Prometheus",
                query=TargetsQuery,
                answer=list[Target],
            ),
            Operation("GET", "/v1/pools", mdb.pools, summary="Pools of addresses", answer=Pools),
            Operation(
                "GET", "/v1/audit", mdb.audit, summary="History", query=AuditQuery, answer=Audit, errors=[401, 403]
            ),
            Route("/v1/feed", subscribe),
            *pages_of(pages, store, sources),
        ],
    )
