"""The running service: follow mdb, and keep named as mdb says.

One task follows mdb's feed and notes what machines there are; another one brings that into force, one turn after the
other. A turn for a few changes begins `QUIET` seconds after the last one; where there are many, the feed has to be
quiet for `MANY_QUIET`, for `LONGEST` at the most: a thousand machines of one import are one turn. What could not be
done is tried again by itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import AsyncIterator, Mapping
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import dns.exception
import dns.message
import dns.name
import dns.query
import dns.rdatatype
import dns.reversename
from prometheus_client import Counter, Gauge, Histogram

from services.common.errors import BacklineError, MissingError
from services.common.feed.client import Batch, Follower, remembered
from services.common.metrics import Metrics
from services.dns.apply import Applier, Outcome
from services.dns.folder import Folder
from services.dns.named import forwarders_of
from services.dns.schema import Answer, LeftOut, Lookup, Settings, Status
from services.dns.zones import HALL, Machine, machine_of

logger = logging.getLogger(__name__)

TOPIC = "machines"
FIELDS = ("hostname", "aliases", "ip")
QUIET, MANY_QUIET, LONGEST = 0.02, 0.15, 0.8
MANY = 10
AGAIN = 2.0
"""Seconds until what failed is tried again, and between looks at what DHCP says of servers."""
ASK_SECONDS = 2.0
LEFT_OUT_SHOWN = 1000


class Worker:
    """Follower, applier and what is known between them. `run` is part of the application's lifespan."""

    def __init__(self, settings: Settings, applier: Applier, follower: Follower) -> None:
        self.settings = settings
        self.applier = applier
        self.follower = follower
        self.machines: dict[str, Machine] = {}
        self.broken: dict[str, LeftOut] = {}
        self.known = False
        self.forwarders: tuple[IPv4Address, ...] = ()
        self.problem: BacklineError | None = MissingError("dns.waiting", "mdb has not told any machine yet")
        self.applied: float | None = None
        self.seconds: float | None = None
        self.reloads = 0
        self._noted = self._done = 0  # how many times something was noted, and how many of these are in force
        self._fresh = 0  # changes since the last turn began
        self._changed = asyncio.Event()
        self._stop = applier.stop
        self._count: dict[str, Any] = {}

    # Life

    @contextlib.asynccontextmanager
    async def run(self, metrics: Metrics) -> AsyncIterator[None]:
        """Follow and apply while the block lasts."""
        self._measure(metrics)
        machines = await asyncio.to_thread(last_known, self.applier.folder)
        if machines is not None:  # in force at once, whatever mdb says later: hall.toml may have changed
            self.machines = {machine.key: machine for machine in machines}
            self.known = True
            self._changed.set()
        tasks = [
            asyncio.create_task(self.follower.follow(self.take), name="dns feed"),
            asyncio.create_task(self._work(), name="dns work"),
        ]
        try:
            yield
        finally:
            self._stop.set()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _measure(self, metrics: Metrics) -> None:
        self.follower.measure(metrics, "mdb")
        registry = metrics.registry
        self._count = {
            "reloads": Counter("backline_dns_reloads", "Zones that named was told to load", registry=registry),
            "failures": Counter("backline_dns_failed_turns", "Turns that did not end well", registry=registry),
            "seconds": Histogram(
                "backline_dns_turn_seconds",
                "From the first change of a turn until named serves it",
                registry=registry,
                buckets=(0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1, 2, 3, 5, 10, 30),
            ),
        }
        refused = Gauge("backline_dns_refused_zones", "Zones that BIND refuses", registry=registry)
        refused.set_function(lambda: len(self.applier.refused) + (self.applier.conf_refused is not None))
        left_out = Gauge("backline_dns_left_out_records", "Records that are not in DNS", registry=registry)
        left_out.set_function(lambda: len(self.left_out()))
        pending = Gauge("backline_dns_pending", "1 while something known is not in force", registry=registry)
        pending.set_function(lambda: float(self.problem is not None))
        records = Gauge("backline_dns_records", "Records in all zones", registry=registry)
        records.set_function(lambda: sum(len(zone.records) for zone in list(self.applier.zones.values())))

    def take(self, batch: Batch) -> None:
        """Note what a batch says of machines."""
        if batch.first:
            self.machines, self.broken = {}, {}
            for (topic, key), record in batch.state.items():
                if topic == TOPIC:
                    self._note(key, record)
        else:
            for change in batch.changes:
                if change.topic == TOPIC:
                    self._note(change.key, change.after)
        self.known = True
        self._noted += 1
        self._fresh += len(batch.changes)
        self._changed.set()

    def _note(self, key: str, record: Mapping[str, Any] | None) -> None:
        self.machines.pop(key, None)
        self.broken.pop(key, None)
        if record is not None:
            found = machine_of(key, record)
            if isinstance(found, Machine):
                self.machines[key] = found
            else:
                self.broken[key] = found

    async def _work(self) -> None:
        while True:
            await self._wait_for_work()
            if not self.known:
                continue
            began = time.monotonic()
            await self._settle(began + LONGEST)
            noted, self._fresh = self._noted, 0
            outcome = await self._turn(began)
            self._note_outcome(outcome, time.monotonic() - began)
            if outcome.problem is None:
                self._done = noted

    async def _wait_for_work(self) -> None:
        """Until a change, or time to look: what failed is tried again, and DHCP may name other servers."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(AGAIN):
                    await self._changed.wait()
                    return
            forwarders = self._forwarders()
            if forwarders != self.forwarders or (self.problem is not None and self.known):
                self.applier.forget_served()
                return

    async def _settle(self, deadline: float) -> None:
        while self._changed.is_set():
            self._changed.clear()
            with contextlib.suppress(TimeoutError):
                quiet = QUIET if self._fresh < MANY else MANY_QUIET
                async with asyncio.timeout(max(0.0, min(quiet, deadline - time.monotonic()))):
                    await self._changed.wait()
            if time.monotonic() >= deadline:
                self._changed.clear()

    async def _turn(self, began: float) -> Outcome:
        self.forwarders = self._forwarders()
        machines = list(self.machines.values())
        try:
            return await asyncio.to_thread(self.applier.turn, machines, self.forwarders)
        except Exception as error:  # a bug of ours must not end the service's only purpose
            logger.exception("a turn failed")
            return Outcome(time.monotonic() - began, problem=MissingError("dns.bug", f"{type(error).__name__}"))

    def _note_outcome(self, outcome: Outcome, seconds: float) -> None:
        self.reloads += len(outcome.reloaded)
        self._count["reloads"].inc(len(outcome.reloaded))
        if outcome.problem is not None:
            self._count["failures"].inc()
            if self.problem is None or self.problem.message != outcome.problem.message:
                logger.error("DNS is not as it should be: %s", outcome.problem)
        else:
            self.applied, self.seconds = time.time(), seconds
            if outcome.reloaded:
                self._count["seconds"].observe(seconds)
                names = ", ".join(f"{zone} ({view})" for view, zone in outcome.reloaded)
                logger.info("in force after %.3f s: %s", seconds, names)
        self.problem = outcome.problem

    def _forwarders(self) -> tuple[IPv4Address, ...]:
        """hall.toml's, or those that DHCP names; what was known last when they cannot be read."""
        return forwarders(self.settings, self.applier.layout.addresses, self.forwarders)

    # What is told

    def left_out(self) -> list[LeftOut]:
        """Every record that is not in DNS."""
        return [*self.broken.values(), *self.applier.left_out]

    def status(self) -> Status:
        """What is in force."""
        left_out = self.left_out()
        position = self.follower.state.position
        problem = self.follower.refused or self.problem
        return Status(
            state="applied" if problem is None and self._done == self._noted else "pending",
            problem=None if problem is None else problem.message,
            applied=self.applied,
            seconds=self.seconds,
            revision=None if position is None else position.revision,
            machines=len(self.machines),
            reloads=self.reloads,
            forwarders=[str(each) for each in self.forwarders],
            zones=self.applier.status(),
            left_out=left_out[:LEFT_OUT_SHOWN],
            left_out_total=len(left_out),
        )

    async def in_force(self) -> None:
        """A check for /healthz. Raises what keeps zones from being in force."""
        if (problem := self.follower.refused or self.problem) is not None:
            raise problem

    async def named_answers(self) -> None:
        """A check for /healthz: named has the hall's zone, as it is on disk. Raises MissingError("dns.named")."""
        layout = self.applier.layout
        wanted = self.applier.on_disk.get((HALL, layout.zone))
        found = await asyncio.to_thread(self._ask, layout.domain, "SOA")
        if found is None:
            raise MissingError("dns.named", "named does not answer", hint="systemctl status named")
        serials = [int(each.split()[2]) for each in found]
        if serials != [wanted] and self.problem is None and not self._changed.is_set():
            self.applier.forget_served()
            self._changed.set()
            raise MissingError("dns.named", f"named serves {serials} of {layout.zone}, not {wanted}")

    async def lookup(self, text: str) -> Lookup:
        """What there is on a name, with or without the domain, or an address."""
        layout = self.applier.layout
        name = text.rstrip(".").lower()
        try:
            address: IPv4Address | None = IPv4Address(name)
        except ValueError:
            address = None
        if address is not None:
            full = dns.reversename.from_address(str(address))
        else:
            try:
                full = dns.name.from_text(name)
                if not full.is_subdomain(layout.domain):
                    full = dns.name.from_text(name, layout.domain)
            except dns.exception.DNSException:
                full = None
        answers = [] if full is None else self._answers(full)
        said = {name, name.removesuffix(f".{layout.zone}")}
        left_out = [each for each in self.left_out() if each.name.lower() in said]
        served = None if full is None else await asyncio.to_thread(self._ask, full, "PTR" if address else "A")
        return Lookup(name=text, answers=answers, left_out=left_out[:LEFT_OUT_SHOWN], served=served)

    def _answers(self, name: dns.name.Name) -> list[Answer]:
        found = []
        for zone in list(self.applier.zones.values()):
            origin = dns.name.from_text(zone.name)
            if name.is_subdomain(origin):
                owner = name.relativize(origin).to_text()
                found += [
                    Answer(
                        view=zone.view,
                        name=name.to_text(omit_final_dot=True),
                        type=record.type,
                        value=record.value,
                        machine=record.machine,
                    )
                    for record in zone.records
                    if record.owner == owner
                ]
        return found

    def _ask(self, name: dns.name.Name, kind: str) -> list[str] | None:
        """What named here answers to the hall; None when it does not answer."""
        query = dns.message.make_query(name, kind, flags=0)
        try:
            answer = dns.query.udp(query, self.settings.server, timeout=ASK_SECONDS)
        except (OSError, dns.exception.DNSException):
            return None
        wanted = dns.rdatatype.from_text(kind)
        return sorted(str(each) for rrset in answer.answer if rrset.rdtype == wanted for each in rrset)


