"""What the overview makes of what it has heard, without anybody to ask."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from netboot.schema import Channel, Health, Liveness
from netboot.schema import Seat as NetbootSeat
from services.hostd.schema import Disk, Host, Unit
from services.overview.schema import Hall, Place, Settings
from services.overview.view import Everything, Heard, Netboot, Told, machine_name, view
from services.rollout.schema import Phase, Plan, Progress, Ring, RingKind, Rollout, Standing

NOW = 1_800_000_000.0
ONE, TWO = "20261121.bf275d18ebe8", "20261122.0123456789ab"
PLACES = [Place(name="gw", role="gw", address="10.0.0.1"), Place(name="iron1", role="iron", address="10.0.0.2")]
SETTINGS = Settings(hall="pasteur", hosts=PLACES)


def told(name: str, *failed: str, free: int = 50, machines: tuple[str, ...] = ()) -> Heard[Told]:
    host = Host(name, "boot", "gw", ONE, "configured", [Disk("/var", 100, free)])
    units = [Unit(f"systemd-nspawn@{each}.service", "", "loaded", "active", "running") for each in machines]
    return Heard(Told(host, list(failed), units), NOW - 2, None, NOW - 60)


def seat(number: int, state: Liveness = Liveness.UP, **more: object) -> NetbootSeat:
    values: dict[str, object] = {
        "machine": number,
        "hostname": f"pas-r{number // 10:02}p{number % 10:02}",
        "room": "pasteur",
        "type": "user",
        "channel": "stable",
        "faulty": False,
        "rule": "channel stable",
        "boots": ONE,
        "held": True,
        "booted": ONE,
        "version": ONE,
        "heard": NOW - 5,
        "up": state is Liveness.UP,
        "health": Health(state="running"),
        "user": None,
        "state": state,
    }
    return NetbootSeat(**{**values, **more})  # type: ignore[arg-type]


def channel(**more: object) -> Channel:
    values: dict[str, object] = {
        "name": "stable",
        "current": ONE,
        "previous": None,
        "commit_by": None,
        "committed": True,
        "generation": 1,
        "effective": ONE,
        "changed": NOW,
        "changed_by": "root",
        "why": "",
    }
    return Channel(**{**values, **more})  # type: ignore[arg-type]


def everything(*seats: NetbootSeat, **hosts: Heard[Told]) -> Everything:
    return Everything(
        {"gw": told("gw"), "iron1": told("iron1", machines=("rhfs1", "web")), **hosts},
        Heard(Netboot(list(seats), [channel()], []), NOW - 1),
        Heard([], NOW - 1),
        Heard([], NOW - 1),
    )


def looked(heard: Everything) -> Hall:
    return view(heard, SETTINGS, NOW)


def test_a_host_that_does_not_answer_is_unknown_and_says_since_when_and_why() -> None:
    silent = told("gw", "nginx.service")
    silent.why = "no answer within 3 s"
    (gw, iron) = looked(everything(gw=silent)).hosts
    assert (gw.state, gw.since, gw.why) == (Liveness.UNKNOWN, NOW - 2, "no answer within 3 s")
    assert (gw.version, gw.failed) == (ONE, ["nginx.service"])
    assert (iron.state, [each.name for each in iron.machines]) == (Liveness.UP, ["rhfs1", "web"])


def test_a_host_that_nobody_has_heard_yet_is_unknown() -> None:
    (gw, _) = looked(everything(gw=Heard(changed=NOW - 9))).hosts
    assert (gw.state, gw.since, gw.why) == (Liveness.UNKNOWN, NOW - 9, "it has not answered yet")


@given(st.lists(st.sampled_from(Liveness), max_size=30), st.booleans())
def test_what_is_silent_is_never_up(states: list[Liveness], silent: bool) -> None:
    heard = everything(*(seat(number + 1, state) for number, state in enumerate(states)))
    if silent:
        heard.netboot.why = "no answer within 3 s"
    hall = looked(heard)
    assert hall.seats["up"] == (0 if silent else states.count(Liveness.UP))
    assert sum(hall.seats.values()) == len(states)
    assert sum(running.seats for room in hall.rooms for running in room.versions) == (
        0 if silent else sum(state not in (Liveness.UNKNOWN, Liveness.OFF) for state in states)
    )


def test_seats_stand_in_rows_of_rooms_and_servers_are_no_seats() -> None:
    server = seat(99, Liveness.OFF, hostname="rhfs01", type="service", booted=None, version=None)
    hall = looked(everything(seat(11), seat(12), seat(21, room="alt"), server))
    assert [(room.name, [(row.name, len(row.seats)) for row in room.rows]) for room in hall.rooms] == [
        ("alt", [("pas-r02", 1)]),
        ("pasteur", [("pas-r01", 2)]),
    ]


def test_a_seat_that_runs_another_version_than_it_would_boot_is_outdated() -> None:
    hall = looked(everything(seat(11, version=TWO), seat(12)))
    assert [each.outdated for row in hall.rooms[0].rows for each in row.seats] == [True, False]
    assert (hall.channels[0].running, hall.channels[0].seats) == (1, 2)
    assert [(each.version, each.seats) for each in hall.rooms[0].versions] == [(TWO, 1), (ONE, 1)]


def test_the_revision_is_another_one_when_something_is_new_and_only_then() -> None:
    first = looked(everything(seat(11)))
    later = everything(seat(11, heard=NOW - 1))
    later.netboot.at = NOW
    assert view(later, SETTINGS, NOW + 30).revision == first.revision
    assert looked(everything(seat(11, Liveness.DEGRADED))).revision != first.revision
    assert looked(everything(seat(11), gw=told("gw", "nginx.service"))).revision != first.revision


def test_a_disk_that_fills_by_less_than_a_percent_is_no_news() -> None:
    big = [Disk("/var", 10**12, 10**11 * 5 + 10**9 * free) for free in (3, 7, 90)]
    revisions = [
        looked(everything(gw=Heard(Told(Host("gw", "b", "gw", ONE, "configured", [disk]), [], []), NOW))).revision
        for disk in big
    ]
    assert revisions[0] == revisions[1] != revisions[2]


@pytest.mark.parametrize(
    ("heard", "text", "link"),
    [
        (everything(gw=told("gw", "a.service", "b.service")), "gw: a.service, b.service failed", "/hosts/gw"),
        (everything(gw=told("gw", free=6)), "gw: 6 % of /var is free", "/hosts/gw"),
        (
            everything(seat(11, Liveness.DEGRADED, health=Health(state="degraded", failed_units=["x.service"]))),
            "Degraded: pas-r01p01 (x.service)",
            "/seats?state=degraded",
        ),
        (
            everything(*(seat(number, Liveness.UNKNOWN) for number in range(10, 20))),
            "Silent: pas-r01p00, pas-r01p01, pas-r01p02, pas-r01p03, pas-r01p04, pas-r01p05 and 4 more",
            "/seats?state=unknown",
        ),
    ],
)
def test_what_wants_attention_is_named_with_its_page(heard: Everything, text: str, link: str) -> None:
    assert [(each.text, each.link) for each in looked(heard).faults] == [(text, link)]


def test_all_is_well() -> None:
    assert looked(everything(seat(11), seat(12, Liveness.OFF), seat(13, Liveness.STARTING))).faults == []


def rollout(**more: object) -> Rollout:
    values: dict[str, object] = {
        "id": 4,
        "plan": Plan(version=TWO),
        "by": "alice",
        "started": NOW - 100,
        "previous": ONE,
        "generation": 2,
        "rings": [
            Ring(
                kind=RingKind.SEAT,
                opened=NOW,
                seats=[Progress(machine=1, hostname="pas-r01p01", standing=Standing.BAD, detail="x.service failed")],
            ),
            Ring(kind=RingKind.ALL),
        ],
    }
    return Rollout(**{**values, **more})  # type: ignore[arg-type]


def test_a_rollout_shows_its_rings_and_why_it_was_taken_back() -> None:
    heard = everything()
    back = rollout(phase=Phase.REVERTED, why="ring 1 (seat): pas-r01p01: x.service failed", ended=NOW - 5)
    heard.rollout.value = [back, msgspec.structs.replace(back, id=3, ended=NOW - 7200)]
    hall = looked(heard)
    (shown,) = hall.rollouts
    assert [(each.kind, each.state, each.bad) for each in shown.rings] == [("seat", "bad", 1), ("all", "not open", 0)]
    assert shown.bad == ["pas-r01p01: x.service failed"]
    assert hall.faults[0].link == "rollout:/rollouts/4"


def test_machines_are_named_as_their_units_are() -> None:
    assert machine_name("systemd-nspawn@rhfs01.service") == "rhfs01"
