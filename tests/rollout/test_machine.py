"""The state machine of rollouts, beside a hall in memory."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netboot.schema import Action, Seat
from services.common.names import row_of
from services.rollout import machine
from services.rollout.schema import OVER, Phase, Progress, RingKind, Rollout, Standing
from tests.rollout.hall import NEW, OLD, Hall, Machine, Runner, rows


def started(machines: list[Machine], **plan: object) -> Runner:
    runner = Runner(Hall(machines))
    runner.begin(**plan)
    return runner


def on_new(runner: Runner) -> list[str]:
    return [each.hostname for each in runner.hall.machines if each.version == NEW]


def test_a_good_version_goes_from_ring_to_ring_and_is_committed() -> None:
    runner = started(rows(40))
    found = runner.run()
    assert (found.phase, found.why) == (Phase.DONE, "every ring is good")
    assert [len(ring.seats) for ring in found.rings] == [1, 4, 15, 20]
    assert len(on_new(runner)) == 40
    assert (runner.hall.channel.current, runner.hall.channel.committed) == (NEW, True)
    assert max(each.restarts for each in runner.hall.machines) == 1


def test_a_bad_version_never_gets_past_its_first_ring_and_goes_back() -> None:
    machines = rows(40)
    for each in machines:
        each.fails[NEW] = "lightdm.service"
    runner = started(machines)
    found = runner.run()
    assert (found.phase, "lightdm.service failed" in found.why) == (Phase.REVERTED, True)
    assert [each.hostname for each in machines if NEW in each.boots] == ["room0-r00p01"]
    assert on_new(runner) == []  # the first seat restarted into what was before
    assert (runner.hall.channel.current, runner.hall.channel.committed) == (OLD, True)
    assert runner.hall.quarantined == {NEW}


def test_a_version_without_a_network_goes_back_after_its_time_and_names_the_seat() -> None:
    machines = rows(10)
    for each in machines:
        each.fails[NEW] = "silent"
    found = (runner := started(machines)).run()
    assert found.phase is Phase.REVERTED
    assert "was not well in 600 s" in found.why
    assert any("restart it by hand" in event.text for event in found.events)
    assert sum(NEW in each.boots for each in machines) == 1
    assert runner.hall.quarantined == {NEW}


def test_a_version_that_fails_in_the_third_ring_only_takes_all_of_it_back() -> None:
    machines = rows(40)
    machines[7].fails[NEW] = "nbd.service"
    found = (runner := started(machines)).run()
    assert (found.phase, found.ring) == (Phase.REVERTED, 2)
    assert on_new(runner) == []


def test_of_a_ring_some_may_fail_when_that_was_said() -> None:
    machines = rows(40)
    machines[7].fails[NEW] = "nbd.service"
    assert started(machines, need=90).run().phase is Phase.DONE


def test_a_seat_with_a_user_is_left_alone() -> None:
    machines = rows(20)
    machines[0].user = machines[3].user = "alice"
    found = (runner := started(machines)).run()
    assert found.phase is Phase.DONE
    assert found.rings[0].seats[0].hostname == "room0-r00p02"  # the first that nobody uses
    assert [each.restarts for each in machines if each.user] == [0, 0]
    assert len(on_new(runner)) == 18


def test_a_seat_with_a_user_restarts_when_it_was_told_to() -> None:
    machines = rows(5)
    machines[0].user = "alice"
    found = (runner := started(machines, even_with_user=True)).run()
    assert found.phase is Phase.DONE
    assert len(on_new(runner)) == 5


def test_a_row_that_is_in_use_pauses_it_and_resuming_goes_on_without() -> None:
    machines = rows(10)
    for each in machines[1:5]:
        each.user = "alice"
    found = (runner := started(machines)).run()
    assert found.paused is not None
    assert "did not restart in 600 s" in found.paused
    assert runner.hall.channel.current == NEW  # the trial of its rings goes on
    runner.keep(machine.resume(found, "bob", runner.hall.now))
    assert runner.run().phase is Phase.DONE
    assert len(on_new(runner)) == 6


def test_a_seat_that_somebody_switches_off_says_nothing_of_the_version() -> None:
    machines = rows(10)
    runner = started(machines)
    while runner.rollout.ring == 0:
        runner.step()
        runner.hall.pass_(3)
    machines[2].power = False
    found = runner.run()
    assert found.paused is not None
    assert machines[2].hostname in found.paused
    assert runner.hall.quarantined == set()


def test_only_machines_of_open_rings_boot_the_version() -> None:
    """Somebody restarts a seat of another room by hand meanwhile."""
    machines = rows(40)
    runner = started(machines)
    for _ in range(10):
        runner.step()
        runner.hall.pass_(3)
    runner.hall.restart(machines[30])
    for _ in range(20):
        runner.step()
        runner.hall.pass_(3)
    assert machines[30].boots == [OLD]


def test_machines_that_are_pinned_or_off_are_not_asked() -> None:
    machines = rows(10)
    machines[1].pinned = True
    machines[2].power = False
    machines[2].heard -= 3600
    runner = started(machines)
    runner.hall.machines[2].heard = runner.hall.now - 3600
    assert runner.run().phase is Phase.DONE
    assert (machines[1].restarts, machines[2].restarts) == (0, 0)


def test_an_abort_takes_it_back_and_the_version_is_not_to_blame() -> None:
    runner = started(rows(10))
    while not on_new(runner):
        runner.step()
        runner.hall.pass_(3)
    runner.keep(machine.abort(runner.rollout, "alice: lunch", runner.hall.now))
    found = runner.run()
    assert (found.phase, found.why) == (Phase.ABORTED, "alice: lunch")
    assert (on_new(runner), runner.hall.quarantined) == ([], set())
    assert (runner.hall.channel.current, runner.hall.channel.committed) == (OLD, True)


def test_a_pause_holds_the_trial_for_as_long_as_it_takes() -> None:
    runner = started(rows(10))
    while runner.rollout.ring == 0:
        runner.step()
        runner.hall.pass_(3)
    runner.keep(machine.pause(runner.rollout, "alice: contest", runner.hall.now))
    restarts = [each.restarts for each in runner.hall.machines]
    for _ in range(3000):
        runner.step()
        runner.hall.pass_(3)
    found = runner.rollout
    assert found.phase is Phase.RUNNING
    assert runner.hall.channel.current == NEW
    assert sum(each.restarts for each in runner.hall.machines) <= sum(restarts) + 4  # those that were asked before
    runner.keep(machine.resume(found, "alice", runner.hall.now))
    assert runner.run().phase is Phase.DONE


def test_who_moves_the_channel_meanwhile_is_not_overruled() -> None:
    runner = started(rows(10))
    for _ in range(3):
        runner.step()
        runner.hall.pass_(3)
    runner.hall.move(Action.SET, "bob", current="other", previous=OLD, committed=True, commit_by=None, only=None)
    found = runner.run()
    assert (found.phase, "bob moved the channel" in found.why) == (Phase.ABORTED, True)
    assert runner.hall.channel.current == "other"


def test_who_commits_it_meanwhile_ends_it() -> None:
    runner = started(rows(10))
    for _ in range(3):
        runner.step()
        runner.hall.pass_(3)
    runner.hall.move(Action.COMMITTED, "bob", committed=True, commit_by=None, only=None)
    assert (runner.run().phase, runner.hall.channel.current) == (Phase.DONE, NEW)


def test_a_restart_of_netboot_moves_the_pointer_back_and_the_rollout_moves_it_again() -> None:
    runner = started(rows(40))
    for _ in range(10):
        runner.step()
        runner.hall.pass_(3)
    runner.hall.restart_netboot()
    assert runner.hall.channel.current == OLD
    found = runner.run()
    assert found.phase is Phase.DONE
    assert any("netboot was restarted" in event.text for event in found.events)


def test_a_bad_version_goes_into_quarantine_although_netboot_was_restarted_before_that() -> None:
    machines = rows(10)
    for each in machines:
        each.fails[NEW] = "x.service"
    runner = started(machines)
    while runner.rollout.phase is Phase.RUNNING:
        runner.step(lives=1 if machines[0].version == NEW else 100)  # killed before it could do anything about it
        runner.hall.pass_(3)
    runner.hall.restart_netboot()
    assert runner.run().phase is Phase.REVERTED
    assert (runner.hall.quarantined, runner.hall.channel.current) == ({NEW}, OLD)


@pytest.mark.parametrize("away", [0, 3600])
def test_what_is_good_is_committed_although_netboot_was_restarted_or_the_trial_ran_out(away: int) -> None:
    runner = started(rows(3), rings=[RingKind.ALL])
    while runner.rollout.phase is Phase.RUNNING:
        runner.step(lives=1 if len(on_new(runner)) == 3 else 100)
        runner.hall.pass_(3)
    assert runner.rollout.phase is Phase.COMMITTING
    if away:
        runner.hall.pass_(away)
    else:
        runner.hall.restart_netboot()
    assert runner.hall.channel.current == OLD
    assert runner.run().phase is Phase.DONE
    assert (runner.hall.channel.current, runner.hall.channel.committed) == (NEW, True)


def test_seats_that_nobody_could_hear_while_gw_was_off_are_not_blamed() -> None:
    runner = started(rows(10))
    first = runner.hall.machines[0]
    while not first.boots:
        runner.step()
        runner.hall.pass_(3)
    runner.hall.restart_netboot()
    runner.hall.now += 7200
    first.version, first.heard = OLD, runner.hall.now - 7200  # it has booted, and its heartbeats went nowhere
    runner.step()
    assert runner.rollout.phase is Phase.RUNNING
    assert runner.run().phase is Phase.DONE


def test_nobody_has_to_be_alive_for_the_pointer_to_go_back_and_the_rollout_waits_for_somebody() -> None:
    runner = started(rows(40))
    for _ in range(10):
        runner.step()
        runner.hall.pass_(3)
    for _ in range(1000):
        runner.hall.pass_(3)
    assert (runner.hall.channel.current, runner.hall.channel.committed) == (OLD, True)
    found = runner.run()
    assert found.paused == "the trial ran out while nobody was here to go on with it"
    runner.keep(machine.resume(found, "alice", runner.hall.now))
    assert runner.run().phase is Phase.DONE


def test_without_a_seat_to_begin_with_it_waits_and_then_pauses() -> None:
    machines = rows(3)
    for each in machines:
        each.user = "alice"
    found = (runner := started(machines)).run()
    assert found.paused == "no seat of the channel is up and free"
    assert runner.hall.channel.generation == 1


def test_a_version_that_is_not_on_a_root_file_server_yet_is_waited_for() -> None:
    runner = started(rows(3))
    seen = runner.hall.seen()
    lacking = [msgspec.structs.replace(seat, held=False) for seat in seen.seats]
    step = machine.advance(runner.rollout, machine.Seen(seen.now, seen.channel, seen.action, seen.by, lacking))
    assert step.acts == []
    assert "not yet on the root file server" in step.rollout.events[-1].text


def test_a_ring_does_not_open_on_seats_that_a_new_netboot_has_not_heard_yet() -> None:
    """It forgets at its start who is up: a ring of seats that are silent would be good without one that tried it."""
    runner = started(rows(3))
    seen = runner.hall.seen()
    first, *others = seen.seats
    forgotten = [first, *(msgspec.structs.replace(seat, up=False, heard=None, version=None) for seat in others)]
    ready = msgspec.structs.replace(
        runner.rollout,
        ring=1,
        rings=[
            msgspec.structs.replace(
                runner.rollout.rings[0],
                seats=[Progress(machine=first.machine, hostname=first.hostname)],
                members=[first.machine],
                opened=seen.now,
                passed=seen.now,
            ),
            *runner.rollout.rings[1:],
        ],
    )

    def opened(seats: list[Seat], started_before: float) -> Rollout:
        look = replace(seen, seats=seats, listening=seen.now - started_before)
        return machine.advance(ready, look).rollout

    waiting = opened(forgotten, 1)
    assert waiting.rings[1].opened is None
    assert "has not heard" in waiting.events[-1].text
    assert opened(list(seen.seats), 1).rings[1].opened is not None
    assert opened(forgotten, machine.HEARD_SECONDS).rings[1].opened is not None


def test_a_probe_that_is_not_active_is_bad_and_one_that_was_not_looked_at_is_not_good() -> None:
    plan = runner_plan = started(rows(3), probes=["lightdm.service"]).rollout.plan
    (seat, *_) = Hall(rows(1)).seen().seats
    assert seat.health is not None
    for units, standing in (
        ({}, Standing.COMING),
        ({"lightdm.service": "inactive"}, Standing.BAD),
        ({"lightdm.service": "active"}, Standing.SETTLING),
    ):
        health = msgspec.structs.replace(seat.health, units=units)
        found, _ = machine._standing(plan, msgspec.structs.replace(seat, version=NEW, booted=NEW, health=health))
        assert found is standing
    assert runner_plan.probes == ["lightdm.service"]


@pytest.mark.parametrize(
    ("hostname", "row"),
    [("pas-r01p07", "pas-r01"), ("lab3-12", "lab3"), ("seat7", "seat"), ("s", "s"), ("12", "12"), ("a-1b2", "a-1")],
)
def test_a_row_is_what_a_name_says(hostname: str, row: str) -> None:
    assert row_of(hostname) == row


# Whatever happens


kills = st.lists(
    st.tuples(st.integers(0, 4), st.sampled_from(["", "", "", "netboot", "both"])), min_size=25, max_size=90
)


@settings(max_examples=120, deadline=None)
@given(kills, st.sampled_from(["good", "unit", "silent", "some"]), st.sets(st.integers(0, 11), max_size=5))
def test_whatever_is_killed_it_comes_to_the_right_end(killed: list[tuple[int, str]], what: str, busy: set[int]) -> None:
    """Kills after the n-th thing of a step, restarts of netboot, seats in use.

    No machine outside of the open rings boots the version, nobody who is logged in is thrown out, and the end is the
    one that the version deserves.
    """
    machines = rows(12, per_row=3, rows_per_room=2)
    for number, each in enumerate(machines):
        each.user = "alice" if number in busy else None
        if what in ("unit", "silent"):
            each.fails[NEW] = "x.service" if what == "unit" else "silent"
        elif what == "some" and number >= 6:
            each.fails[NEW] = "x.service"
    runner = started(machines)
    hall = runner.hall
    script = iter(killed)
    for _ in range(5000):
        lives, fault = next(script, (100, ""))
        if fault in ("netboot", "both"):
            hall.restart_netboot()
        if fault != "both":
            runner.step(lives=lives)
        hall.pass_(7)
        _check(runner)
        if runner.rollout.phase in OVER:
            break
        if runner.rollout.paused is not None:
            runner.keep(machine.resume(runner.rollout, "alice", hall.now))
    found = runner.rollout
    assert found.phase in OVER
    assert hall.channel.committed
    tried = [each for each in machines if NEW in each.boots]
    if found.phase is Phase.DONE:
        assert hall.channel.current == NEW
        assert all(not each.fails for each in tried)
    else:
        assert found.phase is Phase.REVERTED
        assert (hall.channel.current, hall.quarantined) == (OLD, {NEW})
        assert any(each.fails for each in tried)
    if what in ("unit", "silent"):
        assert len(tried) == 1
    assert all(each.restarts == 0 for each in machines if each.user)


def _check(runner: Runner) -> None:
    opened = [ring for ring in runner.rollout.rings if ring.opened is not None]
    if runner.rollout.phase is Phase.RUNNING and opened and opened[-1].members is not None:
        reached = set(opened[-1].members)
        assert all(NEW not in each.boots for each in runner.hall.machines if each.id not in reached)
    elif not opened:
        assert all(NEW not in each.boots for each in runner.hall.machines)


def test_two_hundred_seats_take_little_of_a_processor() -> None:
    import time

    machines = rows(200, per_row=10)
    runner = started(machines, rings=[RingKind.ALL])
    runner.step()
    began, steps = time.process_time(), 20
    for _ in range(steps):
        machine.advance(runner.rollout, runner.hall.seen())
    assert (time.process_time() - began) / steps < 0.15  # of the three seconds between two of them
