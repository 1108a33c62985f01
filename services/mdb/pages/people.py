"""Who is looking at a page, and what they may see and do there.

Nobody in particular sees what the first system showed to everybody: names, addresses, servers, room, faults. Notes, the
history, codes and settings are for those who have logged in, and changes for those who may write.
"""

from __future__ import annotations

from dataclasses import dataclass

from starlette.requests import Request

from services.common.access import Role, caller_of, require
from services.common.errors import AccessError
from services.mdb.schema import Actor, Machine, without_notes


@dataclass(frozen=True)
class Person:
    """The one in front of a page; `name` is empty for nobody in particular."""

    name: str = ""
    may_read: bool = False
    may_write: bool = False


def caller(request: Request) -> Person:
    """Never raises: who shows something that is not good any more sees what everybody sees, and may log in again."""
    try:
        known = caller_of(request)
    except AccessError:
        return Person()
    return Person(known.name, may_read=known.has(Role.ORGANIZER), may_write=known.has(Role.ROOT))


def reader(request: Request) -> None:
    """For what only those see who have logged in. Raises AccessError."""
    require(request, Role.ORGANIZER)


def writer(request: Request) -> Actor:
    """For what changes something. Raises AccessError."""
    known = require(request, Role.ROOT)
    return Actor(known.name, known.origin)


def visible(machine: Machine, person: Person) -> Machine:
    """A machine as a person may see it, and search for it."""
    return machine if person.may_read else without_notes(machine)
