"""The running service: follow mdb, udb and presence, and keep the kernel's rules as they say.

A turn begins `QUIET` seconds after a change and takes what all feeds say by then. Until each of them has told its
state once, now or in an earlier life, seats stay as they were in the last good rules; a feed that is away changes
nothing, and is said to be silent.
What the kernel has is looked after between turns: rules that somebody else has changed are loaded again.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import socket
import time
from collections.abc import AsyncIterator, Callable
from ipaddress import IPv4Address
from pathlib import Path

from msgspec.structs import replace
from prometheus_client import Counter, Gauge, Histogram

from services.common.changes import Actor
from services.common.errors import BacklineError, HostError, MissingError
from services.common.feed.mirror import Mirror, Mirrors
from services.common.metrics import Metrics
from services.common.users import UserGroup
from services.firewall.apply import Applier
from services.firewall.flows import Flow, Listener
from services.firewall.nft import Nft
from services.firewall.plan import Bounds, Machine, Plan, Session, Sets, User, plan
from services.firewall.rules import COUNTERS
from services.firewall.schema import (
    LEFT_OUT_SHOWN,
    FeedStanding,
    LeftOut,
    Settings,
    Standing,
    Status,
    Why,
)
from services.firewall.switch import Switch

logger = logging.getLogger(__name__)
flows = logging.getLogger("services.firewall.connections")

QUIET, LONGEST = 0.005, 0.05
HEARD_SECONDS = 2.0
"""How long new connections wait to be written down until each feed has told what is new; who has nothing new is silent.
"""


class Worker:
    """Followers, applier, the kernel's events, and what is known between them. `run` is part of the lifespan."""

    def __init__(
        self,
        settings: Settings,
        applier: Applier,
        machines: Mirror[Machine],
        users: Mirror[User],
        sessions: Mirror[Session],
        events: socket.socket | None = None,
    ) -> None:
        self.settings = settings
        self.applier = applier
        self.machines = machines
        self.users = users
        self.sessions = sessions
        self.switch = Switch(Path(settings.folder), settings.allowed_groups)
        self._deciding = asyncio.Lock()
        self.feeds = Mirrors({"mdb": machines, "udb": users, "presence": sessions})
        self.listener = Listener(self.write_down, events)
        self.plan = Plan()
        self.problem: BacklineError | None = MissingError("firewall.waiting", "no feed has told anything yet")
        self.applied: float | None = None
        self.seconds: float | None = None
        self._told: set[LeftOut] = set()
        self._count: dict[str, Counter | Histogram] = {}

    # Life

    @contextlib.asynccontextmanager
    async def run(self, metrics: Metrics) -> AsyncIterator[None]:
        """Bring the last good rules into force, then follow and apply while the block lasts.

        Raises InputError("firewall.refused"), HostError("firewall.events").
        """
        self._measure(metrics)
        await asyncio.to_thread(self.switch.read)
        await asyncio.to_thread(self.applier.start)
        async with self.feeds.run(metrics):
            with self.listener.listening() as begin:
                tasks = [
                    asyncio.create_task(self._work(), name="firewall work"),
                    asyncio.create_task(self._begin(begin), name="firewall connections"),
                ]
                try:
                    yield
                finally:
                    for task in tasks:
                        task.cancel()
                    await asyncio.gather(*tasks, return_exceptions=True)

    async def _begin(self, begin: Callable[[], None]) -> None:
        """Read what the kernel tells once it is known who sits where now: what is remembered may be a moment older."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(HEARD_SECONDS):
                await self.feeds.live.wait()
        self._make_plan()
        begin()

    def _measure(self, metrics: Metrics) -> None:
        registry = metrics.registry
        self._count = {
            "turns": Counter(
                "backline_firewall_changes", "Times that the kernel was given other sets", registry=registry
            ),
            "failures": Counter("backline_firewall_failed_turns", "Turns that did not end well", registry=registry),
            "repairs": Counter(
                "backline_firewall_repairs", "Times that the kernel had other rules than ours", registry=registry
            ),
            "seconds": Histogram(
                "backline_firewall_turn_seconds",
                "From a change until the kernel has it",
                registry=registry,
                buckets=(0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1, 5),
            ),
        }
        sizes = Gauge("backline_firewall_addresses", "Addresses that get out", ["set"], registry=registry)
        sizes.labels(set="seats").set_function(lambda: len(self.applier.in_force.seats))
        sizes.labels(set="always").set_function(lambda: len(self.applier.in_force.always))
        left_out = Gauge("backline_firewall_left_out_records", "Records that count for nothing", registry=registry)
        left_out.set_function(lambda: len(self.plan.left_out))
        pending = Gauge("backline_firewall_pending", "1 while something known is not in force", registry=registry)
        pending.set_function(lambda: float(self.problem is not None))
        for name, text in (("packets", "Packets by what became of them"), ("bytes", "Bytes by what became of them")):
            gauge = Gauge(f"backline_firewall_{name}", text, ["verdict"], registry=registry)
            for counter in COUNTERS:
                gauge.labels(verdict=counter).set_function(
                    lambda name=name, counter=counter: getattr(self.applier.counters.get(counter), name, 0)  # type: ignore[misc]
                )
        heard = Gauge("backline_firewall_connections", "New connections that were written down", registry=registry)
        heard.set_function(lambda: self.listener.count)
        lost = Gauge(
            "backline_firewall_lost_events", "Times that connections could not be written down", registry=registry
        )
        lost.set_function(lambda: self.listener.lost)

    async def _work(self) -> None:
        while True:
            changed = await self._changed()
            began = time.monotonic()
            try:
                if changed:
                    await self._settle(began + LONGEST)
                elif not await asyncio.to_thread(self.applier.look):
                    logger.warning("the kernel has other rules than it was given: loading ours again")
                    self._count["repairs"].inc()  # type: ignore[union-attr]
                await self.turn(began)
            except BacklineError as error:
                self._failed(error)
            except Exception as error:  # a bug of ours must not end the service's only purpose
                logger.exception("a turn failed")
                self._failed(HostError("firewall.bug", f"a turn failed: {type(error).__name__}"))

    async def _changed(self) -> bool:
        """Until a change, True, or time to look, False."""
        try:
            async with asyncio.timeout(self.settings.look_seconds):
                await self.feeds.changed.wait()
        except TimeoutError:
            return False
        return True

    async def _settle(self, deadline: float) -> None:
        while self.feeds.changed.is_set() and time.monotonic() < deadline:
            self.feeds.changed.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(QUIET):
                    await self.feeds.changed.wait()
        self.feeds.changed.clear()

    async def turn(self, began: float) -> None:
        """Make a plan of what all feeds say, and have the kernel take it. Raises BacklineError."""
        self._make_plan()
        self._tell_left_out()
        before, after = self.applier.in_force, self.plan.sets
        unheard = [each.name for each in self.feeds.standings() if each.revision is None]
        if "mdb" in unheard:
            after = before
        elif unheard:  # who sits where is not known, and what machines are is
            after = Sets(before.seats, after.always)
        if await asyncio.to_thread(self.applier.apply, after):
            self.applied, self.seconds = time.time(), time.monotonic() - began
            self._count["turns"].inc()  # type: ignore[union-attr]
            self._count["seconds"].observe(self.seconds)  # type: ignore[union-attr]
            for word, addresses in (
                ("may", (after.seats | after.always) - (before.seats | before.always)),
                ("may not", (before.seats | before.always) - (after.seats | after.always)),
            ):
                if addresses:
                    shown = ", ".join(self._name(address) for address in sorted(addresses)[:20])
                    more = f" and {len(addresses) - 20} more" if len(addresses) > 20 else ""
                    logger.info("%s get out since %.3f s: %s%s", word, self.seconds, shown, more)
        self.problem = None
        if unheard:
            why = f"{' and '.join(unheard)} never told anything: seats stay as they were last"
            self.problem = MissingError("firewall.waiting", why)

    def _make_plan(self) -> None:
        bounds = dataclasses.replace(self.applier.bounds, groups=self.switch.groups)
        self.plan = plan(bounds, self.machines, self.users, self.sessions)

    def _failed(self, error: BacklineError) -> None:
        self._count["failures"].inc()  # type: ignore[union-attr]
        if self.problem is None or self.problem.message != error.message:
            logger.error("the last good rules stay: %s", error)
        self.problem = error

    def _tell_left_out(self) -> None:
        for each in set(self.plan.left_out) - self._told:
            logger.warning("left out: %s: %s", ascii(each.record), ascii(each.reason))
        self._told = set(self.plan.left_out)

    async def decide(self, group: UserGroup, allowed: bool | None, by: Actor) -> None:  # noqa: FBT001
        """Let a group out, keep it in, or leave it to hall.toml; in force with the turn that begins now.

        Raises HostError("firewall.switch").
        """
        async with self._deciding:
            if await asyncio.to_thread(self.switch.put, group, allowed, by):
                self.feeds.changed.set()

    # Connections

    def write_down(self, flow: Flow) -> None:
        """One line of the journal for a new connection to the world, with who sits there, and where."""
        if self.applier.bounds.problem(flow.destination) is None:
            return  # of a moment in which conntrack told of every connection
        standing = self.plan.by_address.get(flow.source)
        people = [person.login for person in standing.people] if standing else []
        seat = standing.hostname if standing else "an address without a machine"
        who = " and ".join(people) or "nobody"
        outside = f" as {_end(flow.outside, flow.outside_port)}" if flow.outside is not None else ""
        flows.info(
            "%s at %s: %s %s to %s%s%s",
            who,
            seat,
            flow.protocol,
            _end(flow.source, flow.source_port),
            _end(flow.destination, flow.destination_port),
            outside,
            " (opened while this service was away: who is known to sit there now)" if self.listener.waiting else "",
            extra={
                "fields": {
                    "flow_user": " ".join(people) or None,
                    "flow_seat": standing.hostname if standing else None,
                    "flow_late": 1 if self.listener.waiting else None,
                    "flow_protocol": flow.protocol,
                    "flow_source": flow.source,
                    "flow_source_port": flow.source_port,
                    "flow_destination": flow.destination,
                    "flow_destination_port": flow.destination_port,
                    "flow_outside": flow.outside,
                    "flow_outside_port": flow.outside_port,
                }
            },
        )

    def _name(self, address: object) -> str:
        standing = self.plan.by_address.get(address)  # type: ignore[call-overload]
        return str(address) if standing is None else f"{standing.hostname} ({standing.text})"

    # What is told

    def standings(self) -> list[Standing]:
        """Every machine, by name."""
        return sorted((self._now(each) for each in self.plan.standings.values()), key=lambda each: each.hostname)

    def why(self, name: str) -> Why:
        """A machine by host name, alias or address; without or with the domain. Raises MissingError."""
        found = self.plan.find(name.lower()) or self.plan.find(name.lower().partition(".")[0])
        if found is None:
            raise MissingError("machine.unknown", f"mdb knows no machine {name}", hint="backline firewall list")
        return Why(
            standing=self._now(found),
            allowed_groups=[group for group in UserGroup if self.switch.allows(group)],
            problem=None if self.problem is None else self.problem.message,
            feeds=self.feed_standings(),
        )

    def _now(self, standing: Standing) -> Standing:
        return replace(standing, in_force=(IPv4Address(standing.address) in self.applier.in_force) == standing.allowed)

    def feed_standings(self) -> list[FeedStanding]:
        """How the feeds are."""
        return [
            FeedStanding(name=each.name, revision=each.revision, silence=each.silence, stale=each.stale)
            for each in self.feeds.standings()
        ]

    def status(self) -> Status:
        """What is in force."""
        return Status(
            problem=None if self.problem is None else self.problem.message,
            applied=self.applied,
            seconds=self.seconds,
            allowed_groups=[group for group in UserGroup if self.switch.allows(group)],
            seats=len(self.applier.in_force.seats),
            always=len(self.applier.in_force.always),
            feeds=self.feed_standings(),
            counters=self.applier.counters,
            connections=self.listener.count,
            lost=self.listener.lost,
            left_out=list(self.plan.left_out[:LEFT_OUT_SHOWN]),
            left_out_total=len(self.plan.left_out),
        )

    async def in_force(self) -> None:
        """A check for /healthz. Raises what keeps the plan from being in force."""
        if self.problem is not None:
            raise self.problem


def _end(address: object, port: int | None) -> str:
    return str(address) if port is None else f"{address}:{port}"


def make_worker(settings: Settings, events: socket.socket | None = None) -> Worker:
    """A worker of this host's kernel; `events` as for `Listener`. Raises ValueError for settings without sense."""
    folder = Path(settings.folder)
    return Worker(
        settings,
        Applier(settings, Bounds.of(settings), Nft()),
        Mirror.at(settings.mdb, "machines", Machine, memory=folder / "mdb.json"),
        Mirror.at(settings.udb, "users", User, memory=folder / "udb.json"),
        Mirror.at(settings.presence, "sessions", Session, memory=folder / "presence.json"),
        events,
    )
