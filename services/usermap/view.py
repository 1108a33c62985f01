"""The map from what mdb, udb, presence and netboot say; and what of it is for everybody. Pure."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import msgspec
from msgspec.structs import replace

from netboot.schema import Liveness
from netboot.schema import Seat as NetbootSeat
from services.common.codec import encode_json
from services.common.names import row_of
from services.common.users import UserGroup
from services.usermap.schema import Map, Person, Room, Row, Seat, Source, State

SERVER = "service"
_NUMBERS = re.compile(r"(\d+)")


class Machine(msgspec.Struct, frozen=True):
    """What counts of a machine of mdb."""

    id: int
    hostname: str
    type: str
    room: str = "other"
    faulty: bool = False
    faulty_reason: str = ""


class User(msgspec.Struct, frozen=True):
    """What counts of a user of udb."""

    login: str
    group: UserGroup


class Session(msgspec.Struct, frozen=True):
    """What counts of a session of presence."""

    login: str
    machine: int
    since: float = 0.0


def view(
    machines: Iterable[Machine],
    users: Iterable[User],
    sessions: Iterable[Session],
    seats: Sequence[NetbootSeat],
    sources: Sequence[Source] = (),
    *,
    hall: str = "hall",
    now: float = 0.0,
) -> Map:
    """Everything. While netboot is silent (`seats` is what it said last), nobody is taken for reachable or not."""
    silent = any(each.name == "netboot" and each.why is not None for each in sources)
    groups = {user.login: user.group for user in users}
    people: dict[int, list[Person]] = {}
    for session in sessions:
        person = Person(login=session.login, group=groups.get(session.login), since=session.since)
        people.setdefault(session.machine, []).append(person)
    said = {each.machine: each for each in seats}
    rooms: dict[str, dict[str, list[Seat]]] = {}
    for machine in sorted(machines, key=lambda each: natural(each.hostname)):
        if machine.type == SERVER:
            continue
        there = sorted(people.get(machine.id, []), key=lambda person: person.login)
        seat = _seat(machine, there, said.get(machine.id), silent=silent)
        rooms.setdefault(machine.room, {}).setdefault(seat.row, []).append(seat)
    made = [
        Room(
            name=name,
            counts=_counts(seat for row in rows.values() for seat in row),
            rows=[Row(name=row, seats=rows[row]) for row in sorted(rows, key=natural)],
        )
        for name, rows in sorted(rooms.items(), key=lambda each: natural(each[0]))
    ]
    return _finished(Map(hall=hall, revision="", layout="", at=now, counts={}, sources=list(sources), rooms=made))


def public(map: Map) -> Map:
    """What everybody in the hall may see: what each seat is, and nobody's name."""
    rooms = [
        replace(
            room,
            rows=[
                replace(row, seats=[replace(seat, people=[], version=None, failed=[], reason="") for seat in row.seats])
                for row in room.rows
            ],
        )
        for room in map.rooms
    ]
    sources = [replace(each, why=each.why and "silent") for each in map.sources]
    return _finished(replace(map, rooms=rooms, sources=sources))


def _finished(map: Map) -> Map:
    map = replace(map, counts=_counts(map.seats()))
    layout = [
        [room.name, [[row.name, [seat.machine for seat in row.seats]] for row in room.rows]] for room in map.rooms
    ]
    names = [seat.hostname for seat in map.seats()]
    content = encode_json(replace(map, at=0.0, revision="", layout=""))
    return replace(map, revision=_digest(content), layout=_digest(encode_json([layout, names])))


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _seat(machine: Machine, people: list[Person], said: NetbootSeat | None, *, silent: bool) -> Seat:
    row = row_of(machine.hostname)
    known = said is not None and not silent
    there = said is not None and said.state is not Liveness.OFF
    runs = (said.version or said.booted) if said is not None and there else None
    return Seat(
        machine=machine.id,
        hostname=machine.hostname,
        room=machine.room,
        row=row,
        label=machine.hostname.removeprefix(row).lstrip("-_") or machine.hostname,
        state=_state(machine, people, said.state if known and said is not None else None),
        degraded=known and said is not None and said.state is Liveness.DEGRADED,
        old=known and said is not None and runs is not None and said.boots is not None and runs != said.boots,
        people=people,
        version=runs,
        failed=list(said.health.failed_units) if known and said is not None and said.health is not None else [],
        reason=machine.faulty_reason if machine.faulty else "",
    )


def _state(machine: Machine, people: list[Person], liveness: Liveness | None) -> State:
    if machine.faulty:
        return State.FAULTY
    if liveness is Liveness.UNKNOWN:
        return State.UNREACHABLE
    if liveness is Liveness.OFF and not people:
        return State.OFF
    if liveness is Liveness.STARTING and not people:
        return State.STARTING
    groups = {person.group for person in people}
    if UserGroup.ROOT in groups:
        return State.ROOT
    if UserGroup.ORGA in groups:
        return State.ORGA
    return State.USER if people else State.FREE


def _counts(seats: Iterable[Seat]) -> dict[str, int]:
    found = Counter(seat.state for seat in seats)
    return {state.value: found[state] for state in State}


def natural(name: str) -> list[tuple[int, int, str]]:
    """A key to sort by in which 2 comes before 10."""
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in _NUMBERS.split(name) if part]


def by_name(map: Map) -> Mapping[str, Seat]:
    """Seats by host name."""
    return {seat.hostname: seat for seat in map.seats()}
