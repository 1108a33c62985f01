"""The state machine of a rollout. Pure: a rollout and what is seen go in, what became of it and what to do come out.

Promises: whatever is lost (an action, a rollout service, netboot, gw), the next step sees it and goes on from there,
since what to do is told by comparing what is seen with what is wanted, never by remembering what was done. No more
machines may boot the version than the rings that are open reach. A ring that is bad takes the pointer back and puts the
version into quarantine in one transaction of netboot; nobody has to be alive for the pointer to go back.

The pointer is moved under the generation that it was last seen at. So whoever moves it beside a rollout is not
overruled: the rollout ends.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from netboot.schema import Action, Channel, Seat
from services.rollout import rings
from services.rollout.schema import (
    OVER,
    Event,
    Phase,
    Plan,
    Progress,
    Ring,
    RingKind,
    Rollout,
    Standing,
)

MARGIN_SECONDS = 120
"""How long a trial outlives its ring's time: nobody is taken back because a step came late."""
ORDER_SECONDS = 60
AWAY_SECONDS = 60.0
"""A look that comes later than this after the last one means that somebody was away: this service, netboot or gw."""
RETURN_SECONDS = 60.0
"""What seats have then to be heard again."""
HEARD_SECONDS = 45.0
"""How long after netboot's start a seat that is up may not have been heard: three heartbeats."""
EVENTS_KEPT = 200
NO_REASON = "no reason was given"
_NOT_COUNTED = (Standing.BUSY, Standing.LEFT_OUT)


@dataclass(frozen=True)
class Seen:
    """What is seen at a moment. `action` and `by` are those of the newest line of the channel's history.

    netboot listens to seats since `listening`: it does not keep who is up over a restart.
    """

    now: float
    channel: Channel | None
    action: Action | None = None
    by: str = ""
    seats: Sequence[Seat] = ()
    quarantined: bool = False
    listening: float = 0.0

    def seat(self, machine: int) -> Seat | None:
        return next((seat for seat in self.seats if seat.machine == machine), None)


@dataclass(frozen=True)
class Switch:
    """Point the channel to the version, on trial for `only`; for good and for all when `commit_within` is None."""

    commit_within: int | None
    only: tuple[int, ...] | None
    generation: int


@dataclass(frozen=True)
class Extend:
    """Give the trial more time, and these machines."""

    commit_within: int
    only: tuple[int, ...] | None
    generation: int


@dataclass(frozen=True)
class Commit:
    """Keep it."""

    generation: int


@dataclass(frozen=True)
class Rollback:
    """Point back, and put the version into quarantine when it has failed."""

    quarantine: bool
    why: str
    generation: int


@dataclass(frozen=True)
class Quarantine:
    """Put the version into quarantine, where the pointer is back already."""

    why: str


@dataclass(frozen=True)
class Order:
    """Ask seats to run a version."""

    version: str
    machines: tuple[int, ...]
    even_with_user: bool
    probes: tuple[str, ...] = ()


Act = Switch | Extend | Commit | Rollback | Quarantine | Order


@dataclass
class Step:
    """What a step comes to: the rollout, and what to do, in order."""

    rollout: Rollout
    acts: list[Act] = field(default_factory=list)

    def change(self, **values: Any) -> None:
        self.rollout = msgspec.structs.replace(self.rollout, **values)

    def say(self, now: float, text: str) -> None:
        self.change(events=[*self.rollout.events, Event(at=now, text=text)][-EVENTS_KEPT:])


def begin(id: int, plan: Plan, by: str, channel: Channel, now: float) -> Rollout:
    """A rollout that has done nothing yet."""
    return Rollout(
        id=id,
        plan=plan,
        by=by,
        started=now,
        previous=channel.current,
        generation=channel.generation,
        rings=[Ring(kind=kind) for kind in plan.rings],
        events=[Event(at=now, text=f"{by} starts {plan.version} on {plan.channel}: {plan.why or NO_REASON}")],
    )


# What people ask for


def pause(rollout: Rollout, why: str, now: float) -> Rollout:
    """Hold it where it is: what runs the version goes on, and no other seat is asked to."""
    if rollout.phase is not Phase.RUNNING or rollout.paused is not None:
        return rollout
    step = Step(rollout)
    _pause(step, why, now)
    return step.rollout


