"""Who is looking at a page. What they may see and do is the store's to say (`services.udb.eyes`)."""

from __future__ import annotations

from dataclasses import dataclass

from starlette.requests import Request

from services.common.access import Role, caller_of, require
from services.common.errors import AccessError
from services.udb.eyes import Person


@dataclass(frozen=True)
class Visitor:
    """The one in front of a page, as the layout shows them; `name` is empty for nobody in particular."""

    name: str = ""
    may_write: bool = False


def visitor(request: Request) -> Visitor:
    """Never raises: who shows something that is not good any more may log in again."""
    try:
        known = caller_of(request)
    except AccessError:
        return Visitor()
    return Visitor(known.name, known.has(Role.ROOT)) if known.has(Role.ORGANIZER) else Visitor()


def person_of(request: Request) -> Person:
    """Who is asking. Raises AccessError of `services.common.access.require` for who sees nobody."""
    caller = require(request, Role.ORGANIZER)
    make = Person.root if caller.has(Role.ROOT) else Person.organizer
    return make(caller.name, caller.origin)


def writer(request: Request) -> Person:
    """For pages that lead to a change. Raises AccessError."""
    person = person_of(request)
    person.check_writes()
    return person
