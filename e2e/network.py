"""A lab's switches and cables: bridges, veths and taps in the lab's own network namespace, and what can go wrong on
them.

Interfaces are numbered: bridge `b0` is a segment, `p0` the port of a node's card, `t0a`/`t0b` the ends of a trunk;
their alias says whose they are. A server's end of a cable is `host0`, `host1`... in a network namespace of the node's
name, which outlives the node's restarts as a cable does. Faults are one nftables table of the bridge family, written
anew as a whole, so each change is one transaction.
"""

from __future__ import annotations

import contextlib
import json
import signal
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from e2e.sandbox import Sandbox
from e2e.topology import Topology, mac_of
from services.common.errors import HostError, MissingError, UsageError, nearest

TABLE = "backline"
_ETH_P_ALL = 3
FORWARD_LLDP = 0x4000
"""Bit 14 of group_fwd_mask: bridges drop frames to 01:80:c2:00:00:0e else (IEEE 802.1D, reserved addresses)."""


@dataclass(frozen=True)
class Cable:
    """A node's card: its port on the switch, its end in the node, its address."""

    node: str
    index: int
    segment: str
    port: str
    bridge: str
    mac: str

    @property
    def name(self) -> str:
        """As edges are called: `gw:0`."""
        return f"{self.node}:{self.index}"


@dataclass(frozen=True)
class Trunk:
    """What joins two switches."""

    left: str
    right: str
    number: int

    @property
    def name(self) -> str:
        """As edges are called: `room-1=room-2`."""
        return f"{self.left}={self.right}"

    @property
    def port(self) -> str:
        """The end at `left`; what passes it passes the trunk."""
        return f"t{self.number}a"


@dataclass
class Faults:
    """What is wrong with an edge: percent of frames lost, bit/s, seconds of delay."""

    lost: float = 0.0
    rate: int = 0
    delay: float = 0.0


@dataclass
class Plan:
    """Every interface of a topology."""

    bridges: dict[str, str]
    cables: list[Cable]
    trunks: list[Trunk]
    addresses: dict[str, str] = field(default_factory=dict)


def plan(topology: Topology) -> Plan:
    """Number what a topology has; the same topology gives the same numbers."""
    bridges = {name: f"b{number}" for number, name in enumerate(topology.segments)}
    cables: list[Cable] = []
    for name, node in topology.nodes.items():
        for index, nic in enumerate(node.nics):
            mac = nic.mac or mac_of(name, index)
            cables.append(Cable(name, index, nic.segment, f"p{len(cables)}", bridges[nic.segment], mac))
    trunks = [Trunk(left, right, number) for number, (left, right) in enumerate(topology.trunks)]
    addresses = {name: str(segment.address) for name, segment in topology.segments.items() if segment.address}
    return Plan(bridges, cables, trunks, addresses)


def batch(wanted: Plan) -> str:
    """The lines for `ip -batch` that make switches and trunks; cables come with their nodes (`plugs`)."""
    lines = []
    for name, bridge in wanted.bridges.items():
        lines += [
            f"link add {bridge} type bridge forward_delay 0 stp_state 0 mcast_snooping 0 group_fwd_mask {FORWARD_LLDP}",
            f"link set {bridge} alias {name} up",
        ]
        if name in wanted.addresses:
            lines.append(f"address add {wanted.addresses[name]} dev {bridge}")
    for trunk in wanted.trunks:
        left, right = f"t{trunk.number}a", f"t{trunk.number}b"
        lines += [
            f"link add {left} type veth peer name {right}",
            f"link set {left} alias {trunk.name} master {wanted.bridges[trunk.left]} up",
            f"link set {right} alias {trunk.name} master {wanted.bridges[trunk.right]} up",
        ]
    return "".join(f"{line}\n" for line in lines)