def resume(rollout: Rollout, by: str, now: float) -> Rollout:
    """Go on; the time that it was paused counts for nothing."""
    if rollout.paused is None:
        return rollout
    step = Step(rollout)
    lost = now - (rollout.paused_at or now)
    step.change(paused=None, paused_at=None, rings=_later(rollout.rings, lost), waits=None)
    step.say(now, f"{by} resumes it")
    return step.rollout


def abort(rollout: Rollout, why: str, now: float) -> Rollout:
    """Take it back. The version is not to blame, so it does not go into quarantine."""
    if rollout.phase in OVER or rollout.phase is Phase.REVERTING:
        return rollout
    step = Step(rollout)
    _back(step, Phase.ABORTED, why, now)
    return step.rollout


def _later(opened: Sequence[Ring], seconds: float) -> list[Ring]:
    """The ring that is open has so much more time."""
    return [
        msgspec.structs.replace(ring, opened=ring.opened + seconds) if ring.opened and ring.passed is None else ring
        for ring in opened
    ]


# A step


def advance(rollout: Rollout, seen: Seen) -> Step:
    """One step: what has become of the rollout, and what is to be done now."""
    step = Step(rollout)
    gap = seen.now - (rollout.looked or seen.now)
    if gap > AWAY_SECONDS and rollout.paused is None:
        step.change(rings=_later(rollout.rings, gap + RETURN_SECONDS))
        step.say(seen.now, f"nobody looked for {gap:.0f} s, which count for nothing")
    step.change(looked=seen.now)
    if rollout.phase is Phase.RUNNING:
        pointed = _pointer(step, seen)
        if step.rollout.phase is Phase.RUNNING:
            _judge(step, seen)
        if step.rollout.phase is Phase.RUNNING and pointed:
            _rings(step, seen)
    if step.rollout.phase is Phase.COMMITTING:
        _commit(step, seen)
    if step.rollout.phase is Phase.REVERTING:
        _revert(step, seen)
    return step


def _ours(rollout: Rollout, seen: Seen) -> bool:
    """Whether the channel tries the version now."""
    channel = seen.channel
    return (
        channel is not None
        and not channel.committed
        and channel.current == rollout.plan.version
        and channel.commit_by is not None
        and seen.now < channel.commit_by
    )


def _pointer(step: Step, seen: Seen) -> bool:
    """Whether the pointer is as a rollout that runs left it; what has become of it otherwise is noted."""
    rollout, channel = step.rollout, seen.channel
    if channel is None:
        _end(step, Phase.ABORTED, f"the channel {rollout.plan.channel} is gone", seen.now)
        return False
    if _ours(rollout, seen):
        step.change(generation=channel.generation)
        return True
    if channel.generation == rollout.generation and channel.committed:
        return True  # never moved, or what befell it is noted already
    if not channel.committed and channel.current == rollout.plan.version:
        return False  # its time is over, and netboot is about to write that down
    if channel.committed and channel.current == rollout.plan.version:
        _end(step, Phase.DONE, f"{channel.changed_by} committed it", seen.now)
        return False
    if seen.action is Action.RESTARTED:
        step.change(generation=channel.generation, rings=_later(step.rollout.rings, RETURN_SECONDS))
        step.say(seen.now, "netboot was restarted, so the pointer was back: it is moved again")
        return True
    if seen.action is Action.EXPIRED:
        step.change(generation=channel.generation)
        _pause(step, "the trial ran out while nobody was here to go on with it", seen.now)
        return False
    _end(
        step,
        Phase.ABORTED,
        f"{seen.by or 'somebody'} moved the channel: {channel.why or NO_REASON}",
        seen.now,
    )
    return False


# Rings


def _judge(step: Step, seen: Seen) -> None:
    """See how the seats of the open ring are, and take everything back when too many are not well."""
    rollout = step.rollout
    if rollout.ring >= len(rollout.rings) or rollout.rings[rollout.ring].opened is None:
        return
    ring = rollout.rings[rollout.ring]
    late = rollout.paused is None and seen.now >= (ring.opened or 0.0) + rollout.plan.within
    judged = [_judged(rollout.plan, progress, seen, late=late) for progress in ring.seats]
    _put(step, msgspec.structs.replace(ring, seats=judged))
    bad = [progress for progress in judged if progress.standing is Standing.BAD]
    counted = [progress for progress in judged if progress.standing not in _NOT_COUNTED]
    if len(bad) > len(counted) - needed(rollout.plan, len(counted)):
        why = f"ring {rollout.ring + 1} ({ring.kind.value}): {_named(bad)}"
        _back(step, Phase.REVERTED, why, seen.now)


