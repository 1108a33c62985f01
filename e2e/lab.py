"""A lab: a whole hall on this machine, from images of the store. A context manager; at its end nothing is left.

    with Lab(topology.hall(seats=4)) as lab:
        lab.start()
        lab["web"].succeeds("ping", "-c1", "rhfs01")
        lab.cut("web:0")

`start` powers everything on and waits until all of it is up. Nodes have the verbs of a machine (`e2e.node`), the lab
those of the network. Every step and fault is an entry of the lab's one journal.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import tempfile
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec

from builder import keys as builder_keys
from builder import settings as builder_settings
from builder.settings import Settings
from builder.store import Store
from e2e import halls, limits, published, registration, registry, serial, stand_ins, topology
from e2e.backend import UNIT_FAILED, Backend
from e2e.capabilities import Capability, Found, probe
from e2e.journal import Entry, Journal
from e2e.netbooted import netboot_says, version_of
from e2e.network import Network
from e2e.node import WAIT, Node, WaitFailed, dumped_core
from e2e.nspawn import NspawnBackend
from e2e.reactor import Reactor
from e2e.roots import Roots
from e2e.sandbox import Sandbox
from services.common.errors import BacklineError, MissingError, UsageError, nearest
from services.common.progress import Progress
from services.common.versions import Ref
from services.hall import for_roots
from services.mdb.schema import Machine


class TestFailed(BacklineError):
    """Something in the lab went wrong that no assertion looked at: a failed unit, a core dump."""

    __test__ = False

    def __init__(self, problems: list[str], hint: str) -> None:
        super().__init__("lan.problems", "\n".join(problems), hint=hint)
        self.problems = problems


class Lab:
    """A lab of `topology`.

    `hall` is what its nodes are told of the hall (a throwaway one when absent), `extract` forces extracted trees
    instead of mounted ones, `journal` keeps the merged journal in a file, `settings` say where the store is. `netboot`
    lets gw and rhfs serve a machine with a kernel of its own, even if the topology has none yet.
    """

    def __init__(
        self,
        wanted: topology.Topology,
        *,
        name: str = "",
        hall: halls.LabHall | None = None,
        settings: Settings | None = None,
        extract: bool = False,
        journal: Path | None = None,
        progress: Progress | None = None,
        found: Found | None = None,
        netboot: bool = False,
    ) -> None:
        """Makes the namespaces and the network; nothing is powered on. Raises HostError("lan.capability")."""
        self.found = found or probe()
        self.found.require()
        self.topology = topology.check(wanted)
        self.name = registry.check_name(name or f"{wanted.name}-{os.getpid()}")
        servers = {name: node.role for name, node in wanted.nodes.items() if node.hall and not node.seat}
        self.hall = hall or halls.make(roles=servers)
        self.progress = progress or Progress(quiet=True)
        self.closing = False
        self.kept = False
        self.checked = 0
        """Up to where the plugin has looked at the journal for what no assertion saw."""
        self._stack = contextlib.ExitStack()
        self._journal_path = journal
        try:
            self._open(settings or builder_settings.load(), extract=extract, netboot=netboot)
        except BaseException:
            self._stack.close()
            raise

    def _open(self, settings: Settings, *, extract: bool, netboot: bool) -> None:
        if self._journal_path is None:
            descriptor, self._journal_path = registry.make_journal(self.name)
            self._stack.callback(self._remove_journal)
            file = self._stack.enter_context(os.fdopen(descriptor, "wb"))
        else:
            file = self._stack.enter_context(self._journal_path.open("wb"))
        self.journal = Journal(file)
        self._stack.callback(self.journal.close)
        self.reactor = Reactor()
        self._stack.callback(self.reactor.close)
        if any(node.role == "rhfs" for node in self.topology.nodes.values()):
            # Before the sandbox, so that at the end nobody writes there any more when it is deleted.
            self._disks = self._stack.enter_context(Store(settings.store_path).staging())
        self.sandbox = self._stack.enter_context(Sandbox(self.name))
        registry.write(self.sandbox.record, keeper=self.sandbox.pid, topology=self.topology.name)
        self.roots = Roots(self.sandbox, settings, extract=extract, progress=self.progress)
        qemu = {name for name, node in self.topology.nodes.items() if node.backend == "qemu"}
        self.network = Network(self.sandbox, self.topology, qemu=qemu, netem=Capability.NETEM in self.found)
        if raised := limits.raise_for(len(self.topology.nodes)):
            self.journal.note("step", raised)
        self._backends: dict[str, Backend] = {"nspawn": NspawnBackend(self.sandbox, self.roots, self.reactor)}
        self.nodes = {
            name: Node(self, name, index, spec) for index, (name, spec) in enumerate(self.topology.nodes.items())
        }
        self.netboot = self._plan_netboot((self.topology.nodes[name] for name in qemu), wanted=netboot)
        for node in self.nodes.values():
            if node.spec.role == "rhfs":
                node.binds[published.HELD] = str(self._held(node.name))
        self.joins: Callable[[Node], None] | None = None
        """What is done to a seat that joins, before it is powered on (`e2e.netbooted`)."""
        self.machines: dict[str, Machine] = {}
        """Seats as mdb knows them, by name."""
        self._booted = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __getitem__(self, name: str) -> Node:
        """A node. Raises MissingError("lan.node")."""
        if name not in self.nodes:
            hint = nearest(name, list(self.nodes)) or f"there are: {', '.join(self.nodes)}"
            raise MissingError("lan.node", f"no node {name!r} in this lab", hint=hint)
        return self.nodes[name]

    def close(self) -> None:
        """Power everything off at once and remove it all; idempotent. The journal stays only if it was kept."""
        self.closing = True
        self._stack.close()

    def at_end(self, callback: Callable[[], object]) -> None:
        """Have something done when the lab is closed, while all of it is still there."""
        self._stack.callback(callback)

    # Power

    def start(self, names: Sequence[str] | None = None, *, seconds: float = WAIT) -> None:
        """Power on (all that is not `off` by the topology, or `names`), and wait until all of it is up.

        Raises WaitFailed for the first node that is not, with its last lines.
        """
        chosen = [self[name] for name in names] if names is not None else self._default()
        deadline = time.monotonic() + seconds
        self.power_on(chosen, seconds=seconds)
        with self.progress.step("starting the hall", total=len(chosen), unit="machines") as step:
            left = list(chosen)
            while left:
                node = left[0]
                node.wait_ready(deadline=deadline)
                left.pop(0)
                step.advance()

    def power_on(self, nodes: Sequence[Node], *, seconds: float = WAIT) -> None:
        """Power on side by side, servers first, without waiting for them.

        Seats get power once gw knows them (`e2e.registration`), for which it has `seconds`. Raises WaitFailed.
        """
        seats = [node for node in nodes if node.spec.seat]
        self._power_on([node for node in nodes if not node.spec.seat])
        known = [node for node in seats if not node.spec.stranger and node.spec.nics]
        gateway = next((node for node in self.nodes.values() if node.spec.role == "gw" and node.running), None)
        if gateway and gateway.spec.hall and (known or self.netboot):
            with self.progress.step(f"{gateway.name}: its services, machines and versions"):
                if known:
                    self.machines |= registration.register(gateway, known, seconds=seconds)
                if self.netboot and gateway in nodes:
                    published.publish(gateway.service("netboot", seconds=seconds), self.netboot)
        self._power_on(seats)

    def _power_on(self, nodes: Sequence[Node]) -> None:
        roots = {(node.spec.role, node.version) for node in nodes if self.backend_of(node).name == "nspawn"}
        for role, version in sorted(roots):
            self.roots.mount(self.roots.find(role, version))
        with ThreadPoolExecutor(max_workers=4) as executor:
            for result in executor.map(_start, nodes):
                if isinstance(result, BacklineError):
                    raise result

    def stop(self, *, seconds: float = 20.0) -> None:
        """Shut all down in order, seats first, side by side."""
        running = [node for node in self.nodes.values() if node.running]
        with ThreadPoolExecutor(max_workers=16) as executor:
            for _ in executor.map(lambda node: node.stop(seconds=seconds), reversed(running)):
                pass

    def _default(self) -> list[Node]:
        return [node for node in self.nodes.values() if not node.spec.off and not node.running]

    # What nodes get

    def backend_of(self, node: Node) -> Backend:
        """What a node runs in."""
        name = node.spec.backend or "nspawn"
        if name == "qemu" and "qemu" not in self._backends:
            from e2e.qemu import QemuBackend

            self._backends[name] = QemuBackend(self.sandbox, self.roots, self.reactor, self.found)
        if name == "fake" and "fake" not in self._backends:
            from e2e.fake import FakeBackend

            self._backends[name] = FakeBackend()
        return self._backends[name]

    def _plan_netboot(self, qemu: Iterable[topology.Node], *, wanted: bool) -> published.Published | None:
        """What machines with a kernel of their own boot; None without any, unless they are `wanted` later.

        Raises MissingError("lan.version").
        """
        first = next((node for node in qemu if node.seat), None)
        servers = [name for name, node in self.topology.nodes.items() if node.role == "rhfs"]
        holders = sorted({number for name in servers for number in for_roots.numbers(self.hall.data, name)})
        if not holders or (first is None and not wanted):
            return None
        ref = self.roots.find(first.role, first.version) if first else self.roots.find("nfsroot")
        return published.plan(self.roots.store, ref, tuple(holders))

    def _held(self, name: str) -> Path:
        """A root file server's disk: on the store's own, with what the lab begins with in it."""
        folder = self._disks / name
        folder.mkdir()
        if self.netboot is not None:
            self._seed(folder, self.netboot.ref, 1)
        published.own(folder)
        return folder

    def _seed(self, folder: Path, ref: Ref, sequence: int) -> None:
        with tempfile.TemporaryDirectory() as keys:
            key = self.hall.signer_in(Path(keys)) if self.hall.signer else builder_keys.Keyring().default()
            published.seed(folder, self.roots.store, ref, self.hall, key=key, sequence=sequence)

    def depot(self, ref: Ref) -> Path:
        """A disk for a depot that has a version already, beside those of root file servers."""
        folder = self._disks / "depot"
        published.stock(folder, self.roots.store, ref)
        return folder

    def hold(self, ref: Ref, *, sequence: int) -> None:
        """Let every root file server hold another version of the store, as number `sequence` of the lab's channel."""
        for name in (name for name, node in self.nodes.items() if published.HELD in node.binds):
            self._seed(self._disks / name, ref, sequence)
            self.nodes[name].succeeds("systemctl", "restart", "backline-roots.service")

    def credentials_of(self, node: Node) -> dict[str, bytes]:
        """What a node gets as systemd credentials: who it is, the hall, and stand-ins for services to come."""
        version = node.booted.get("version", "")
        found = {
            "backline.role": node.spec.role.encode(),
            "backline.version": version.encode(),
            "system.hostname": node.name.encode(),
        }
        if node.spec.hall:
            found["backline.hall"] = self.hall.text.encode()
            found |= self.hall.certificates(node.name)
            found = stand_ins.join(found, self._stand_ins(node))
        found |= {name: text.encode() for name, text in node.spec.credentials.items()}
        return found

    def _stand_ins(self, node: Node) -> stand_ins.Credentials:
        """What makes a server offer what a service of Backline will."""
        if node.spec.role != "gw":
            return {}
        found = stand_ins.join(stand_ins.time_server(), stand_ins.console(serial.COMMAND_LINE))
        emulated = self.netboot is not None and Capability.KVM not in self.found
        return stand_ins.join(found, stand_ins.patience()) if emulated else found

    def addresses(self, node: Node) -> list[str]:
        """A node's IPv4 addresses now, as its kernel has them."""
        if not self.network.cables(node.name) or node.spec.backend == "qemu" or not node.has_network:
            return []
        argv = ["ip", "--json", "-4", "address", "show", "scope", "global"]
        text = self.sandbox.run(argv, netns=node.netns, check=False).stdout
        links = json.loads(text or "[]")
        cards = {f"host{cable.index}": cable.index for cable in self.network.cables(node.name)}
        rows = [
            (cards[link["ifname"]], info["local"])
            for link in links
            if link["ifname"] in cards
            for info in link["addr_info"]
            if info  # ip(8) prints `{}` for an address that its own filter leaves out, such as a link-local one
        ]
        return [address for _, address in sorted(rows, key=lambda row: row[0])]

    # Faults

    def cut(self, edge: str) -> None:
        """Pull a cable: `gw:0`, `server-room=room-1`, or a node for all of its."""
        self.network.cut(edge)
        self.journal.note("fault", f"cut {edge}")

    def partition(self, one: Sequence[str], two: Sequence[str]) -> None:
        """Let no frame pass between two groups of nodes."""
        self.network.partition(set(one), set(two))
        self.journal.note("fault", f"partition {'+'.join(one)} | {'+'.join(two)}")

    def lose(self, edge: str, percent: float) -> None:
        """Lose that share of the frames of an edge, each way."""
        self.network.lose(edge, percent)
        self.journal.note("fault", f"{edge} loses {percent:g} %")

    def slow(self, edge: str, *, rate: int = 0, delay: float = 0.0) -> None:
        """Limit an edge to `rate` bit/s, delay it by `delay` seconds."""
        self.network.slow(edge, rate=rate, delay=delay)
        self.journal.note("fault", f"{edge} slowed: {rate} bit/s, {delay:g} s")

    def heal(self, edge: str | None = None) -> None:
        """Undo the faults of an edge, or all of the network's."""
        self.network.heal(edge)
        self.journal.note("step", f"heal {edge or 'everything'}")

    @contextlib.contextmanager
    def step(self, what: str) -> Iterator[None]:
        """Name what a test does: begin and end are entries of the journal."""
        self.journal.note("step", what)
        began = time.monotonic()
        yield
        self.journal.note("step", f"{what}: done in {time.monotonic() - began:.1f} s")

    # Afterwards

    def problems(self, *, since: int = 0) -> list[str]:
        """What went wrong though nobody asserted it: failed units now, core dumps since a mark of the journal."""
        found = []
        for node in self.nodes.values():
            if node.ready and node.spec.backend != "qemu":  # those have no bus here: their journal says it
                with contextlib.suppress(BacklineError):
                    found += [f"{node.name}: {unit} failed\n{node.tail(5, unit=unit)}" for unit in node.failed_units()]
        for entry in self.journal.since(since):
            fields = entry.fields
            if dumped_core(fields) and not self._may_fail(entry):
                found.append(f"{entry.node}: {entry.unit} dumped core: {entry.message}")
            if fields.get("MESSAGE_ID") == UNIT_FAILED and self._told_by_journal(entry) and not self._may_fail(entry):
                found.append(f"{entry.node}: {entry.unit} failed\n{entry.message}")
        return found

    def _told_by_journal(self, entry: Entry) -> bool:
        node = self.nodes.get(entry.node)
        return node is not None and node.spec.backend == "qemu"

    def _may_fail(self, entry: Entry) -> bool:
        node = self.nodes.get(entry.node)
        return node is not None and entry.unit in node.allowed_failures

    def check(self, *, since: int = 0) -> None:
        """Raises TestFailed when there are `problems`."""
        if found := self.problems(since=since):
            raise TestFailed(found, self.again())

    def again(self, node: str | None = None) -> str:
        """The command that shows the journal again, after the lab is gone; it is kept from now on."""
        self.keep_journal()
        return f"backline lan journal --file {self._journal_path}" + (f" --node {node}" if node else "")

    def keep_journal(self) -> Path:
        """Keep the journal's file; returns its path."""
        self.kept = True
        self.journal.flush()
        assert self._journal_path is not None
        self._journal_path = registry.keep_journal(self._journal_path)
        return self._journal_path

    def _remove_journal(self) -> None:
        if not self.kept and self._journal_path is not None:
            self._journal_path.unlink(missing_ok=True)

    @contextlib.contextmanager
    def background(self, coroutine: Coroutine[Any, Any, None]) -> Iterator[None]:
        """Run a coroutine in the lab's event loop for a block; what it raises is not ours to judge."""
        future = asyncio.run_coroutine_threadsafe(coroutine, self.reactor.loop)
        try:
            yield
        finally:
            future.cancel()

    def status(self) -> list[dict[str, object]]:
        """Every node in short, for people and scripts."""
        rows: list[dict[str, object]] = []
        for node in self.nodes.values():
            version, addresses = node.booted.get("version", ""), node.addresses if node.running else []
            if node.ready and node.spec.backend == "qemu" and node.name in self.machines:  # its kernel tells us nothing
                version, addresses = version_of(self, node), [str(self.machines[node.name].ip)]
            rows.append(
                {
                    "name": node.name,
                    "state": node.state,
                    "role": node.spec.role,
                    "version": version,
                    "addresses": addresses,
                    "seconds": node.seconds_to_ready,
                    "starts": node.starts,
                    "segments": [cable.segment for cable in self.network.cables(node.name)],
                    "seat": node.spec.seat,
                }
            )
        return rows

    def versions(self) -> dict[str, str]:
        """The versions that run, by node, as `role/version`."""
        return {
            name: f"{node.booted['role']}/{node.booted['version']}" for name, node in self.nodes.items() if node.booted
        }

    def cpu(self, node: Node) -> float:
        """Seconds of processor time of a node."""
        with contextlib.suppress(OSError):
            for line in (self.sandbox.cgroup / node.name / "cpu.stat").read_text().splitlines():
                if line.startswith("usage_usec "):
                    return int(line.split()[1]) / 1e6
        return 0.0

    def add_seat(
        self, name: str, *, qemu: bool = False, segment: str = "", version: str = "", stranger: bool = False
    ) -> Node:
        """A seat more, powered on and up: on a switch of the lab, a machine of mdb unless it is a `stranger`.

        Raises UsageError("lan.node") when there is a node of that name, "lan.netboot" when no `version` can be told.
        """
        if name in self.nodes:
            raise UsageError("lan.node", f"there is a node {name} already", hint=f"`backline lan start {name}`")
        if version and (qemu or self.joins is not None):
            raise netboot_says(name)
        switches = [each for each, what in self.topology.segments.items() if what.address is None]
        nic = topology.Nic(segment=segment or switches[-1])
        spec = topology.Node(
            role="nfsroot",
            seat=True,
            nics=[nic],
            version=version,
            backend="qemu" if qemu else "nspawn",
            stranger=stranger,
            off=True,
        )
        nodes = {**self.topology.nodes, name: spec}
        self.topology = topology.check(msgspec.structs.replace(self.topology, nodes=nodes))
        self.network.add(self.topology, name, qemu=qemu)
        node = self.nodes[name] = Node(self, name, len(self.nodes), spec)
        if self.joins is not None:
            self.joins(node)
        self.start([name], seconds=600 if qemu else WAIT)
        if not qemu:
            node.wait_for_address()
        return node

    def keep_journal_path(self) -> Path:
        """Where the journal is, whether it is kept or not; flushed."""
        self.journal.flush()
        assert self._journal_path is not None
        return self._journal_path

    def memory(self) -> Mapping[str, int]:
        """Bytes in use by node."""
        return {node.name: node.memory() for node in self.nodes.values() if node.running}


def _start(node: Node) -> BacklineError | None:
    try:
        node.start()
    except BacklineError as error:
        return error
    return None


def failures(journal: Journal) -> list[Entry]:
    """Entries that say that a unit failed."""
    return [entry for entry in journal.since(0) if entry.fields.get("MESSAGE_ID") == UNIT_FAILED]


__all__ = ["Lab", "TestFailed", "WaitFailed", "failures"]
