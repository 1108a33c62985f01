"""The list of machines as people ask for it (`services.common.pages.listing`). Pure."""

from __future__ import annotations

import shlex
from typing import Annotated, Literal

from msgspec import Meta

from services.common.pages.listing import SIZES as SIZES
from services.common.pages.listing import Filters, Lists, Orders, Size
from services.common.pages.listing import address as address
from services.common.pages.listing import natural as natural
from services.mdb import query
from services.mdb.schema import Machine, Strict

Order = Literal["hostname", "ip", "mac", "type", "room", "rfs", "hfs", "boots", "updated"]
Picked = Annotated[str, Meta(max_length=80)]


class Asked(Strict, frozen=True, kw_only=True):
    """What the address of the list says."""

    q: Annotated[str, Meta(max_length=500)] = ""
    type: Picked = ""
    room: Picked = ""
    rfs: Picked = ""
    hfs: Picked = ""
    channel: Picked = ""
    state: Literal["", "faulty", "sound", "pinned"] = ""
    sort: Order = "hostname"
    down: Literal["", "1"] = ""
    size: Size = 100
    page: Annotated[int, Meta(ge=1, le=100_000)] = 1
    done: Annotated[int, Meta(ge=0, le=1_000_000)] | None = None


FILTERS: Filters[Machine] = {
    "type": ("Type", lambda machine: [machine.type.value]),
    "room": ("Room", lambda machine: [machine.room]),
    "rfs": ("rfs", lambda machine: [str(machine.rfs)]),
    "hfs": ("hfs", lambda machine: [str(machine.hfs)]),
    "channel": ("Channel", lambda machine: [machine.channel]),
    "state": ("State", lambda machine: [*(["pinned"] if machine.pinned else []), _state(machine)]),
}
_STATES = {"faulty": "faulty:yes", "sound": "faulty:no", "pinned": "pinned:?*"}


def _state(machine: Machine) -> str:
    return "faulty" if machine.faulty else "sound"


def _boots(machine: Machine) -> str:
    return machine.pinned or machine.channel


ORDERS: Orders[Machine] = {
    "hostname": lambda machine: (natural(machine.hostname),),
    "ip": lambda machine: (machine.ip,),
    "mac": lambda machine: (machine.mac or "",),
    "type": lambda machine: (machine.type.value, natural(machine.hostname)),
    "room": lambda machine: (natural(machine.room), natural(machine.hostname)),
    "rfs": lambda machine: (machine.rfs, natural(machine.hostname)),
    "hfs": lambda machine: (machine.hfs, natural(machine.hostname)),
    "boots": lambda machine: (not machine.faulty, not machine.pinned, _boots(machine), natural(machine.hostname)),
    "updated": lambda machine: (machine.updated,),
}


def _word(name: str, value: str) -> str:
    return _STATES[value] if name == "state" else f"{name}:{shlex.quote(value)}"


_LISTS: Lists[Machine] = Lists(filters=FILTERS, orders=ORDERS, word=_word, parse=query.parse)
words, listing, nothing = _LISTS.words, _LISTS.listing, _LISTS.nothing
