"""Heartbeats and leases, on SQLite and on PostgreSQL."""

from __future__ import annotations

import pytest

from netboot.boots import BOOTS_KEPT, Answered, Asked, Boots
from netboot.heartbeats import FRESH_SECONDS, START_SECONDS, Heartbeats
from netboot.leases import LEASE_SECONDS
from netboot.schema import Health, Heartbeat, Liveness, NewOrder, NewPointer, Orders
from netboot.store import Store
from services.common.database import Database
from services.common.errors import AccessError, BusyError, MissingError
from tests.netboot.rig import ONE, TWO, machines, new_version, seat
from tests.netboot.test_store import ME, boot, publish


@pytest.fixture
def beats(store: Store) -> Heartbeats:
    """Two versions on rfs1, of which channel stable points to the first."""
    publish(store, ONE)
    publish(store, TWO)
    store.switch_channel(ME, "stable", NewPointer(version=ONE))
    return Heartbeats(Boots(store))


def beat(
    beats: Heartbeats, answered: Answered, *, user: str | None = None, state: str = "running", version: str = ONE
) -> Orders:
    beats.admit(answered.boot, answered.machine.id, version)
    return beats.take(answered.boot, Heartbeat(version=version, health=Health(state=state), user=user))


def leased(beats: Heartbeats) -> list[tuple[str, str]]:
    return [(lease.hostname, lease.version) for lease in beats.leases().leases]


def test_a_lease_begins_with_the_boot_and_ends_a_day_after_the_last_sign_of_life(
    beats: Heartbeats, clock: list[float]
) -> None:
    began = boot(beats.boots)
    assert leased(beats) == [("pas-r01p01", ONE)]
    clock[0] += LEASE_SECONDS - 1
    beat(beats, began)
    clock[0] += LEASE_SECONDS - 1
    assert leased(beats) == [("pas-r01p01", ONE)]
    clock[0] += 1
    assert leased(beats) == []


def test_a_machine_that_is_silent_is_unknown_within_its_limit(beats: Heartbeats, clock: list[float]) -> None:
    def state() -> Liveness:
        (lease,) = beats.leases().leases
        (found,) = [
            each for each in beats.seats(list(beats.store.machines), None).seats if each.machine == lease.machine
        ]
        assert found.state is lease.state
        return lease.state

    began = boot(beats.boots)
    assert state() is Liveness.STARTING
    clock[0] += START_SECONDS
    assert state() is Liveness.UNKNOWN
    beat(beats, began)
    assert state() is Liveness.UP
    clock[0] += FRESH_SECONDS - 1
    assert state() is Liveness.UP
    clock[0] += 1
    assert state() is Liveness.UNKNOWN
    beat(beats, began, state="degraded")
    assert state() is Liveness.DEGRADED
    beat(beats, began, state="starting")
    assert state() is Liveness.STARTING
    clock[0] += 60
    boot(beats.boots)
    assert state() is Liveness.STARTING


def test_a_machine_without_a_lease_is_off(beats: Heartbeats, clock: list[float]) -> None:
    beat(beats, boot(beats.boots))
    clock[0] += LEASE_SECONDS
    states = {each.hostname: each.state for each in beats.seats(list(beats.store.machines), None).seats}
    assert set(states.values()) == {Liveness.OFF}


def test_a_lease_ends_when_its_machine_boots_another_version(beats: Heartbeats, clock: list[float]) -> None:
    beat(beats, boot(beats.boots))
    beats.store.switch_channel(ME, "stable", NewPointer(version=TWO))
    clock[0] += 60
    beat(beats, boot(beats.boots), version=TWO)
    assert leased(beats) == [("pas-r01p01", TWO)]


def test_whoever_asks_in_a_machines_name_ends_no_lease(beats: Heartbeats, clock: list[float]) -> None:
    began = boot(beats.boots)
    beats.store.switch_channel(ME, "stable", NewPointer(version=TWO))
    for _ in range(BOOTS_KEPT + 5):
        clock[0] += 1
        boot(beats.boots)
    clock[0] += 1
    beat(beats, began)
    assert leased(beats) == [("pas-r01p01", TWO), ("pas-r01p01", ONE)]
    beats.flush()
    beats.boots.prune()
    assert ("pas-r01p01", ONE) in leased(Heartbeats(Boots(beats.store)))


def test_a_lease_outlives_a_restart_of_netboot(beats: Heartbeats, database: Database, clock: list[float]) -> None:
    began = boot(beats.boots)
    clock[0] += LEASE_SECONDS - 1
    beat(beats, began)
    assert beats.flush() == 1
    clock[0] += 3600
    again = Store(database, beats.store.machines, clock=lambda: clock[0])
    again.prepare()
    assert leased(Heartbeats(Boots(again))) == [("pas-r01p01", ONE)]


def test_a_machine_that_is_marked_off_has_no_lease_until_it_is_heard_again(
    beats: Heartbeats, clock: list[float]
) -> None:
    began = boot(beats.boots)
    clock[0] += 10
    assert beats.store.mark_off(1) == [ONE]
    assert leased(beats) == []
    with pytest.raises(MissingError, match="no lease"):
        beats.store.mark_off(1)
    clock[0] += 10
    beat(beats, began)
    assert leased(beats) == [("pas-r01p01", ONE)]


