"""Pages of users: the list, one user, its form, its password, its end."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute

from services.common.edge import read_query
from services.common.errors import BacklineError, UsageError
from services.common.pages import Page, Pages
from services.common.pages.forms import Form, read_form, refused, revision_of, was_of
from services.common.pages.listing import SIZES, address
from services.common.records import id_of
from services.common.ssh_keys import fingerprint
from services.common.users import SHELLS, UNIX_GROUPS, UserGroup
from services.udb.eyes import Person
from services.udb.pages import editing
from services.udb.pages.listing import LISTS, Asked
from services.udb.pages.people import person_of, writer
from services.udb.schema import Strict, User
from services.udb.sheets import GRIDS, USUAL
from services.udb.store import Store

HISTORY = 20


class Seen(Strict, frozen=True, kw_only=True):
    """The query of a user's page."""

    done: str = ""


class UserPages:
    """The handlers, around one store."""

    def __init__(self, pages: Pages, store: Store) -> None:
        self.pages = pages
        self.store = store

    def routes(self) -> list[BaseRoute]:
        return [
            Page("GET", "/users", self.users),
            Page("GET", "/users/new", self.new),
            Page("POST", "/users/new", self.create),
            Page("GET", "/users/{id:int}", self.show),
            Page("GET", "/users/{id:int}/edit", self.edit),
            Page("POST", "/users/{id:int}/edit", self.save),
            Page("POST", "/users/{id:int}/password", self.password),
            Page("GET", "/users/{id:int}/remove", self.doomed),
            Page("POST", "/users/{id:int}/remove", self.remove),
            Page("GET", "/users/{name}", self.named),
        ]

    async def users(self, request: Request) -> Response:
        """The list. A query that cannot be read is explained beside the box, and finds nothing."""
        person = person_of(request)
        asked = read_query(request, Asked)
        users = await asyncio.to_thread(self.store.users, person)
        mistake: UsageError | None = None
        try:
            found = await asyncio.to_thread(LISTS.listing, users, asked)
        except UsageError as error:
            mistake = error
            found = LISTS.nothing(asked, total=len(users))
        return await self.pages.answer(
            request,
            "users.html",
            asked=asked,
            found=found,
            mistake=mistake,
            words=LISTS.words(asked),
            address=lambda **changed: address(asked, **changed),
            sizes=SIZES,
            grids=list(GRIDS),
            usual=USUAL,
        )

    async def show(self, request: Request) -> Response:
        """One user and the history; never the password."""
        person = person_of(request)
        seen = read_query(request, Seen)
        user = await asyncio.to_thread(self.store.user, person, id_of(request))
        return await self._user(request, person, user, done=seen.done)

    async def named(self, request: Request) -> Response:
        """A user by login: leads to the page."""
        user = await asyncio.to_thread(self.store.user, person_of(request), request.path_params["name"])
        return RedirectResponse(f"/users/{user.id}", status_code=303)

    async def password(self, request: Request) -> Response:
        """The password, to be given back; this answer alone shows it, and the history says so."""
        person = person_of(request)
        (shown,) = await asyncio.to_thread(self.store.show, person, [id_of(request)])
        user = await asyncio.to_thread(self.store.user, person, shown.id)
        return await self._user(request, person, user, secret=shown, headers={"cache-control": "no-store"})

    async def edit(self, request: Request) -> Response:
        """The form, in the user's page."""
        person = writer(request)
        user = await asyncio.to_thread(self.store.user, person, id_of(request))
        return await self._form(request, person, user, mine=editing.texts(user))

    async def save(self, request: Request) -> Response:
        """Take a form. What somebody changed meanwhile stays, unless one changed it too; that is asked again."""
        person = writer(request)
        form = await read_form(request)
        mine, was, match = _mine(form), was_of(form), revision_of(form)
        user = await asyncio.to_thread(self.store.user, person, id_of(request))
        try:
            patch = editing.patch(mine, was, password=form.raw("password"), secret=form.text("secret"))
            await asyncio.to_thread(self.store.update, person, user.id, patch, match=match)
        except editing.FieldsError as wrong:
            return await self._form(request, person, user, mine=mine, errors=wrong.errors, status=422)
        except BacklineError as error:
            if error.code == "conflict.changed":
                user = await asyncio.to_thread(self.store.user, person, user.id)
                mine = editing.merged(mine, was, editing.texts(user))
            errors = _errors(error)
            return await self._form(
                request, person, user, mine=mine, errors=errors, refusal=error, status=refused(error)
            )
        return RedirectResponse(f"/users/{user.id}?done=saved", status_code=303)

    async def new(self, request: Request) -> Response:
        """The form of a user to be."""
        writer(request)
        return await self._new(request, editing.blank())

    async def create(self, request: Request) -> Response:
        """Add a user."""
        person = writer(request)
        form = await read_form(request)
        mine = _mine(form)
        try:
            new = editing.new(mine, password=form.raw("password"), secret=form.text("secret"))
            made = await asyncio.to_thread(self.store.create, person, new)
        except editing.FieldsError as wrong:
            return await self._new(request, mine, errors=wrong.errors, status=422)
        except BacklineError as error:
            return await self._new(request, mine, errors=_errors(error), refusal=error, status=refused(error))
        return RedirectResponse(f"/users/{made.id}?done=added", status_code=303)

    async def doomed(self, request: Request) -> Response:
        """Ask once more before a user goes."""
        user = await asyncio.to_thread(self.store.user, writer(request), id_of(request))
        return await self.pages.answer(request, "remove.html", user=user)

    async def remove(self, request: Request) -> Response:
        """Remove a user, if it is as it was shown."""
        person = writer(request)
        form = await read_form(request)
        await asyncio.to_thread(self.store.delete, person, id_of(request), match=revision_of(form))
        return RedirectResponse("/users?done=1", status_code=303)

    # What several of them answer

    async def _user(
        self,
        request: Request,
        person: Person,
        user: User,
        *,
        status: int = 200,
        headers: dict[str, str] | None = None,
        **context: Any,
    ) -> Response:
        history = await asyncio.to_thread(self.store.audit, person, key=str(user.id), limit=HISTORY)
        usual: dict[str, object] = {"form": None, "done": "", "secret": None}
        return await self.pages.answer(
            request,
            "user.html",
            status=status,
            headers=headers,
            user=user,
            keys=[(fingerprint(key), *key.split(None, 2)) for key in user.keys],
            unix_groups=UNIX_GROUPS[user.group],
            history=history,
            **_known(),
            **{**usual, **context},
        )

    async def _form(
        self, request: Request, person: Person, user: User, *, mine: editing.Texts, status: int = 200, **context: Any
    ) -> Response:
        form = {
            "mine": mine,
            "was": msgspec.json.encode(editing.texts(user)).decode(),
            "match": user.revision,
            "errors": {},
            "refusal": None,
            **context,
        }
        return await self._user(request, person, user, status=status, form=form)

    async def _new(self, request: Request, mine: editing.Texts, *, status: int = 200, **context: Any) -> Response:
        form = {"mine": mine, "errors": {}, "refusal": None, **context}
        return await self.pages.answer(request, "new.html", status=status, form=form, **_known())


def _known() -> dict[str, Any]:
    """What forms and histories need."""
    groups = [group.value for group in UserGroup]
    return {"titles": editing.TITLES, "shown": editing.shown, "groups": groups, "shells": SHELLS}


def _mine(form: Form) -> editing.Texts:
    return {name: "\n".join(form.text(name).splitlines()) for name in editing.FIELDS}


def _errors(error: BacklineError) -> dict[str, str]:
    field = editing.field_of(error)
    return {field: error.message} if field else {}
