"""The state of the service: what mdb says, what Kea took, and answers from both. No HTTP.

`Store.follow` is the one task that changes anything: it waits for changes of the feed, lets them settle, so that a
thousand machines of one import are one change, and applies them, one at a time and off the event loop. Kea is looked
after meanwhile: one that was restarted, or given something else, gets what it is to have.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Collection

from prometheus_client import Counter, Gauge

from services.common.errors import BacklineError, HostError, UsageError
from services.common.feed.client import Batch, Follower
from services.common.metrics import Metrics
from services.common.names import normal_mac
from services.dhcp import machines, render
from services.dhcp.apply import Applier, Outcome
from services.dhcp.generations import Inputs
from services.dhcp.kea import KeaLease
from services.dhcp.machines import Choice, Machine
from services.dhcp.schema import Lease, Leases, LeftOut, NetworkSettings, Offer, Settings, Standing, State, Status

logger = logging.getLogger(__name__)

TOPIC = "machines"
LOOK_SECONDS = 5.0
"""How often Kea is looked after while nothing changes, and how long one that it refused rests."""
RETRY_SECONDS = 0.5
"""How often a Kea that is down is looked for."""


class Store:
    """What one gw does about DHCP. `inputs` are those of the configuration in force at the start."""

    def __init__(self, settings: Settings, applier: Applier, inputs: Inputs | None) -> None:
        self.settings = settings
        self.applier = applier
        self.kea = applier.kea
        self.follower = Follower(settings.mdb, topics=[TOPIC], fields=machines.FIELDS)
        self._told: dict[str, Machine | LeftOut] | None = None
        self._remembered: list[Machine] = inputs.machines if inputs else []
        self._position = inputs.position if inputs else None
        self._choice = machines.choose(settings, self._remembered)
        self._state = State.WAITING
        self._problem: str | None = None
        self._outcome: Outcome | None = None
        self._applied_at: float | None = None
        self._applies = 0
        self._changed = asyncio.Event()
        self._following = False
        self._counted: Counter | None = None

    # Following and applying

    async def follow(self) -> None:
        """Follow mdb and keep Kea in line, for ever."""
        self._following = True
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self.follower.follow(self._take))
                tasks.create_task(self._work())
        except* Exception:
            logger.exception("nothing is applied any more")
        finally:
            self._following = False

    def _take(self, batch: Batch) -> None:
        """Note what a batch says; who works is told. The batch's state is the follower's own and is not kept."""
        if batch.first or self._told is None:
            self._told = {key: machines.read(key, record) for (_, key), record in batch.state.items()}
        else:
            for change in batch.changes:
                if change.after is None:
                    self._told.pop(change.key, None)
                else:
                    self._told[change.key] = machines.read(change.key, change.after)
        self._position = str(batch.position)
        self._changed.set()

    async def _work(self) -> None:
        self._changed.set()  # Kea may have been restarted meanwhile, or hall.toml has changed
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(RETRY_SECONDS if self._state is State.DOWN else LOOK_SECONDS):
                    await self._changed.wait()
            if self._changed.is_set():
                await self._settled()
                await self._apply()
            elif self._state is State.REFUSED or await self._wants():
                await self._apply()

    async def _settled(self) -> None:
        """Return when nothing has come for `settle_seconds`, or changes have been coming for `patience_seconds`."""
        loop = asyncio.get_running_loop()
        limit = loop.time() + self.settings.patience_seconds
        while self._changed.is_set() and loop.time() < limit:
            self._changed.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(min(limit, loop.time() + self.settings.settle_seconds)):
                    await self._changed.wait()
        self._changed.clear()

    async def _wants(self) -> bool:
        """Whether Kea answers, and may have something else than it is to have."""
        try:
            if self._state is State.DOWN:
                await asyncio.to_thread(self.kea.running)
                return True
            return await asyncio.to_thread(self.applier.astray)
        except BacklineError as error:
            self._failed(error)
            return False

    async def _apply(self) -> None:
        """One apply; what goes wrong is kept for who asks, and tried again."""
        heard = self._told is not None
        told: list[Machine | LeftOut] = list(self._told.values()) if self._told is not None else [*self._remembered]
        position = self._position
        try:
            outcome = await asyncio.to_thread(self.applier.apply, told, position=position)
        except BacklineError as error:
            self._failed(error)
            return
        before = {(each.id, each.reason) for each in self._choice.left_out}
        for each in outcome.choice.left_out:
            if (each.id, each.reason) not in before:
                logger.warning("%s is left out: %s", each.name, each.reason, extra={"fields": {"machine": each.id}})
        self._choice, self._outcome = outcome.choice, outcome
        self._state, self._problem = State.LIVE if heard else State.WAITING, None
        if outcome.changed:
            self._applied_at = time.time()
            self._applies += 1
            self._count("applied")
            logger.info(
                "%d machines are in force, %d left out (%.2f s)",
                len(outcome.choice.machines), len(outcome.choice.left_out), outcome.seconds,
                extra={"fields": {"generation": outcome.generation.number, "position": position}},
            )  # fmt: skip

    def _failed(self, error: BacklineError) -> None:
        down = error.code in ("kea.down", "dhcp.unprepared")
        if self._problem != error.message:
            logger.error("%s: %s", error.code, error, extra={"fields": {"code": error.code, "hint": error.hint}})
            self._count("down" if down else "refused")
        self._state, self._problem = State.DOWN if down else State.REFUSED, error.message

    # Health

    async def healthy(self) -> None:
        """A check for /healthz. Raises HostError("dhcp.kea", "dhcp.refused" or "dhcp.stopped")."""
        if not self._following:
            raise HostError("dhcp.stopped", "nothing is applied any more", hint="restart backline-dhcp.service")
        if self._state is State.DOWN:
            raise HostError("dhcp.kea", self._problem or "Kea does not answer")
        if self._state is State.REFUSED:
            raise HostError("dhcp.refused", f"Kea answers as before, it refused the last change: {self._problem}")

    def measure(self, metrics: Metrics) -> None:
        """Export what is in force, and how applying went."""
        registry = metrics.registry
        self.follower.measure(metrics, "mdb")
        self._counted = Counter("backline_dhcp_applies", "Configurations, by what became of them", ["result"],
                                registry=registry)  # fmt: skip
        for result in ("applied", "refused", "down"):
            self._counted.labels(result=result)
        gauges: dict[str, tuple[str, Callable[[], float]]] = {
            "reserved": ("Machines with a reservation", lambda: len(self._choice.machines)),
            "left_out": ("Machines that are left out", lambda: len(self._choice.left_out)),
            "refused": ("1 while Kea has an older configuration than mdb's, because it refused one",
                        lambda: self._state is State.REFUSED),
            "kea_up": ("1 while Kea can be asked", lambda: self._state is not State.DOWN),
            "apply_seconds": ("How long the last apply took", lambda: self._outcome.seconds if self._outcome else 0),
        }  # fmt: skip
        for name, (help, value) in gauges.items():
            Gauge(f"backline_dhcp_{name}", help, registry=registry).set_function(value)

    def _count(self, result: str) -> None:
        if self._counted is not None:
            self._counted.labels(result=result).inc()

    # Answers

    def status(self) -> Status:
        """What is in force."""
        current = self._outcome.generation if self._outcome else self.applier.generations.current()
        return Status(
            state=self._state,
            generation=current.number if current else None,
            reserved=len(self._choice.machines),
            left_out=list(self._choice.left_out),
            problem=self._problem,
            position=self._position,
            applied_at=self._applied_at,
            apply_seconds=self._outcome.seconds if self._outcome else None,
            applies=self._applies,
            cards={str(card): name for card, name in self.applier.cards.items()},
        )

    def leases(self, mac: str | None = None) -> Leases:
        """Kea's leases, or those of one MAC. Raises UsageError("dhcp.mac"), MissingError("kea.down")."""
        found = self.kea.leases() if mac is None else self.kea.leases_of(_mac(mac))
        reserved = {machine.ip: machine.mac for machine in self._choice.machines}
        leases = [self._lease(lease, reserved.get(lease.ip_address) == lease.hw_address) for lease in found]
        return Leases(sorted(leases, key=lambda lease: lease.ip))

    def _lease(self, lease: KeaLease, known: bool) -> Lease:  # noqa: FBT001
        network = machines.network_of(self.settings.networks, lease.ip_address)
        return Lease(
            ip=lease.ip_address,
            mac=lease.hw_address,
            hostname=lease.hostname,
            network=network.name if network else None,
            expires=float(lease.ends),
            known=known,
        )

    def offer(self, text: str) -> Offer:
        """What a MAC address would be told. Raises UsageError("dhcp.mac"); its lease is left out while Kea is down."""
        mac = _mac(text)
        lease = None
        with contextlib.suppress(BacklineError):
            lease = next(iter(self.leases(mac).leases), None)
        return offer(self.settings, self._choice, mac, left_out=self._left_out(mac), lease=lease)

    def _left_out(self, mac: str) -> tuple[Machine, LeftOut] | None:
        """The machine of mdb that has this MAC and is left out, with the reason."""
        reasons = {(each.id, each.name): each for each in self._choice.left_out}
        told: Collection[Machine | LeftOut] = self._told.values() if self._told is not None else self._remembered
        for machine in told:
            if isinstance(machine, Machine) and machine.mac is not None and _same(machine.mac, mac):
                why = reasons.get((machine.id, machine.hostname))
                if why is not None:
                    return machine, why
        return None