def needed(plan: Plan, counted: int) -> int:
    """How many of so many seats have to be good."""
    return math.ceil(counted * plan.need / 100)


def _judged(plan: Plan, progress: Progress, seen: Seen, *, late: bool) -> Progress:
    """A seat's progress, from what is seen of it. `late`: its time is over."""
    seat = seen.seat(progress.machine)
    standing, detail = _standing(plan, seat)
    since = 0.0
    if standing is Standing.SETTLING:
        since = progress.since or seen.now
        if seen.now - since >= plan.settle:
            standing = Standing.GOOD
    if progress.skip and standing in (Standing.ASKED, Standing.BUSY):
        standing, detail = Standing.LEFT_OUT, f"it did not restart in time: {detail}"
    if late and standing is Standing.COMING:  # not one that never booted it, nor one that is well and may settle
        standing, detail = Standing.BAD, f"it was not well in {plan.within} s{f': {detail}' if detail else ''}"
    return msgspec.structs.replace(progress, standing=standing, since=since, detail=detail)


def _standing(plan: Plan, seat: Seat | None) -> tuple[Standing, str]:
    if seat is None:
        return Standing.LEFT_OUT, "mdb has it no longer in this channel"
    if seat.version != plan.version:
        if seat.boots != plan.version and not rings.follows(seat):
            return Standing.LEFT_OUT, f"it boots {seat.boots or 'nothing'}, by its {seat.rule}"
        if seat.booted == plan.version:
            return Standing.COMING, "it has booted the version, and is silent"
        if seat.up and seat.user is not None and not plan.even_with_user:
            return Standing.BUSY, f"{seat.user} is logged in"
        return Standing.ASKED, f"it runs {seat.version}" if seat.up and seat.version else "it is silent"
    health = seat.health
    if not seat.up or health is None:
        return Standing.COMING, "it is silent"
    if health.failed_units:
        return Standing.BAD, f"{', '.join(health.failed_units[:5])} failed"
    if health.state != "running":
        bad = health.state in ("degraded", "maintenance")
        return Standing.BAD if bad else Standing.COMING, f"its system is {health.state}"
    states: Mapping[str, str] = health.units
    wrong = [f"{unit} is {states[unit]}" for unit in plan.probes if states.get(unit, "active") != "active"]
    if wrong:
        return Standing.BAD, ", ".join(wrong)
    missing = [unit for unit in plan.probes if unit not in states]
    return (Standing.COMING, f"{missing[0]} was not looked at yet") if missing else (Standing.SETTLING, "")


def _rings(step: Step, seen: Seen) -> None:
    """Open the ring that is next, go on with the one that is open, and pass what is good."""
    while step.rollout.phase is Phase.RUNNING and step.rollout.ring < len(step.rollout.rings):
        ring = step.rollout.rings[step.rollout.ring]
        if ring.opened is None:
            if step.rollout.paused is not None or not _open(step, seen):
                break
            continue
        if step.rollout.paused is not None or not _passes(step, ring, seen):
            break
        _put(step, msgspec.structs.replace(ring, passed=seen.now))
        good = sum(progress.standing is Standing.GOOD for progress in ring.seats)
        told = f"ring {step.rollout.ring + 1} ({ring.kind.value}) is good: {good} of {len(ring.seats)} seats"
        step.say(seen.now, told)
        step.change(ring=step.rollout.ring + 1)
    rollout = step.rollout
    if rollout.phase is not Phase.RUNNING:
        return
    if rollout.ring >= len(rollout.rings):
        step.change(phase=Phase.COMMITTING)
        return
    _hold(step, seen)


