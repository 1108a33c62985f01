"""What a seat is on the map, from what four services say of it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netboot.schema import Health, Liveness
from netboot.schema import Seat as NetbootSeat
from services.common.codec import encode_json
from services.usermap import drawing
from services.usermap import view as viewing
from services.usermap.schema import Map, Seat, Source, State
from services.usermap.view import Machine, Session, User, natural, public
from tests.common.mirrors import mirrored


def view(
    machines: list[dict[str, Any]],
    users: list[dict[str, Any]],
    sessions: list[dict[str, Any]],
    *more: Any,
    now: float = 0.0,
) -> Map:
    """The map of what the feeds say."""
    people = mirrored(User, users), mirrored(Session, sessions)
    return viewing.view(mirrored(Machine, machines), *people, *more, now=now)


def machine(id: int = 1, **more: object) -> dict[str, Any]:
    return {"id": id, "hostname": f"pas-r01p{id:02}", "type": "user", "room": "pasteur", "faulty": False, **more}


def heard(state: Liveness = Liveness.UP, *, machine: int = 1, **more: Any) -> NetbootSeat:
    values: dict[str, Any] = {
        "machine": machine,
        "hostname": "",
        "room": "",
        "type": "user",
        "channel": "stable",
        "faulty": False,
        "rule": "",
        "boots": "two",
        "held": True,
        "booted": "two",
        "version": "two",
        "heard": 1.0,
        "up": True,
        "health": None,
        "user": None,
        "state": state,
    }
    return NetbootSeat(**{**values, **more})


USERS = [{"login": "alice", "group": "user"}, {"login": "olga", "group": "orga"}, {"login": "rita", "group": "root"}]


def session(login: str, machine: int = 1) -> dict[str, Any]:
    return {"login": login, "machine": machine, "hostname": "", "since": 5.0}


def only(map: Map) -> Seat:
    (seat,) = map.seats()
    return seat


def seen(sessions: list[str] = [], state: Liveness = Liveness.UP, **more: Any) -> Seat:  # noqa: B006
    return only(view([machine(**more)], USERS, [session(login) for login in sessions], [heard(state)]))


@pytest.mark.parametrize(
    ("state", "found"),
    [
        (State.FREE, seen()),
        (State.USER, seen(["alice"])),
        (State.ORGA, seen(["alice", "olga"])),
        (State.ROOT, seen(["alice", "rita"])),
        (State.USER, seen(["stranger"])),
        (State.FAULTY, seen(["alice"], faulty=True, faulty_reason="no keyboard")),
        (State.UNREACHABLE, seen(["alice"], Liveness.UNKNOWN)),
        (State.OFF, seen([], Liveness.OFF)),
        (State.STARTING, seen([], Liveness.STARTING)),
        (State.USER, seen(["alice"], Liveness.STARTING)),
        (State.FREE, seen([], Liveness.DEGRADED)),
    ],
)
def test_a_seat_is(state: State, found: Seat) -> None:
    assert found.state is state


def test_health_and_version_are_shown_beside_the_state() -> None:
    health = Health(state="degraded", failed_units=["lightdm.service"])
    found = only(view([machine()], USERS, [], [heard(Liveness.DEGRADED, version="one", health=health)]))
    assert (found.degraded, found.old, found.version) == (True, True, "one")
    assert found.failed == ["lightdm.service"]


def test_while_netboot_is_silent_nobody_is_taken_for_unreachable() -> None:
    silent = [Source(name="netboot", why="no answer within 3 s")]
    found = view([machine()], USERS, [session("alice")], [heard(Liveness.UNKNOWN)], silent)
    assert only(found).state is State.USER
    assert found.sources == silent


def test_what_everybody_sees_names_nobody() -> None:
    health = Health(state="degraded", failed_units=["lightdm.service"])
    machines = [machine(), machine(2, faulty=True, faulty_reason="broken by bob")]
    sources = [Source(name="udb", why="silent for 99 s")]
    everything = view(machines, USERS, [session("alice")], [heard(Liveness.DEGRADED, health=health)], sources)
    told = public(everything)
    text = encode_json(told).decode() + "".join(drawing.seat(seat) for seat in told.seats())
    for secret in ("alice", "broken", "lightdm", "99 s", "two"):
        assert secret in encode_json(everything).decode()
        assert secret not in text
    assert [seat.state for seat in told.seats()] == [State.USER, State.FAULTY]
    assert told.revision != everything.revision
    assert told.layout == everything.layout


def test_rooms_rows_and_seats_come_from_names_in_the_order_of_people() -> None:
    names = [f"pas-r{row}p{place}" for row in (10, 2) for place in (10, 9)] + ["lonely"]
    machines = [machine(id, hostname=name) for id, name in enumerate(names, 1)]
    servers = [machine(50, hostname="gw", type="service")]
    found = view([*machines, *servers], [], [], [])
    assert [[(row.name, [seat.label for seat in row.seats]) for row in room.rows] for room in found.rooms] == [
        [("lonely", ["lonely"]), ("pas-r2", ["p9", "p10"]), ("pas-r10", ["p9", "p10"])]
    ]
    assert natural("a2") < natural("a10")


def test_a_change_is_another_revision_and_a_new_seat_another_layout() -> None:
    one = view([machine()], USERS, [], [heard()], now=1.0)
    assert view([machine()], USERS, [], [heard()], now=2.0).revision == one.revision
    taken = view([machine()], USERS, [session("alice")], [heard()])
    assert (taken.revision != one.revision, taken.layout == one.layout) == (True, True)
    assert view([machine(), machine(2)], USERS, [], [heard()]).layout != one.layout


def test_what_people_wrote_is_text() -> None:
    found = seen(["<b>"], faulty=True, faulty_reason='"><script>alert(1)</script>')
    text = str(drawing.seat(found))
    assert "<script" not in text
    assert "<b>" not in text


JUNK = st.dictionaries(
    st.sampled_from(["id", "hostname", "type", "room", "login", "group", "machine", "since", "faulty"]),
    st.none() | st.integers() | st.text(max_size=8) | st.booleans(),
)


@given(st.lists(JUNK, max_size=4), st.lists(JUNK, max_size=4), st.lists(JUNK, max_size=4))
def test_broken_records_change_nothing_for_others(machines: list[Any], users: list[Any], sessions: list[Any]) -> None:
    mine = machine(-77, hostname="mine")
    found = view([mine, *machines], [USERS[0], *users], [session("alice", -77), *sessions], [])
    seat = next(each for each in found.seats() if each.machine == -77)
    assert "alice" in [person.login for person in seat.people]
    drawing.whole(public(found), "")
