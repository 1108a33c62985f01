"""Who is in front of a page, where that is no more than a name and two roles."""

from __future__ import annotations

from dataclasses import dataclass

from starlette.requests import Request

from services.common.access import Role, caller_of
from services.common.errors import AccessError


@dataclass(frozen=True)
class Person:
    """The one in front of a page; `name` is empty for nobody in particular."""

    name: str = ""
    organizer: bool = False
    root: bool = False


def person(request: Request) -> Person:
    """Never raises: who shows something that is not good any more is nobody, and may log in again."""
    try:
        known = caller_of(request)
    except AccessError:
        return Person()
    return Person(known.name, known.has(Role.ORGANIZER), known.has(Role.ROOT))