def plugs(cables: list[Cable], *, qemu: bool, cut: set[str]) -> str:
    """The lines for `ip -batch` that give a node its network cards; those of QEMU are taps."""
    lines = [] if qemu else [f"netns add {cable.node}" for cable in cables[:1]]
    for cable in cables:
        if qemu:
            lines.append(f"tuntap add dev {cable.port} mode tap")
        else:
            end = f"name host{cable.index} netns {cable.node} address {cable.mac}"
            lines.append(f"link add {cable.port} type veth peer {end}")
        up = "down" if cable.port in cut else "up"
        lines.append(f"link set {cable.port} alias {cable.name} master {cable.bridge} {up}")
    return "".join(f"{line}\n" for line in lines)


def ruleset(ports: dict[str, Faults], partitions: list[tuple[set[str], set[str]]], *, shaped: bool) -> str:
    """The nftables table of these faults, as one transaction; `shaped` when the rate is a queue's business."""
    rules = []
    for port, faults in sorted(ports.items()):
        if faults.lost:
            share = round(faults.lost * 100)
            chance = f"numgen random mod 10000 < {share} " if share < 10000 else ""
            rules += [f'{way} "{port}" {chance}drop' for way in ("iifname", "oifname")]
        if faults.rate and not shaped:
            kilobytes = max(1, faults.rate // 8000)
            limit = f"limit rate over {kilobytes} kbytes/second burst {max(8, kilobytes // 8)} kbytes drop"
            rules.append(f'iifname "{port}" {limit}')
    for one, two in partitions:
        left, right = ", ".join(f'"{port}"' for port in sorted(one)), ", ".join(f'"{port}"' for port in sorted(two))
        rules += [
            f"iifname {{ {left} }} oifname {{ {right} }} drop",
            f"iifname {{ {right} }} oifname {{ {left} }} drop",
        ]
    body = "".join(f"    {rule}\n" for rule in rules)
    chains = "".join(
        f"  chain {hook} {{\n    type filter hook {hook} priority 0; policy accept;\n{body}  }}\n"
        for hook in ("input", "forward", "output")
    )
    return f"table bridge {TABLE}\ndelete table bridge {TABLE}\ntable bridge {TABLE} {{\n{chains}}}\n"


class Network:
    """The network of a lab that runs."""

    def __init__(self, sandbox: Sandbox, topology: Topology, *, qemu: set[str], netem: bool) -> None:
        """Make it. Raises ProcessFailed."""
        self.sandbox = sandbox
        self.plan = plan(topology)
        self.netem = netem
        self._faults: dict[str, Faults] = {}
        self._cut: set[str] = set()
        self._partitions: list[tuple[set[str], set[str]]] = []
        self._qemu = set(qemu)
        self._plugged: set[str] = set()
        sandbox.run(["ip", "-batch", "-"], stdin=batch(self.plan))

    def add(self, topology: Topology, node: str, *, qemu: bool) -> None:
        """Know a node that `topology` has at its end, and the lab did not have yet."""
        self.plan = plan(topology)
        if qemu:
            self._qemu.add(node)

    def plug(self, node: str) -> None:
        """Give a node that is powered on its cards, new as a kernel finds them: no address, no route, no rule."""
        self.unplug(node)
        lines = plugs(self.cables(node), qemu=node in self._qemu, cut=self._cut)
        self.sandbox.run(["ip", "-batch", "-"], stdin=lines)
        self._plugged.add(node)
        for cable in self.cables(node):
            if faults := self._faults.get(cable.port):
                self._shape(cable.port, faults)

    def unplug(self, node: str) -> None:
        """Take them away with the power: the switch sees the carrier go, and nothing answers for a dead machine."""
        if node in self._plugged:
            self._plugged.discard(node)
            lines = "".join(f"link delete {cable.port}\n" for cable in self.cables(node))
            if node not in self._qemu:
                lines += f"netns delete {node}\n"
            self.sandbox.run(["ip", "-force", "-batch", "-"], stdin=lines, check=False)

    def cables(self, node: str) -> list[Cable]:
        """A node's cards, in order."""
        return [cable for cable in self.plan.cables if cable.node == node]

    def edges(self) -> dict[str, str]:
        """Every edge by its name, with the port that all its frames pass."""
        found = {cable.name: cable.port for cable in self.plan.cables}
        return found | {trunk.name: trunk.port for trunk in self.plan.trunks}

    def ports(self, edge: str) -> list[str]:
        """The ports of an edge: `gw:0`, `room-1=room-2`, or a node for all its cards. Raises MissingError."""
        edges = self.edges()
        if edge in edges:
            return [edges[edge]]
        if found := [cable.port for cable in self.cables(edge)]:
            return found
        left, _, right = edge.partition("=")
        if f"{right}={left}" in edges:
            return [edges[f"{right}={left}"]]
        hint = nearest(edge, list(edges)) or f"there are: {', '.join(edges)}"
        raise MissingError("lan.edge", f"no cable {edge!r}", hint=hint)

    def cut(self, edge: str) -> None:
        """Pull the cable: both ends lose their carrier."""
        for port in self.ports(edge):
            self._link(port, "down")
            self._cut.add(port)

    def partition(self, one: set[str], two: set[str]) -> None:
        """Frames between the two groups of nodes vanish; nobody loses a carrier."""
        sides = [{port for name in group for port in self.ports(name)} for group in (one, two)]
        if not sides[0] or not sides[1] or sides[0] & sides[1]:
            raise UsageError("lan.partition", "a partition needs two groups of nodes that share none")
        self._partitions.append((sides[0], sides[1]))
        self._apply()

    def lose(self, edge: str, percent: float) -> None:
        """Drop that share of the frames, each way."""
        if not 0 <= percent <= 100:
            raise UsageError("lan.percent", f"{percent} is no share of 100")
        for port in self.ports(edge):
            self._of(port).lost = percent
        self._apply()

    def slow(self, edge: str, *, rate: int = 0, delay: float = 0.0) -> None:
        """Limit an edge to `rate` bit/s each way, and delay its frames by `delay` seconds.

        Raises UsageError("lan.slow") when neither is asked for, HostError("lan.netem") for a delay without netem.
        """
        if rate < 0 or delay < 0 or not (rate or delay):
            raise UsageError("lan.slow", "how slow?", hint="a rate, a delay, or both: --rate 10M, --delay 0.1")
        if delay and not self.netem:
            raise HostError(
                "lan.netem", "this kernel cannot delay frames: it has no netem", hint="a rate or a loss works without"
            )
        for port in self.ports(edge):
            faults = self._of(port)
            faults.rate, faults.delay = rate, delay
            self._shape(port, faults)
        self._apply()

    def heal(self, edge: str | None = None) -> None:
        """Undo what is wrong with an edge; with everything, partitions too, without one."""
        ports = list({*self._cut, *self._faults}) if edge is None else self.ports(edge)
        for port in ports:
            if port in self._cut:
                self._link(port, "up")
                self._cut.discard(port)
            faults = self._faults.pop(port, None)
            if faults and (faults.rate or faults.delay):
                self.sandbox.run(["tc", "qdisc", "del", "dev", port, "root"], check=False)
        if edge is None:
            self._partitions.clear()
        self._apply()

    def wrong(self) -> dict[str, str]:
        """What is wrong now, by edge, in words."""
        names = {port: edge for edge, port in self.edges().items()}
        found = {names[port]: "cut" for port in self._cut}
        for port, faults in self._faults.items():
            words = [f"loses {faults.lost:g} %"] if faults.lost else []
            words += [f"{faults.rate / 1e6:g} Mbit/s"] if faults.rate else []
            words += [f"+{faults.delay * 1000:g} ms"] if faults.delay else []
            if words:
                found[names[port]] = ", ".join(words)
        for number, (one, two) in enumerate(self._partitions):
            sides = ["+".join(sorted(names[port] for port in side)) for side in (one, two)]
            found[f"partition {number + 1}"] = " | ".join(sides)
        return found

    def _link(self, port: str, state: str) -> None:
        """Raise or lower a port; one of a node that is off is not there, and gets its state when it is plugged in."""
        off = {cable.port for cable in self.plan.cables if cable.node not in self._plugged}
        if port not in off:
            self.sandbox.run(["ip", "link", "set", port, state])

    def _of(self, port: str) -> Faults:
        return self._faults.setdefault(port, Faults())

    def _shape(self, port: str, faults: Faults) -> None:
        """A queue on what goes to the node; what comes from it is limited by nftables, or by netem on the other end."""
        base = ["tc", "qdisc", "replace", "dev", port, "root"]
        if self.netem:
            words = ["netem"]
            words += ["delay", f"{faults.delay * 1e6:.0f}us"] if faults.delay else []
            words += ["rate", f"{faults.rate}bit"] if faults.rate else []
            self.sandbox.run([*base, *words])
        elif faults.rate:
            burst = max(1600, faults.rate // 8 // 100)
            self.sandbox.run([*base, "tbf", "rate", f"{faults.rate}bit", "burst", f"{burst}b", "latency", "200ms"])

    def _apply(self) -> None:
        text = ruleset(self._faults, self._partitions, shaped=False)
        self.sandbox.run(["nft", "-f", "-"], stdin=text)

    def inject(self, where: str, frame: bytes) -> None:
        """Put a raw Ethernet frame on a segment, for everyone, or into one node's cable (`gw:0`), for it alone.

        Raises MissingError("lan.edge"), UsageError("lan.frame").
        """
        if len(frame) < 14:
            raise UsageError(
                "lan.frame", f"{len(frame)} bytes are no Ethernet frame", hint="14 bytes of header at least"
            )
        port = self.plan.bridges.get(where) or self.ports(where)[0]

        def send() -> None:
            with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sender:
                sender.bind((port, 0))
                sender.send(frame)

        self.sandbox.in_network(send)

    @contextlib.contextmanager
    def listen(self, where: str, *, seconds: float = 5.0) -> Iterator[socket.socket]:
        """A raw socket that hears everything on a segment or a cable; `recv` waits at most `seconds`."""
        port = self.plan.bridges.get(where) or self.ports(where)[0]

        def opened() -> socket.socket:
            ear = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL))
            ear.bind((port, _ETH_P_ALL))
            ear.settimeout(seconds)
            return ear

        with self.sandbox.in_network(opened) as ear:
            yield ear

    @contextlib.contextmanager
    def capture(self, where: str, target: Path) -> Iterator[Path]:
        """Write what passes on a segment or a cable into `target` (pcap), for a block; whole when the block ends."""
        port = self.plan.bridges.get(where) or self.ports(where)[0]
        argv = ["tcpdump", "--interface", port, "--immediate-mode", "-U", "-w", "-", "-Z", "root"]
        with target.open("wb") as file:
            process = self.sandbox.spawn(argv, stdout=file, stderr=-1)
            try:
                assert process.stderr is not None
                said = b""
                while b"listening on" not in said:  # only then it hears
                    line = process.stderr.readline()
                    if not line:
                        raise HostError("lan.capture", f"tcpdump: {said.decode().strip()}")
                    said += line
                yield target
            finally:
                self.sandbox.run(["pkill", "-INT", "-f", f"tcpdump --interface {port} "], check=False)
                try:
                    process.communicate(timeout=5)
                except Exception:
                    process.send_signal(signal.SIGKILL)
                    process.communicate()

    def links(self) -> list[dict[str, object]]:
        """The lab's interfaces, as `ip --json link` tells them."""
        found: list[dict[str, object]] = json.loads(self.sandbox.run(["ip", "--json", "link", "show"]).stdout)
        return found
