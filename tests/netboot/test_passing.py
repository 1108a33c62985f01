"""Heartbeats on their way to presence: one of each machine, never in anybody's way; and the whole way, as processes."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest

from netboot.client import Netboot
from netboot.passing import OLD_SECONDS, QUIET_SECONDS, Passing
from netboot.schema import Health, Heartbeat, Orders
from services.common.errors import MissingError
from services.common.tokens import Tokens
from services.mdb.schema import MachineType
from services.presence.client import Presence as Sessions
from services.presence.schema import Beat, End, Ends
from tests.netboot.rig import KEY, ONE, publish, serving, until
from tests.presence import rig


class Presence:
    """What it was passed, while it is there."""

    def __init__(self) -> None:
        self.away = False
        self.batches: list[list[tuple[int, list[str] | None]]] = []
        self.ends: list[End] = []

    async def heartbeats(self, beats: Sequence[Beat]) -> Ends:
        if self.away:
            raise MissingError("remote.unreachable", "away")
        self.batches.append([(beat.machine, beat.users) for beat in beats])
        return Ends(ends=self.ends)


@pytest.fixture
def clock() -> list[float]:
    return [1000.0]


@pytest.fixture
def passing(clock: list[float]) -> Passing:
    return Passing("unix:/nowhere", clock=lambda: clock[0])


def beat(machine: int, *users: str) -> Beat:
    return Beat(machine=machine, hostname=f"p{machine}", boot="f", users=list(users))


def send(passing: Passing, presence: Presence) -> None:
    asyncio.run(passing.once(presence))  # type: ignore[arg-type]


def test_all_that_came_goes_out_at_once_and_of_each_machine_the_newest(passing: Passing) -> None:
    presence = Presence()
    for each in (beat(1, "alice"), beat(2), beat(1)):
        passing.note(each)
    send(passing, presence)
    assert presence.batches == [[(1, []), (2, [])]]
    assert len(passing) == 0


def test_an_empty_batch_says_now_and_then_that_somebody_listens(passing: Passing, clock: list[float]) -> None:
    presence = Presence()
    for seconds in (0.0, 1.0, QUIET_SECONDS - 1, 1.0):
        clock[0] += seconds
        send(passing, presence)
    assert presence.batches == [[], []]


def test_while_presence_is_away_the_newest_waits_and_what_is_old_is_gone(passing: Passing, clock: list[float]) -> None:
    presence = Presence()
    presence.away = True
    for _ in range(3):
        passing.note(beat(1, "alice"))
        passing.note(beat(2, "bob"))
        send(passing, presence)
    assert len(passing) == 2
    clock[0] += OLD_SECONDS
    passing.note(beat(2))
    clock[0] += 1
    presence.away = False
    send(passing, presence)
    assert presence.batches == [[(2, [])]]


def test_who_has_to_end_what_is_said_to_that_boot_once_until_presence_says_it_again(passing: Passing) -> None:
    presence = Presence()
    presence.ends = [End(machine=1, boot="f", login=login) for login in ("bob", "alice")]
    passing.note(beat(1, "alice", "bob"))
    send(passing, presence)
    assert passing.ends(2, "f") == ()
    assert passing.ends(1, "f") == ("alice", "bob")
    assert passing.ends(1, "f") == ()
    passing.note(beat(1, "alice"))
    send(passing, presence)
    assert passing.ends(1, "another boot") == ()
    passing.note(beat(1, "alice"))
    send(passing, presence)
    presence.ends = []
    passing.note(beat(1))
    send(passing, presence)
    assert passing.ends(1, "f") == ()


def test_a_seats_heartbeat_keeps_and_ends_a_session(tmp_path: Path) -> None:
    with rig.serving(tmp_path) as hall:
        machine = hall.machine("p1")
        hall.user("alice")
        hall.knows()
        where = f"sqlite:///{tmp_path}/netboot.db"
        with serving(tmp_path, where, hall.mdb.unix, BACKLINE_NETBOOT_PRESENCE=hall.presence.unix) as netboot:
            with Netboot(netboot.unix) as client:
                hall.machine("rhfs01", MachineType.SERVICE, alias="rfs0")
                until(lambda: client._http.get(f"/boot/{machine.mac}").status_code == 200)
                publish(client, rfs=(0,))
                script = client._http.get(f"/boot/{machine.mac}").text
                boot = script.partition("backline.boot=")[2].split()[0]
                token = Tokens(KEY).for_machine("p1", machine=machine.id, boot=boot, seconds=60)

                def beats(*users: str) -> Orders:
                    health = Health(state="running")
                    return client.heartbeat(boot, token, Heartbeat(version=ONE, health=health, users=list(users)))

                hall.boots["p1"] = boot
                hall.logs_in("p1", "alice")
                beats("alice", "root")
                until(lambda: hall.heard() == 1)
                assert hall.where() == {"alice": "p1"}
                beats("root")
                until(lambda: hall.where() == {})
                hall.logs_in("p1", "alice")
                beats("alice")
                until(lambda: hall.heard() == 3)
                with Sessions(hall.presence.unix) as sessions:
                    sessions.logout("alice")
                assert beats("alice").end == ()  # presence has not heard it yet
                until(lambda: beats("alice").end == ("alice",))
