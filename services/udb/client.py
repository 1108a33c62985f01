"""The typed client of udb: `AsyncUdb` for asyncio, `Udb` that blocks; the calls are described once."""

from __future__ import annotations

from collections.abc import Sequence

from services.common.changes import Audit
from services.common.client import AsyncClient, Call, Client, Nothing, path_of
from services.common.formats import Format
from services.common.users import UserGroup
from services.udb.schema import (
    Edited,
    Edits,
    Imported,
    ImportFormat,
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
)

SOCKET = "unix:/run/backline/udb.sock"


def users_call(query: str = "", *, limit: int | None = None, offset: int | None = None) -> Call[Users]:
    return Call("GET", "/v1/users", Users, query={"q": query or None, "limit": limit, "offset": offset})


def user_call(name: int | str) -> Call[User]:
    return Call("GET", path_of("v1", "users", str(name)), User)


def create_call(user: NewUser) -> Call[User]:
    return Call("POST", "/v1/users", User, body=user)


def change_call(id: int, patch: UserPatch, *, match: int | None = None) -> Call[User]:
    return Call("PATCH", path_of("v1", "users", str(id)), User, body=patch, headers=_match(match))


def delete_call(id: int, *, match: int | None = None) -> Call[Nothing]:
    return Call("DELETE", path_of("v1", "users", str(id)), Nothing, headers=_match(match))


def edit_call(edits: Edits) -> Call[Edited]:
    return Call("POST", "/v1/edits", Edited, body=edits)


def take_call(
    content: bytes, format: ImportFormat, *, group: UserGroup = UserGroup.USER, generate: bool = True, dry: bool = False
) -> Call[Imported]:
    query = {"format": format.value, "group": group.value, "generate": str(generate).lower(), "dry": str(dry).lower()}
    return Call("POST", "/v1/import", Imported, query=query, text=(format.media_type, content))


def export_call(format: Format, query: str = "") -> Call[Nothing]:
    return Call("GET", "/v1/export", Nothing, query={"format": format.value, "q": query})


def password_call(id: int) -> Call[Shown]:
    return Call("POST", path_of("v1", "users", str(id), "password"), Shown)


def sheet_call(ids: Sequence[int] = (), query: str = "") -> Call[Sheet]:
    return Call("POST", "/v1/sheet", Sheet, body=SheetRequest(ids=list(ids), q=query))


def pools_call() -> Call[Pools]:
    return Call("GET", "/v1/pools", Pools)


def message_call() -> Call[Message]:
    return Call("GET", "/v1/message", Message)


def announce_call(text: str) -> Call[Message]:
    return Call("PUT", "/v1/message", Message, body=NewMessage(text=text))


def audit_call(
    user: int | None = None, *, topic: str | None = None, before: int | None = None, limit: int | None = None
) -> Call[Audit]:
    return Call("GET", "/v1/audit", Audit, query={"user": user, "topic": topic, "before": before, "limit": limit})


def _match(revision: int | None) -> dict[str, str]:
    return {} if revision is None else {"if-match": f'"{revision}"'}


class Udb(Client):
    """udb, blocking. Errors are those of `services.common.client`."""

    def users(self, query: str = "", *, limit: int | None = None, offset: int | None = None) -> Users:
        """Users that a query finds."""
        return self.send(users_call(query, limit=limit, offset=offset))

    def user(self, name: int | str) -> User:
        """One user by id, or by exact login."""
        return self.send(user_call(name))

    def create(self, user: NewUser) -> User:
        """Add a user."""
        return self.send(create_call(user))

    def change(self, id: int, patch: UserPatch, *, match: int | None = None) -> User:
        """Change a user; with `match`, only while its revision is that one."""
        return self.send(change_call(id, patch, match=match))

    def delete(self, id: int, *, match: int | None = None) -> None:
        """Remove a user."""
        self.send(delete_call(id, match=match))

    def edit(self, edits: Edits) -> Edited:
        """Many edits, all of them or none."""
        return self.send(edit_call(edits))

    def take(
        self,
        content: bytes,
        format: ImportFormat,
        *,
        group: UserGroup = UserGroup.USER,
        generate: bool = True,
        dry: bool = False,
    ) -> Imported:
        """Import people; with `dry`, only tell what would change."""
        return self.send(take_call(content, format, group=group, generate=generate, dry=dry))

    def export(self, format: Format, query: str = "") -> bytes:
        """Users as a table."""
        return self.fetch(export_call(format, query))

    def password(self, id: int) -> Shown:
        """Somebody's password; the history says that it was shown."""
        return self.send(password_call(id))

    def sheet(self, ids: Sequence[int] = (), query: str = "") -> Sheet:
        """Passwords of many; the history says that each was shown."""
        return self.send(sheet_call(ids, query))

    def pools(self) -> Pools:
        """The pools of uids."""
        return self.send(pools_call())

    def message(self) -> Message:
        """The message of the day."""
        return self.send(message_call())

    def announce(self, text: str) -> Message:
        """Say another message of the day; an empty one takes it away."""
        return self.send(announce_call(text))

    def audit(
        self, user: int | None = None, *, topic: str | None = None, before: int | None = None, limit: int | None = None
    ) -> Audit:
        """Who changed what and saw which password, the newest first."""
        return self.send(audit_call(user, topic=topic, before=before, limit=limit))


class AsyncUdb(AsyncClient):
    """udb, for asyncio. Errors are those of `services.common.client`."""

    async def users(self, query: str = "", *, limit: int | None = None, offset: int | None = None) -> Users:
        """Users that a query finds."""
        return await self.send(users_call(query, limit=limit, offset=offset))

    async def user(self, name: int | str) -> User:
        """One user by id, or by exact login."""
        return await self.send(user_call(name))

    async def edit(self, edits: Edits) -> Edited:
        """Many edits, all of them or none."""
        return await self.send(edit_call(edits))
