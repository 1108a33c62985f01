"""Who is asking: what nginx or the kernel says is for `services.common.access` to judge; this is its use here."""

from __future__ import annotations

import re

from starlette.requests import Request

from netboot.machines import Machines
from netboot.store import Actor
from services.common.access import LOCAL, Role, access_of, require
from services.common.errors import AccessError, MissingError

RFS_SCOPE = "rfs"
"""The scope of a root file server's certificate."""


def origin_of(request: Request) -> str:
    """The address that a request comes from; `local` for this host's own processes.

    A machine that boots shows nothing else of itself, so whatever else the request carries is not looked at.
    """
    return access_of(request).hop(request).origin


def writer(request: Request) -> Actor:
    """Who changes netboot. Raises AccessError of `require`."""
    return Actor(require(request, Role.ROOT).name)


def publisher(request: Request) -> Actor:
    """Who makes a version known: who may change netboot, and the depot of this host. Raises AccessError of `require`.

    Other parts of the hall are Role.SERVICE too, by their certificates: they come from elsewhere.
    """
    caller = require(request, Role.ROOT, Role.SERVICE)
    if not caller.has(Role.ROOT) and caller.origin != LOCAL:
        raise AccessError("auth.denied", f"{caller.name} may not do this", hint="for: root, the depot")
    return Actor(caller.name)


def holder(request: Request, rfs: int, machines: Machines) -> None:
    """Who says that a root file server holds a version: an administrator, or that very host by its certificate.

    Which host `rfsN` is, mdb says: the machine that has the alias. A host's second interface is machine HOST-1 there
    (`services.hall.for_mdb`). Raises AccessError of `require`.
    """
    caller = require(request, Role.ROOT, scope=RFS_SCOPE)
    if caller.has(Role.ROOT):
        return
    owner = machines.by_name(f"rfs{rfs}")
    cards = re.compile(rf"{re.escape(caller.name)}(-[0-9]+)?")
    if caller.machine is not None or owner is None or not cards.fullmatch(owner.hostname):
        is_whose = "nobody's" if owner is None else f"{owner.hostname}'s"
        raise AccessError("auth.denied", f"{caller.name} is not rfs{rfs}, which is {is_whose} alias in mdb")


def user_reader(request: Request) -> None:
    """Who uses a version is for those who run the hall, and for root file servers. Raises AccessError of `require`."""
    require(request, Role.ORGANIZER, scope=RFS_SCOPE)


def reader(request: Request) -> None:
    """Boots, logs and unknown machines are for those who run the hall. Raises AccessError of `require`."""
    require(request, Role.ORGANIZER)


def subscriber(request: Request) -> None:
    """Boots as they happen are for those who may see boots, and for servers of scope feed; no seat sees the others'.

    Raises AccessError of `require`.
    """
    if require(request, Role.ORGANIZER, scope="feed").machine is not None:
        raise AccessError("auth.denied", "a machine does not follow what other machines boot")


def machine_of(request: Request, boot: str) -> None:
    """The machine itself, in its boot `boot`. Raises AccessError: `auth.anonymous`, `auth.denied`, those of a token."""
    caller = require(request)
    if caller.machine is None or caller.boot != boot:
        raise AccessError("auth.denied", "only the machine itself reports on its boot, with that boot's own token")


def beating(request: Request, boot: str) -> int:
    """The id of the machine whose boot `boot` sends a heartbeat. Raises as `machine_of`, AccessError("auth.scope")."""
    caller = require(request, scope="heartbeat")
    if caller.machine is None or caller.boot != boot:
        raise AccessError("auth.denied", "only the machine itself sends its heartbeat, with that boot's own token")
    return caller.machine


def named(request: Request, parameter: str) -> str:
    """A part of the path that names something. Raises MissingError for text that no name can be."""
    text = str(request.path_params[parameter])
    if "\0" in text:
        raise MissingError("name.unknown", "nothing has such a name")
    return text
