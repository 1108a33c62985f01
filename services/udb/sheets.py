"""Password sheets: a line for each person for a badge printer, or A4 pages to be cut. Pure, but for our own files.

The page is one file that needs no other: it is printed where it was opened, and kept nowhere.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path

import jinja2
from markupsafe import Markup

from services.udb.schema import Shown

_HERE = Path(__file__).parent
GRIDS = {1: (1, 1), 2: (1, 2), 4: (2, 2), 6: (2, 3), 8: (2, 4), 10: (2, 5), 12: (2, 6), 16: (2, 8), 24: (3, 8)}
"""Columns and rows by how many are on a page; `static/sheet.css` has a class for each."""
USUAL = 10


def tsv(people: Sequence[Shown]) -> str:
    """`name<TAB>login<TAB>password`, a line a person; who has no password is left out. Names have no tabs."""
    return "".join(f"{name_of(each)}\t{each.login}\t{each.password}\n" for each in people if each.password is not None)


def page(people: Sequence[Shown], *, hall: str, per_page: int = USUAL, back: str = "", css: str = "") -> str:
    """The page as HTML. Its look is the file's at `css`, or written into it; `back` is where a reader came from."""
    printed = [each for each in people if each.password is not None]
    pages = [printed[begin : begin + per_page] for begin in range(0, len(printed), per_page)]
    return (
        _environment()
        .get_template("sheet.html")
        .render(
            pages=pages,
            per_page=per_page,
            hall=hall,
            without=[each.login for each in people if each.password is None],
            name_of=name_of,
            back=back,
            css=css,
            style=Markup((_HERE / "static/sheet.css").read_text()),
        )
    )


def name_of(person: Shown) -> str:
    """What people call them."""
    return f"{person.firstname} {person.lastname}".strip() or person.login


@functools.cache
def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