def forwarders(
    settings: Settings, own: tuple[IPv4Address, ...], known: tuple[IPv4Address, ...] = ()
) -> tuple[IPv4Address, ...]:
    """The servers that named asks for names of the world; none: the root's own servers."""
    if not settings.recursion:
        return ()
    if settings.forwarders or not settings.dhcp_forwarders:
        return tuple(IPv4Address(each) for each in settings.forwarders)
    try:
        return forwarders_of(Path(settings.resolv_conf).read_text(), own)
    except (OSError, UnicodeDecodeError):
        return known


def last_known(folder: Folder) -> list[Machine] | None:
    """The machines that mdb told when it was last heard; None when that is not known."""
    records = remembered(folder.memory)
    if records is None:
        return None
    found = [machine_of(key, record) for (topic, key), record in records.items() if topic == TOPIC]
    return [each for each in found if isinstance(each, Machine)]


def make_worker(settings: Settings, applier: Applier) -> Worker:
    """A worker that follows the settings' mdb and remembers what it said."""
    follower = Follower(settings.mdb, topics=[TOPIC], fields=FIELDS, memory=applier.folder.memory)
    return Worker(settings, applier, follower)


def make_applier(settings: Settings) -> Applier:
    """An applier of the settings' folder and this host's named."""
    from services.dns.bind import Programs

    return Applier(settings, Folder(Path(settings.folder)), Programs(server=settings.server), stop=threading.Event())