def _passes(step: Step, ring: Ring, seen: Seen) -> bool:
    """Whether a ring is good. One with seats that did not restart cannot be judged: it is paused after its time."""
    plan = step.rollout.plan
    counted = [progress for progress in ring.seats if progress.standing not in _NOT_COUNTED]
    good = sum(progress.standing is Standing.GOOD for progress in counted)
    if counted and good >= needed(plan, len(counted)):
        return True
    waiting = {each.machine: each for each in ring.seats if each.standing in (Standing.ASKED, Standing.BUSY)}
    if not counted and not waiting:
        return True
    if waiting and seen.now >= (ring.opened or 0.0) + plan.within:
        seats = [msgspec.structs.replace(each, skip=each.skip or each.machine in waiting) for each in ring.seats]
        _put(step, msgspec.structs.replace(ring, seats=seats))
        who = _named(list(waiting.values()))
        _pause(step, f"seats of ring {step.rollout.ring + 1} did not restart in {plan.within} s: {who}", seen.now)
    return False


def _named(seats: Sequence[Progress]) -> str:
    """The first seats of a list, and why each is named."""
    named = "; ".join(f"{progress.hostname}: {progress.detail}" for progress in seats[:5])
    return named + (f" and {len(seats) - 5} more" if len(seats) > 5 else "")


def _open(step: Step, seen: Seen) -> bool:
    """Open the next ring; when that cannot be yet, wait for it, and pause after the time of a ring."""
    rollout, plan = step.rollout, step.rollout.plan
    kind = rollout.rings[rollout.ring].kind
    earlier = [progress.machine for ring in rollout.rings for progress in ring.seats]
    anchor = seen.seat(earlier[0]) if earlier else None
    anchor = anchor or rings.first_of(seen.seats, name=plan.first, even_with_user=plan.even_with_user)
    if anchor is None:
        who = plan.first or "no seat of the channel"
        return _wait(step, f"{who} is {'not ' if plan.first else ''}up and free", seen.now)
    reached = rings.members(kind, seen.seats, anchor)
    unheard = [seat for seat in reached if seat.booted is not None and not seat.up and not seat.heard]
    if unheard and seen.now < seen.listening + HEARD_SECONDS:  # they would count as off, and the ring as good
        return _wait(step, f"netboot has just started, and has not heard {unheard[0].hostname} yet", seen.now)
    chosen = rings.targets(reached, earlier)
    lacking = [seat for seat in chosen if not seat.held]
    if lacking:
        return _wait(step, f"{plan.version} is not yet on the root file server of {lacking[0].hostname}", seen.now)
    may = None if kind is RingKind.ALL else sorted({*earlier, *(seat.machine for seat in reached)})
    seats = [Progress(machine=seat.machine, hostname=seat.hostname) for seat in chosen]
    if kind is RingKind.SEAT and not seats:
        return _wait(step, f"{anchor.hostname} is not up", seen.now)
    _put(step, msgspec.structs.replace(rollout.rings[rollout.ring], members=may, seats=seats, opened=seen.now))
    step.change(waits=None)
    names = ", ".join(progress.hostname for progress in seats[:5]) or "no seat that is up"
    more = f" and {len(seats) - 5} more" if len(seats) > 5 else ""
    step.say(seen.now, f"ring {rollout.ring + 1} ({kind.value}) begins: {names}{more}")
    return True


def _wait(step: Step, why: str, now: float) -> bool:
    since = step.rollout.waits
    if since is None:
        step.change(waits=now)
        step.say(now, f"it waits: {why}")
    elif now >= since + step.rollout.plan.within:
        _pause(step, why, now)
    return False


def _hold(step: Step, seen: Seen) -> None:
    """Keep the pointer where the open ring needs it, and ask the ring's seats to restart."""
    rollout, plan = step.rollout, step.rollout.plan
    ring = rollout.rings[rollout.ring]
    opened = [each for each in rollout.rings if each.opened is not None]
    if not opened:
        return
    newest = opened[-1].members
    only = None if newest is None else tuple(newest)
    paused = rollout.paused is not None
    left = plan.within if paused or ring.opened is None else ring.opened + plan.within - seen.now
    wanted = math.ceil(max(left, 0.0)) + MARGIN_SECONDS
    channel = seen.channel
    if channel is None or not _ours(rollout, seen):
        if not paused:
            step.acts.append(Switch(wanted, only, rollout.generation))
        return
    now_only = None if channel.only is None else tuple(channel.only)
    if now_only != only or (channel.commit_by or 0.0) - seen.now < min(wanted, MARGIN_SECONDS / 2):
        step.acts.append(Extend(wanted, only, channel.generation))
    if paused or ring.opened is None:
        return
    asked = tuple(each.machine for each in ring.seats if each.standing is not Standing.LEFT_OUT)
    if asked:
        step.acts.append(Order(plan.version, asked, plan.even_with_user, tuple(plan.probes)))


