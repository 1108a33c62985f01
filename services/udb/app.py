"""The HTTP face of udb: users, their passwords and history, and the feeds.

Roots see and change all, organizers see contestants (`services.udb.eyes`), both say the message of the day, and nobody
else sees anything but a feed: the public one is for every service of this host, for who has scope `feed`, seats among
them, and for roots; the one with hashes and keys for members of the groups of setting `private_groups`, for scope
`feed-private`, and for roots.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import re
from collections.abc import AsyncIterator
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from services.common.access import LOCAL, Access, Role, caller_of, require
from services.common.app import Application, create_app
from services.common.changes import Audit
from services.common.codec import encode_json
from services.common.edge import Operation, read_body, read_query, read_text
from services.common.errors import AccessError
from services.common.feed.server import Feed
from services.common.formats import Format
from services.common.pages import HTMX
from services.common.records import id_of, match_of, placed, tagged
from services.udb import importing, query, tables
from services.udb.eyes import Person
from services.udb.history import TOPICS
from services.udb.models import outbox
from services.udb.pages import make_pages
from services.udb.pages import routes as pages_of
from services.udb.pages.people import person_of
from services.udb.rows import public
from services.udb.schema import (
    AuditQuery,
    Edited,
    Edits,
    ExportQuery,
    Imported,
    ImportFormat,
    ImportQuery,
    Message,
    NewMessage,
    NewUser,
    Pools,
    Sheet,
    SheetRequest,
    Shown,
    User,
    UserPatch,
    Users,
    UsersQuery,
)
from services.udb.store import Create, Delete, Edit, Store, Update

BULK_BYTES = 16 * 1024 * 1024
SECRET = {"cache-control": "no-store"}


class Udb:
    """The handlers, around one store."""

    def __init__(self, store: Store) -> None:
        self.store = store

    async def users(self, request: Request) -> Users:
        """Users that a query finds (see `services.udb.query`), in the order of their logins."""
        person = person_of(request)
        asked = read_query(request, UsersQuery)
        found = await asyncio.to_thread(self.found, person, asked.q)
        return Users(users=found[asked.offset : asked.offset + asked.limit], total=len(found))

    async def user(self, request: Request) -> Response:
        """One user by id, or by exact login; its ETag is what If-Match wants."""
        person = person_of(request)
        name = request.path_params["name"]
        id = int(name) if re.fullmatch(r"[0-9]{1,18}", name) else name
        return tagged(await asyncio.to_thread(self.store.user, person, id))

    async def create(self, request: Request) -> Response:
        """Add a user."""
        person = person_of(request)
        new = await read_body(request, NewUser)
        return tagged(await asyncio.to_thread(self.store.create, person, new), status=201)

    async def change(self, request: Request) -> Response:
        """Change a user; with If-Match, only while it is as the caller last saw it."""
        person = person_of(request)
        patch = await read_body(request, UserPatch)
        id, match = id_of(request), match_of(request)
        return tagged(await asyncio.to_thread(self.store.update, person, id, patch, match=match))

    async def delete(self, request: Request) -> None:
        """Remove a user. The id is never used again, the uid as late as can be."""
        person = person_of(request)
        await asyncio.to_thread(self.store.delete, person, id_of(request), match=match_of(request))

    async def edit(self, request: Request) -> Edited:
        """Many edits, all of them or none; with `dry`, only told."""
        person = person_of(request)
        asked = await read_body(request, Edits)
        edits: list[Edit] = [Create(new) for new in asked.create]
        edits += [Update(change.id, change.patch, change.match) for change in asked.update]
        edits += [Delete(gone.id, gone.match) for gone in asked.delete]
        after = await placed(lambda: self.store.edit(person, edits, dry=asked.dry))
        return Edited(users=[user for user in after if user is not None], dry=asked.dry)

    async def take(self, request: Request) -> Imported:
        """Import people, all of them or none; with `dry`, only tell what would change."""
        person = person_of(request)
        asked = read_query(request, ImportQuery)
        _, content = await read_text(request, asked.format.media_type)
        return await placed(lambda: self.imported(person, content, asked))

    def imported(self, person: Person, content: bytes, asked: ImportQuery) -> Imported:
        """What an import did, or would do."""
        plan = importing.planner(content, asked, foreign=self.store.foreign)
        return self.store.take(person, plan, dry=asked.dry)

    async def export(self, request: Request) -> Response:
        """Users as a table, which an import takes back; without passwords."""
        person = person_of(request)
        asked = read_query(request, ExportQuery)
        text = await asyncio.to_thread(lambda: tables.write(self.found(person, asked.q), asked.format))
        headers = {"content-disposition": f'attachment; filename="users.{asked.format.value}"'}
        return Response(text, headers=headers, media_type=asked.format.media_type)

    async def password(self, request: Request) -> Response:
        """Somebody's password, to be given back. The history says who saw it, before it is answered."""
        person = person_of(request)
        (shown,) = await asyncio.to_thread(self.store.show, person, [id_of(request)])
        return _secret(shown)

    async def sheet(self, request: Request) -> Response:
        """Passwords of many, to be printed. The history says of each who saw it, before any is answered."""
        person = person_of(request)
        asked = await read_body(request, SheetRequest)
        ids = asked.ids or [user.id for user in await asyncio.to_thread(self.found, person, asked.q)]
        return _secret(Sheet(people=await asyncio.to_thread(self.store.show, person, ids, how="sheet")))

    async def pools(self, request: Request) -> Pools:
        """The pools of uids, and what is left in them."""
        person = person_of(request)
        return Pools(pools=await asyncio.to_thread(self.store.pools, person))

    async def message(self, request: Request) -> Message:
        """The message of the day, which seats show to who has not logged in yet."""
        return await asyncio.to_thread(self.store.message, person_of(request))

    async def announce(self, request: Request) -> Message:
        """Say another message of the day; an empty one takes it away."""
        person = person_of(request)
        asked = await read_body(request, NewMessage)
        return await asyncio.to_thread(self.store.announce, person, asked.text)

    async def audit(self, request: Request) -> Audit:
        """Who changed what and who saw which password, the newest first."""
        person = person_of(request)
        asked = read_query(request, AuditQuery)
        topic = None if asked.topic is None else asked.topic.value
        key = None if asked.user is None else str(asked.user)
        read = functools.partial(self.store.audit, person, topic=topic, key=key, before=asked.before, limit=asked.limit)
        return Audit(entries=await asyncio.to_thread(read))

    def found(self, person: Person, words: str) -> list[User]:
        """Users that a query finds among those whom `person` sees."""
        test = query.parse(words)
        return [user for user in self.store.users(person) if test(user)]


