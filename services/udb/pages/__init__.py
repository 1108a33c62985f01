"""udb's pages: the list, a user, passwords, imports, pools, a message, history. Below `/`; programs use `/v1`.

They show what the store gives to who is looking, and every one is for those who have logged in. Each page is whole
without a script. Where htmx is there, the same addresses answer the same pages, and it takes the part that changes.
"""

from __future__ import annotations

from pathlib import Path

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute

from services.common.pages import Link, Page, Pages
from services.udb.pages.hall import HallPages
from services.udb.pages.imports import ImportPages
from services.udb.pages.people import visitor
from services.udb.pages.sheets import SheetPages
from services.udb.pages.users import UserPages
from services.udb.store import Store

NAVIGATION = (
    Link("Users", "/users", private=True),
    Link("Uids", "/pools", private=True),
    Link("Import", "/import", private=True),
    Link("Message", "/message", private=True),
    Link("History", "/history", private=True),
)
_HERE = Path(__file__).parents[1]


def make_pages(*, htmx: Path, login: bool) -> Pages:
    """The templates, the navigation, and who is looking."""
    return Pages(
        "udb",
        title="Users of the hall",
        templates=_HERE / "templates",
        navigation=NAVIGATION,
        visitor=visitor,
        htmx=htmx,
        login=login,
        static=_HERE / "static",
    )


def routes(pages: Pages, store: Store, *, hall: str) -> list[BaseRoute]:
    """Every page of udb."""
    return [
        *pages.routes(),
        Page("GET", "/", _start),
        *SheetPages(pages, store, hall=hall).routes(),
        *UserPages(pages, store).routes(),
        *ImportPages(pages, store).routes(),
        *HallPages(pages, store).routes(),
    ]


async def _start(_: Request) -> Response:
    return RedirectResponse("/users", status_code=303)