# The end


def _commit(step: Step, seen: Seen) -> None:
    rollout, channel = step.rollout, seen.channel
    if channel is None:
        _end(step, Phase.ABORTED, f"the channel {rollout.plan.channel} is gone", seen.now)
    elif channel.committed and channel.current == rollout.plan.version:
        _end(step, Phase.DONE, "every ring is good", seen.now)
    elif _ours(rollout, seen):
        step.change(generation=channel.generation)
        step.acts.append(Commit(channel.generation))
    elif not channel.committed and channel.current == rollout.plan.version:
        return  # its time is over, and netboot is about to write that down
    elif channel.generation == rollout.generation or seen.action in (Action.RESTARTED, Action.EXPIRED):
        step.change(generation=channel.generation)
        step.acts.append(Switch(None, None, channel.generation))  # every ring was good already
    else:
        _end(step, Phase.ABORTED, f"{seen.by or 'somebody'} moved the channel", seen.now)


def _revert(step: Step, seen: Seen) -> None:
    """Point back, then ask the seats that run the version to restart, as long as nobody is logged in there."""
    rollout, channel = step.rollout, seen.channel
    ending = rollout.ending or Phase.REVERTED
    failed = ending is Phase.REVERTED
    if channel is not None and not channel.committed and channel.current == rollout.plan.version:
        step.change(generation=channel.generation)
        step.acts.append(Rollback(failed, rollout.why[:500], channel.generation))
        return
    if failed and not seen.quarantined:
        step.acts.append(Quarantine(rollout.why[:500]))
        return
    since = rollout.back_since
    if since is None:
        since = seen.now
        step.change(back_since=since)
        step.say(seen.now, f"{rollout.plan.channel} points to {channel.current if channel else 'nothing'} again")
    to = channel.effective if channel is not None else None
    touched = {progress.machine for ring in rollout.rings for progress in ring.seats}
    version = rollout.plan.version
    still = [seat for seat in seen.seats if seat.machine in touched and version in (seat.version, seat.booted)]
    free = [
        seat
        for seat in still
        if seat.up and seat.version == version and (seat.user is None or rollout.plan.even_with_user)
    ]
    if free and to is not None and to != rollout.plan.version and seen.now < since + rollout.plan.within:
        machines = tuple(seat.machine for seat in free)
        step.acts.append(Order(to, machines, rollout.plan.even_with_user))
        return
    left = [f"{seat.hostname} ({_left(seat)})" for seat in still]
    if left:
        step.say(seen.now, f"still on {rollout.plan.version}: {', '.join(left[:10])}")
    _end(step, ending, rollout.why, seen.now)


def _left(seat: Seat) -> str:
    if not seat.up:
        return "it is silent: restart it by hand"
    return f"{seat.user} is logged in" if seat.user else "it did not restart"


def _back(step: Step, ending: Phase, why: str, now: float) -> None:
    step.change(phase=Phase.REVERTING, ending=ending, why=why, paused=None, paused_at=None)
    step.say(now, f"{'it goes back' if ending is Phase.REVERTED else 'it is aborted'}: {why or NO_REASON}")


def _pause(step: Step, why: str, now: float) -> None:
    step.change(paused=why, paused_at=now)
    step.say(now, f"it is paused: {why}")


def _end(step: Step, phase: Phase, why: str, now: float) -> None:
    step.change(phase=phase, why=why or step.rollout.why, ended=now, paused=None, paused_at=None)
    step.say(now, f"{phase.value}: {step.rollout.why or NO_REASON}")


def _put(step: Step, ring: Ring) -> None:
    number = step.rollout.ring
    step.change(rings=[ring if index == number else each for index, each in enumerate(step.rollout.rings)])
