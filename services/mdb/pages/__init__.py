"""mdb's pages: the list, a machine, edits of many, pools, history. Below `/`; programs use `/v1`.

Each page is whole without a script. Where htmx is there, the same addresses answer the same pages, and it takes the
part that changes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute

from services.common.pages import Link, Page, Pages
from services.mdb.pages.bulk import BulkPages
from services.mdb.pages.facts import Source
from services.mdb.pages.hall import HallPages
from services.mdb.pages.imports import ImportPages
from services.mdb.pages.machines import MachinePages
from services.mdb.pages.people import caller
from services.mdb.pages.switches import SwitchPages
from services.mdb.store import Store

NAVIGATION = (
    Link("Machines", "/machines"),
    Link("Switches", "/switches"),
    Link("Pools", "/pools"),
    Link("Settings", "/settings"),
    Link("Import", "/import", private=True),
    Link("History", "/history", private=True),
)


def make_pages(*, htmx: Path, login: bool) -> Pages:
    """The templates, the navigation, and who is looking."""
    return Pages(
        "mdb",
        title="Machines of the hall",
        templates=Path(__file__).parents[1] / "templates",
        navigation=NAVIGATION,
        visitor=caller,
        htmx=htmx,
        login=login,
    )


def routes(pages: Pages, store: Store, sources: Sequence[Source] = ()) -> list[BaseRoute]:
    """Every page of mdb."""
    return [
        *pages.routes(),
        Page("GET", "/", _start),
        *BulkPages(pages, store).routes(),
        *MachinePages(pages, store, sources).routes(),
        *SwitchPages(pages, store).routes(),
        *ImportPages(pages, store).routes(),
        *HallPages(pages, store).routes(),
    ]


async def _start(_: Request) -> Response:
    return RedirectResponse("/machines", status_code=303)
