"""The list of machines as people ask for it: search, filters, order and page of the address become rows. Pure.

A filter is a word of the query language (`services.mdb.query`) that was picked instead of typed, so that the same list
is to be had on the command line.
"""

from __future__ import annotations

import re
import shlex
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from services.mdb import query
from services.mdb.schema import Machine, Strict

SIZES = (50, 100, 250, 1000)

Size = Literal[50, 100, 250, 1000]
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


FILTERS: Mapping[str, tuple[str, Callable[[Machine], Sequence[str]]]] = {
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


@dataclass(frozen=True)
class Choice:
    """A value of a filter and how many machines it would show."""

    value: str
    count: int


@dataclass(frozen=True)
class Filter:
    """A filter with what can be picked; `picked` is empty when it lets everything through."""

    name: str
    title: str
    picked: str
    choices: Sequence[Choice]


@dataclass(frozen=True)
class Listing:
    """What was found, and the part of it that is shown."""

    found: Sequence[Machine]
    shown: Sequence[Machine]
    filters: Sequence[Filter]
    total: int
    page: int
    pages: int

    size: int

    @property
    def first(self) -> int:
        """Number of the first machine shown, from 1."""
        return (self.page - 1) * self.size + 1 if self.shown else 0


def words(asked: Asked) -> str:
    """The whole query, search and filters. Raises nothing: what is wrong with it shows when it is parsed."""
    picked = [
        _STATES[value] if name == "state" else f"{name}:{shlex.quote(value)}"
        for name in FILTERS
        if (value := getattr(asked, name))
    ]
    return " ".join([*([asked.q.strip()] if asked.q.strip() else []), *picked])


def address(asked: Asked, **changed: object) -> dict[str, object]:
    """The values of the list's address with some changed, without those that are the usual ones."""
    values = {**msgspec.structs.asdict(asked), "done": None, **changed}
    usual = msgspec.structs.asdict(Asked())
    return {name: value for name, value in values.items() if value != usual[name]}


def listing(machines: Sequence[Machine], asked: Asked) -> Listing:
    """The list. Raises UsageError("query.syntax")."""
    test = query.parse(asked.q)
    searched = [machine for machine in machines if test(machine)]
    picked = {name: value for name in FILTERS if (value := getattr(asked, name))}
    counts: dict[str, Counter[str]] = {name: Counter() for name in FILTERS}
    found = []
    for machine in searched:
        values = {name: of(machine) for name, (_, of) in FILTERS.items()}
        missed = [name for name, value in picked.items() if value not in values[name]]
        if not missed:
            found.append(machine)
        for name in FILTERS:
            if missed in ([], [name]):  # what one would see after picking another value of this filter
                counts[name].update(values[name])
    found.sort(key=ORDERS[asked.sort], reverse=bool(asked.down))
    pages = max(1, -(-len(found) // asked.size))
    page = min(asked.page, pages)
    return Listing(
        found=found,
        shown=found[(page - 1) * asked.size : page * asked.size],
        filters=[
            Filter(name, title, picked.get(name, ""), _choices(counts[name], picked.get(name, "")))
            for name, (title, _) in FILTERS.items()
        ],
        total=len(machines),
        page=page,
        pages=pages,
        size=asked.size,
    )


def _choices(counts: Counter[str], picked: str) -> list[Choice]:
    values = {*counts, *([picked] if picked else [])}
    return [Choice(value, counts[value]) for value in sorted(values, key=natural)]


def _boots(machine: Machine) -> str:
    return machine.pinned or machine.channel


def natural(text: str) -> tuple[tuple[str, int], ...]:
    """A key that puts p9 before p10."""
    parts = re.split(r"([0-9]{1,18})", text)
    return tuple((before, int(digits)) for before, digits in zip(parts[::2], [*parts[1::2], "-1"], strict=True))


ORDERS: Mapping[str, Callable[[Machine], tuple[object, ...]]] = {
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


def nothing(asked: Asked, *, total: int) -> Listing:
    """The list of a query that cannot be read; what was picked stays picked."""
    filters = [
        Filter(name, title, value, [Choice(value, 0)] if value else [])
        for name, (title, _) in FILTERS.items()
        for value in [getattr(asked, name)]
    ]
    return Listing(found=[], shown=[], filters=filters, total=total, page=1, pages=1, size=asked.size)
