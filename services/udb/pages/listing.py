"""The list of users as people ask for it (`services.common.pages.listing`). Pure."""

from __future__ import annotations

import shlex
from typing import Annotated, Literal

from msgspec import Meta

from services.common.pages.listing import Filters, Lists, Orders, Size, natural
from services.udb import query
from services.udb.folding import folded
from services.udb.schema import Strict, User

Order = Literal["login", "name", "uid", "group", "updated"]
Picked = Annotated[str, Meta(max_length=80)]


class Asked(Strict, frozen=True, kw_only=True):
    """What the address of the list says."""

    q: Annotated[str, Meta(max_length=500)] = ""
    group: Picked = ""
    password: Picked = ""
    keys: Picked = ""
    sort: Order = "login"
    down: Literal["", "1"] = ""
    size: Size = 100
    page: Annotated[int, Meta(ge=1, le=100_000)] = 1
    done: Annotated[int, Meta(ge=0, le=1_000_000)] | None = None


FILTERS: Filters[User] = {
    "group": ("Group", lambda user: [user.group.value]),
    "password": ("Password", lambda user: ["no" if user.password_set is None else "yes"]),
    "keys": ("SSH keys", lambda user: ["yes" if user.keys else "no"]),
}
ORDERS: Orders[User] = {
    "login": lambda user: (natural(user.login),),
    "name": lambda user: (folded(user.lastname), folded(user.firstname), natural(user.login)),
    "uid": lambda user: (user.uid,),
    "group": lambda user: (user.group.value, natural(user.login)),
    "updated": lambda user: (user.updated,),
}
LISTS: Lists[User] = Lists(
    filters=FILTERS, orders=ORDERS, word=lambda name, value: f"{name}:{shlex.quote(value)}", parse=query.parse
)