def test_a_leased_version_is_not_forgotten_and_its_holders_are_named(store: Store, clock: list[float]) -> None:
    publish(store, ONE)
    publish(store, TWO)
    store.switch_channel(ME, "stable", NewPointer(version=ONE))
    beats = Heartbeats(Boots(store))
    began = boot(beats.boots)
    store.switch_channel(ME, "stable", NewPointer(version=TWO))
    store.add_version(ME, new_version("20261123.aaaaaaaaaaaa"))
    store.switch_channel(ME, "stable", NewPointer(version="20261123.aaaaaaaaaaaa"))  # ONE is not even previous now
    store.release(1, ONE)
    clock[0] += LEASE_SECONDS - 1
    beat(beats, began)
    clock[0] += LEASE_SECONDS - 1
    with pytest.raises(BusyError, match="booted by pas-r01p01"):
        store.remove_version(ONE)
    clock[0] += 1
    store.remove_version(ONE)


def test_a_heartbeat_is_of_its_own_machine(beats: Heartbeats) -> None:
    began = boot(beats.boots)
    with pytest.raises(AccessError):
        beats.admit(began.boot, 2, ONE)


def test_a_boot_whose_record_was_lost_has_its_lease_again(beats: Heartbeats) -> None:
    """The hall's own token says that the machine booted, when the tables are of an hour ago."""
    beats.admit("f" * 32, 2, TWO)
    beats.take("f" * 32, Heartbeat(version=TWO, health=Health(state="running")))
    assert leased(beats) == [("pas-r01p02", TWO)]
    with pytest.raises(MissingError):
        beats.admit("e" * 32, 2, "20260101.bbbbbbbbbbbb")


def test_a_machine_is_asked_to_restart_when_it_would_boot_what_is_wanted(beats: Heartbeats, clock: list[float]) -> None:
    began = boot(beats.boots)
    assert not beat(beats, began).reboot
    beats.order(NewOrder(version=TWO, machines=[1], probes=["lightdm.service"]))
    assert not beat(beats, began).reboot  # the channel does not point there
    beats.store.switch_channel(ME, "stable", NewPointer(version=TWO))
    told = beat(beats, began)
    assert (told.reboot, told.version, told.probes) == (True, TWO, ("lightdm.service",))
    clock[0] += 61
    assert not beat(beats, began).reboot


def test_a_machine_with_a_user_is_asked_only_when_told_to(beats: Heartbeats) -> None:
    began = boot(beats.boots)
    beats.store.switch_channel(ME, "stable", NewPointer(version=TWO))
    beats.order(NewOrder(version=TWO, machines=[1]))
    assert not beat(beats, began, user="alice").reboot
    beats.order(NewOrder(version=TWO, machines=[1], even_with_user=True))
    told = beat(beats, began, user="alice")
    assert told.reboot
    assert told.even_with_user


def test_a_machine_that_runs_what_is_wanted_is_left_alone(beats: Heartbeats) -> None:
    beats.store.switch_channel(ME, "stable", NewPointer(version=TWO))
    beats.order(NewOrder(version=TWO, machines=[1]))
    assert not beat(beats, boot(beats.boots), version=TWO).reboot


def test_seats_say_what_they_would_boot_and_how_they_are(beats: Heartbeats, clock: list[float]) -> None:
    beat(beats, boot(beats.boots), user="alice", state="degraded")
    beats.store.switch_channel(ME, "stable", NewPointer(version=TWO))
    found = {each.hostname: each for each in beats.seats([seat(1), seat(2)], TWO).seats}
    first, second = found["pas-r01p01"], found["pas-r01p02"]
    assert (first.version, first.boots, first.user, first.up, first.held) == (ONE, TWO, "alice", True, True)
    assert first.health is not None
    assert first.health.state == "degraded"
    assert (second.version, second.up) == (None, False)
    clock[0] += FRESH_SECONDS
    (first,) = beats.seats([seat(1)], "20261123.aaaaaaaaaaaa").seats
    assert (first.up, first.held) == (False, False)


def test_what_nobody_hears_of_any_more_is_forgotten(beats: Heartbeats, clock: list[float]) -> None:
    beat(beats, boot(beats.boots))
    clock[0] += LEASE_SECONDS
    beats.flush()
    assert beats.store.signs == {}
    assert not beats.knows("0" * 32)


def test_a_thousand_leases_are_listed_at_once(database: Database, clock: list[float]) -> None:
    many = [seat(n, hostname=f"seat{n}", mac=None, ip=f"10.0.{n // 250}.{n % 250 + 1}") for n in range(1, 1001)]
    store = Store(database, machines(*many), clock=lambda: clock[0])
    store.prepare()
    publish(store)
    store.switch_channel(ME, "stable", NewPointer(version=ONE))
    beats = Heartbeats(Boots(store))
    for answered in beats.boots.answer([Asked(each, each.ip) for each in many]):
        beat(beats, answered)
    assert len(beats.leases().leases) == 1000
    assert beats.flush() == 1000
