"""Heartbeats of machines that are up: how they are, who is logged in, and what they are asked to do.

They are held in memory; when each boot was last heard is written down every `FLUSH_SECONDS`, all of them in one
transaction, so a thousand machines cost one write and no disk has to keep up with them. After a restart of netboot the
tables know whose lease goes on, and how a machine is comes with its next heartbeat.

An order asks machines to run one version, for a minute at most: whoever wants it goes on asking. A machine that runs
another one is told to restart, once netboot would answer it with the version that is wanted: nobody restarts in vain.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from sqlalchemy import bindparam, update
from sqlalchemy.orm import Session

from netboot.boots import Boots
from netboot.decide import decide
from netboot.leases import LEASE_SECONDS, Held, active
from netboot.machines import Known
from netboot.models import BootRow
from netboot.passing import Passing
from netboot.schema import Health, Heartbeat, Lease, Leases, Liveness, NewOrder, Orders, Seat, Seats
from services.common.errors import AccessError
from services.presence.schema import Beat as Present

logger = logging.getLogger(__name__)

SECONDS = 15.0
"""Between two heartbeats of a machine."""
FRESH_SECONDS = 3 * SECONDS
"""How long a machine counts as up after its last one."""
FLUSH_SECONDS = 30.0
START_SECONDS = 300.0
"""How long a machine that was answered what to boot may take until its first heartbeat."""
_NOT_WELL = ("degraded", "maintenance")


@dataclass
class Beat:
    """The last heartbeat of a boot."""

    boot: str
    machine: int
    version: str
    at: float = 0.0
    health: Health = field(default_factory=lambda: Health(state="unknown"))
    user: str | None = None


@dataclass(frozen=True)
class Order:
    """What a machine shall run, asked until a moment."""

    version: str
    even_with_user: bool
    probes: tuple[str, ...]
    until: float


class Heartbeats:
    """What is known of machines that are up, around the boot records. `take` belongs to one thread."""

    def __init__(self, boots: Boots, passing: Passing | None = None) -> None:
        self.boots = boots
        self.passing = passing
        self.store = boots.store
        self.flushed = self.began = self.store.clock()
        self._beats: dict[str, Beat] = {}
        self._last: dict[int, Beat] = {}
        self._dirty: dict[str, float] = {}
        self._orders: dict[int, Order] = {}
        self._flushing = threading.Lock()

    # Machines

    def knows(self, boot: str) -> bool:
        """Whether a boot was admitted already."""
        return boot in self._beats

    def admit(self, boot: str, machine: int, version: str) -> None:
        """Look up a boot that is heard for the first time in this process' life; blocks.

        Raises MissingError("boot.unknown"), AccessError("auth.denied").
        """
        found = self.boots.of_token(boot, machine, version)
        if found.machine != machine or found.version is None:
            raise AccessError("auth.denied", "this boot is another machine's, or was refused")
        self._beats.setdefault(boot, Beat(boot, machine, found.version))

    def take(self, boot: str, heartbeat: Heartbeat) -> Orders:
        """Note a heartbeat of a boot that was admitted, and say what its machine shall do."""
        beat, now = self._beats[boot], self.store.clock()
        if heartbeat.version != beat.version and not beat.at:
            logger.warning("machine %s says it runs %s, not %s", beat.machine, heartbeat.version, beat.version)
        beat.at, beat.health, beat.user = now, heartbeat.health, heartbeat.user
        self._last[beat.machine] = beat
        self._dirty[boot] = self.store.signs[boot] = now
        self._pass_on(beat, heartbeat)
        end = self.passing.ends(beat.machine, boot) if self.passing is not None else ()
        order = self._orders.get(beat.machine)
        if order is None or order.until <= now:
            return Orders(end=end)
        if beat.version == order.version or (beat.user is not None and not order.even_with_user):
            return Orders(probes=order.probes, end=end)
        return Orders(
            probes=order.probes,
            end=end,
            reboot=self._would_boot(beat.machine, order.version),
            version=order.version,
            even_with_user=order.even_with_user,
        )

    def _pass_on(self, beat: Beat, heartbeat: Heartbeat) -> None:
        known = self.store.machines.by_id(beat.machine)
        if self.passing is None or known is None:
            return
        self.passing.note(Present(machine=beat.machine, hostname=known.hostname, boot=beat.boot, users=heartbeat.users))

    def order(self, new: NewOrder) -> None:
        """Ask machines to run a version, for a while."""
        until = self.store.clock() + new.seconds
        made = Order(new.version, new.even_with_user, tuple(new.probes), until)
        self._orders = {id: each for id, each in self._orders.items() if each.until > self.store.clock()}
        self._orders.update(dict.fromkeys(new.machines, made))

    def _would_boot(self, machine: int, version: str) -> bool:
        known = self.store.machines.by_id(machine)
        if known is None:
            return False
        now = self.store.clock()
        found = decide(known, self.store.machines, self.store.pointers(), now=now, aliens=self.store.aliens)
        return found.boots and found.version is not None and found.version.version == version

    # Leases

    def leases(self) -> Leases:
        """Every lease; blocks."""
        now = self.store.clock()
        with self.store.database.read() as session:
            held = active(session, now, self.store.signs)
        return Leases(at=now, age=max(0.0, now - self.flushed), leases=[self._lease(each) for each in held])

    def _lease(self, held: Held) -> Lease:
        known, beat = self.store.machines.by_id(held.machine), self._beats.get(held.boot)
        return Lease(
            machine=held.machine,
            hostname=known.hostname if known else held.hostname,
            version=held.version,
            role=held.role,
            since=held.since,
            last_sign=held.sign,
            ends=held.ends,
            heard=beat.at if beat and beat.at else None,
            state=liveness(beat, held, self.store.clock()),
        )

    def flush(self) -> int:
        """Write down when boots were last heard; blocks. Returns how many there were."""
        with self._flushing:
            pending, self._dirty = self._dirty, {}
            now = self.store.clock()
            try:
                if pending:
                    with self.store.write() as session:
                        _note(session, pending)
            except BaseException:
                self._dirty = {**pending, **self._dirty}
                raise
            self.flushed = now
            self._forget(now)
            return len(pending)

    def _forget(self, now: float) -> None:
        """Machines that are silent for longer than a lease lasts, and boots that another one has followed."""
        for id, beat in list(self._beats.items()):
            if now - beat.at >= LEASE_SECONDS or (self._last.get(beat.machine) is not beat and id not in self._dirty):
                self._beats.pop(id, None)
                self.store.signs.pop(id, None)
                if self._last.get(beat.machine) is beat:
                    self._last.pop(beat.machine, None)

    # Seats

    def seats(self, machines: Collection[Known], version: str | None) -> Seats:
        """Machines, what each would boot now and how it is; `held`: whether its root server has `version`."""
        pointers, now = self.store.pointers(), self.store.clock()
        holders = pointers.holders.get(version, frozenset()) if version is not None else frozenset()
        with self.store.database.read() as session:
            # In the order of their begin backwards: of a machine with two leases the newest boot counts.
            leases = {each.machine: each for each in reversed(active(session, now, self.store.signs))}
        found = []
        for machine in sorted(machines, key=lambda each: each.hostname):
            decision = decide(machine, self.store.machines, pointers, now=now, aliens=self.store.aliens)
            beat, lease = self._last.get(machine.id), leases.get(machine.id)
            own = self.store.machines.by_name(f"rfs{machine.rfs}")
            found.append(
                Seat(
                    machine=machine.id,
                    hostname=machine.hostname,
                    room=machine.room,
                    type=machine.type,
                    channel=machine.channel,
                    faulty=machine.faulty,
                    rule=decision.rule,
                    boots=decision.version.version if decision.boots and decision.version else None,
                    held=machine.rfs in holders or (own is not None and own.faulty and bool(holders)),
                    booted=lease.version if lease else None,
                    version=beat.version if beat else None,
                    heard=beat.at if beat else None,
                    up=beat is not None and now - beat.at < FRESH_SECONDS,
                    health=beat.health if beat else None,
                    user=beat.user if beat else None,
                    state=liveness(beat, lease, now),
                    since=lease.since if lease else None,
                    last_sign=lease.sign if lease else None,
                )
            )
        return Seats(at=now, listening=self.began, seats=found)


def liveness(beat: Beat | None, lease: Held | None, now: float) -> Liveness:
    """Whether a machine is there, from its last heartbeat and its lease. Pure."""
    heard = beat.at if beat is not None else 0.0
    if lease is not None and heard < lease.since and now - lease.since < START_SECONDS:
        return Liveness.STARTING
    if beat is not None and heard and now - heard < FRESH_SECONDS:
        if beat.health.failed_units or beat.health.state in _NOT_WELL:
            return Liveness.DEGRADED
        return Liveness.UP if beat.health.state == "running" else Liveness.STARTING
    return Liveness.OFF if lease is None else Liveness.UNKNOWN


def _note(session: Session, seen: dict[str, float]) -> None:
    rows: Sequence[dict[str, object]] = [{"boot": boot, "moment": at} for boot, at in seen.items()]
    table = BootRow.__table__
    statement = update(table).where(table.c.id == bindparam("boot")).values(seen=bindparam("moment"))  # type: ignore[arg-type]
    session.connection().execute(statement, rows)