def offer(
    settings: Settings, choice: Choice, mac: str, *, left_out: tuple[Machine, LeftOut] | None, lease: Lease | None
) -> Offer:
    """The answer for a MAC in normal form, from what is in force. Pure."""
    machine = next((machine for machine in choice.machines if machine.mac == mac), None)
    network: NetworkSettings | None
    if machine is not None:
        network = machines.network_of(settings.networks, machine.ip)
        standing = Standing.KNOWN
    else:
        network = next((each for each in settings.networks if each.aliens), None)
        standing = Standing.LEFT_OUT if left_out else Standing.UNKNOWN
    shown = machine or (left_out[0] if left_out else None)
    span = network.alien_range if network else None
    return Offer(
        mac=mac,
        standing=standing,
        machine=shown.id if shown else None,
        hostname=shown.hostname if shown else None,
        reason=left_out[1].reason if left_out and machine is None else None,
        network=network.name if network else None,
        ip=machine.ip if machine else None,
        pool=str(span) if span and machine is None else None,
        router=network.router if network else None,
        dns=network.server if network else None,
        ntp=network.server if network else None,
        next_server=network.server if network else None,
        domain=settings.domain,
        search=list(settings.search),
        lease_seconds=(settings.alien_lease_seconds if span else settings.lease_seconds) if network else None,
        boot=render.boot_files(network) if network else None,
        lease=lease,
    )


def _mac(text: str) -> str:
    try:
        return normal_mac(text)
    except ValueError as error:
        raise UsageError("dhcp.mac", str(error)) from error


def _same(text: str, mac: str) -> bool:
    try:
        return normal_mac(text) == mac
    except ValueError:
        return False