def check_follower(request: Request) -> None:
    """For the public feed. Raises AccessError of `require`."""
    if caller_of(request).origin != LOCAL:
        require(request, Role.ROOT, scope="feed")


def check_confidant(request: Request) -> None:
    """For the private feed. Raises AccessError of `require`."""
    caller = caller_of(request)
    if caller.origin == LOCAL and caller.has(Role.SERVICE):
        return
    require(request, Role.ROOT, scope="feed-private")
    if caller.machine is not None:  # no token of a seat has such a scope, nor shall one
        raise AccessError("auth.denied", "machines of seats do not follow what is private")


def make_app(store: Store, access: Access, *, hall: str = "", htmx: Path = HTMX) -> Application:
    """udb's application. `hall` is what password sheets are headed with."""
    udb = Udb(store)
    pages = make_pages(htmx=htmx, login=access.tokens is not None)
    feed = Feed(store.database, outbox, store.source, topics=TOPICS, shown=public)
    private = Feed(store.database, outbox, store.private_source, topics=TOPICS, name="private")

    async def follow(request: Request) -> Response:
        check_follower(request)
        return await feed.subscribe(request)

    async def follow_private(request: Request) -> Response:
        check_confidant(request)
        return await private.subscribe(request)

    @contextlib.asynccontextmanager
    async def lifespan(app: Application) -> AsyncIterator[None]:
        await asyncio.to_thread(store.prepare)
        async with feed.run(app), private.run(app):
            yield

    reading, writing = [401, 403], [401, 403, 404, 409, 422, 503]
    return create_app(
        service="udb",
        access=access,
        description="The user database: who logs in, with which groups, keys and passwords.",
        checks={"feed": feed.healthy, "private": private.healthy, "key": store.sealed},
        lifespan=lifespan,
        max_body_size=BULK_BYTES,
        error_page=pages.error,
        routes=[
            Operation("GET", "/v1/users", udb.users, summary="Users", query=UsersQuery, answer=Users, errors=reading),
            Operation(
                "POST",
                "/v1/users",
                udb.create,
                summary="Add a user",
                body=NewUser,
                answer=User,
                status=201,
                errors=writing,
            ),
            Operation(
                "POST", "/v1/edits", udb.edit, summary="Many edits at once", body=Edits, answer=Edited, errors=writing
            ),
            Operation("GET", "/v1/users/{name}", udb.user, summary="A user", answer=User, errors=[401, 403, 404]),
            Operation(
                "PATCH",
                "/v1/users/{id:int}",
                udb.change,
                summary="Change a user",
                body=UserPatch,
                answer=User,
                errors=writing,
            ),
            Operation("DELETE", "/v1/users/{id:int}", udb.delete, summary="Remove a user", status=204, errors=writing),
            Operation(
                "POST",
                "/v1/users/{id:int}/password",
                udb.password,
                summary="Show a password",
                answer=Shown,
                errors=[401, 403, 404, 422, 503],
            ),
            Operation(
                "POST",
                "/v1/sheet",
                udb.sheet,
                summary="Show passwords of many",
                body=SheetRequest,
                answer=Sheet,
                errors=[401, 403, 404, 422, 503],
            ),
            Operation(
                "POST",
                "/v1/import",
                udb.take,
                summary="Import people",
                query=ImportQuery,
                texts=sorted({format.media_type for format in ImportFormat}),
                answer=Imported,
                errors=writing,
            ),
            Operation(
                "GET",
                "/v1/export",
                udb.export,
                summary="Export users",
                query=ExportQuery,
                answers=[format.media_type for format in Format],
                errors=reading,
            ),
            Operation("GET", "/v1/pools", udb.pools, summary="Pools of uids", answer=Pools, errors=reading),
            Operation("GET", "/v1/message", udb.message, summary="Message of the day", answer=Message, errors=reading),
            Operation(
                "PUT",
                "/v1/message",
                udb.announce,
                summary="Say a message of the day",
                body=NewMessage,
                answer=Message,
                errors=writing,
            ),
            Operation("GET", "/v1/audit", udb.audit, summary="History", query=AuditQuery, answer=Audit, errors=reading),
            Route("/v1/feed", follow),
            Route("/v1/feed/private", follow_private),
            *pages_of(pages, store, hall=hall),
        ],
    )


def _secret(answer: Shown | Sheet) -> Response:
    """An answer that nothing on its way keeps."""
    return Response(encode_json(answer), headers=SECRET, media_type="application/json")
