"""A hall in memory with a time of its own: a pointer that behaves as netboot's, seats that beat, restart and fail."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from netboot.decide import effective
from netboot.heartbeats import FRESH_SECONDS, SECONDS
from netboot.schema import Action, Channel, Health, Seat
from services.common.codec import decode_json, encode_json
from services.rollout import machine
from services.rollout.machine import Act, Commit, Extend, Order, Quarantine, Rollback, Seen, Switch
from services.rollout.schema import OVER, Plan, Rollout

OLD, NEW = "20261121.bf275d18ebe8", "20261122.0123456789ab"


@dataclass
class Machine:
    """A seat of the hall. `fails`: what is wrong with it in which version: a unit's name, or "silent"."""

    id: int
    hostname: str
    room: str
    user: str | None = None
    fails: dict[str, str] = field(default_factory=dict)
    power: bool = True
    pinned: bool = False
    version: str = OLD
    """What it says it runs."""
    booted: str = OLD
    heard: float = 0.0
    back: float | None = None
    """When it boots again, while it restarts."""
    restarts: int = 0
    boots: list[str] = field(default_factory=list)


class Hall:
    """The machines, and the channel that they follow."""

    def __init__(self, machines: Sequence[Machine], *, boot_seconds: float = 40.0) -> None:
        self.machines = list(machines)
        self.boot_seconds = boot_seconds
        self.now = 1_800_000_000.0
        self.channel = Channel(
            name="stable", current=OLD, previous=None, commit_by=None, committed=True, generation=1, effective=OLD,
            changed=0.0, changed_by="alice", why="",
        )  # fmt: skip
        self.action, self.by = Action.SET, "alice"
        self.quarantined: set[str] = set()
        self.orders: dict[int, tuple[Order, float]] = {}
        self.committed_early = False
        for each in self.machines:
            each.heard = self.now

    # netboot

    def move(self, action: Action, by: str = "rollout", **values: object) -> None:
        from msgspec.structs import replace

        self.channel = replace(self.channel, **values, generation=self.channel.generation + 1, changed_by=by)
        self.action, self.by = action, by

    def restart_netboot(self) -> None:
        self.orders.clear()
        if not self.channel.committed:
            self._revert(Action.RESTARTED)

    def _revert(self, action: Action, by: str = "netboot") -> None:
        self.move(action, by, current=self.channel.previous, previous=None, committed=True, commit_by=None, only=None)

    def do(self, act: Act) -> None:
        """As netboot does it: under the generation, or not at all."""
        generation = getattr(act, "generation", self.channel.generation)
        if generation != self.channel.generation:
            return
        only = getattr(act, "only", None)
        ids = None if only is None else list(only)
        match act:
            case Switch():
                tried = None if act.commit_within is None else self.now + act.commit_within
                self.move(
                    Action.SET, previous=self.channel.current, current=NEW, committed=tried is None, commit_by=tried,
                    only=ids,
                )  # fmt: skip
            case Extend() if not self._expired():
                self.move(Action.EXTENDED, commit_by=self.now + act.commit_within, only=ids)
            case Commit() if not self._expired():
                self.move(Action.COMMITTED, committed=True, commit_by=None, only=None)
            case Rollback():
                if act.quarantine:
                    self.quarantined.add(NEW)
                self._revert(Action.REVERTED, "rollout")
            case Quarantine():
                self.quarantined.add(NEW)
            case Order():
                for id in act.machines:
                    self.orders[id] = (act, self.now + machine.ORDER_SECONDS)

    def _expired(self) -> bool:
        return self.channel.committed or (self.channel.commit_by or 0.0) <= self.now

    # Time

    def pass_(self, seconds: float) -> None:
        """Time passes; netboot's timer and the machines do what they do."""
        self.now += seconds
        if not self.channel.committed and self._expired():
            self._revert(Action.EXPIRED)
        for each in self.machines:
            if each.power:
                self._live(each)

    def _live(self, each: Machine) -> None:
        if each.back is not None:
            if self.now >= each.back:
                each.back = None
                each.booted = self.wanted(each)
                each.boots.append(each.booted)
                if each.fails.get(each.booted) != "silent":
                    each.version, each.heard = each.booted, self.now
            return
        if each.fails.get(each.booted) == "silent" or self.now - each.heard < SECONDS:
            return
        each.heard = self.now
        order, until = self.orders.get(each.id, (None, 0.0))
        if order is None or until <= self.now or order.version in (each.version,) or self.wanted(each) != order.version:
            return
        if each.user is None or order.even_with_user:
            self.restart(each)

    def restart(self, each: Machine) -> None:
        each.back = self.now + self.boot_seconds
        each.restarts += 1

    def wanted(self, each: Machine) -> str:
        pointed = OLD if each.pinned else effective(self.channel, self.now, each.id)
        return self.channel.previous or OLD if pointed in self.quarantined else pointed or OLD

    def seen(self) -> Seen:
        seats = [
            Seat(
                machine=each.id,
                hostname=each.hostname,
                room=each.room,
                type="user",
                channel="stable",
                faulty=False,
                rule="pin of the machine" if each.pinned else "channel stable",
                boots=self.wanted(each),
                held=True,
                booted=each.booted,
                version=each.version,
                heard=each.heard,
                up=self.now - each.heard < FRESH_SECONDS,
                health=self._health(each),
                user=each.user,
            )
            for each in self.machines
        ]
        from msgspec.structs import replace

        channel = replace(self.channel, effective=effective(self.channel, self.now))
        return Seen(self.now, channel, self.action, self.by, seats, NEW in self.quarantined)

    def _health(self, each: Machine) -> Health:
        unit = each.fails.get(each.version)
        return Health(state="degraded", failed_units=[unit]) if unit else Health(state="running")


@dataclass
class Runner:
    """The rollout service beside a hall: it holds nothing but what is on disk, and may be killed at any step."""

    hall: Hall
    disk: bytes = b""

    def begin(self, **plan: object) -> None:
        made = Plan(**{"version": NEW, "within": 600, "settle": 30, **plan})  # type: ignore[arg-type]
        self.keep(machine.begin(1, made, "alice", self.hall.channel, self.hall.now))

    @property
    def rollout(self) -> Rollout:
        return decode_json(self.disk, Rollout)

    def keep(self, rollout: Rollout) -> None:
        self.disk = encode_json(rollout)

    def step(self, *, lives: int = 1_000_000) -> None:
        """One step; it is killed after `lives` of: keeping the state, and each thing to do."""
        step = machine.advance(self.rollout, self.hall.seen())
        if lives == 0:
            return
        self.keep(step.rollout)
        for act in step.acts[: lives - 1]:
            self.hall.do(act)

    def run(self, *, seconds: float = 4 * 3600.0, every: float = 3.0) -> Rollout:
        """Steps until it is over or paused, or that much time has passed."""
        end = self.hall.now + seconds
        while self.hall.now < end and self.rollout.phase not in OVER and self.rollout.paused is None:
            self.step()
            self.hall.pass_(every)
        return self.rollout


def rows(count: int, *, per_row: int = 5, rows_per_room: int = 4) -> list[Machine]:
    """Seats in rows of rooms: `pas-r01p01` and so on."""
    made = []
    for number in range(count):
        row, place = divmod(number, per_row)
        room = f"room{row // rows_per_room}"
        made.append(Machine(number + 1, f"{room}-r{row:02}p{place + 1:02}", room))
    return made
