"""What a lab consists of, as data: segments, trunks between them, nodes with network cards. From TOML, or made here.

A segment is a switch: what hangs on it hears each other. Trunks join switches into one broadcast domain. A node runs a
role's image; a server is one of hall.toml's hosts by its name, a seat is named too and gets its address over DHCP.
Names may be of any length: interfaces in the lab are numbered, never named after nodes.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from importlib import resources
from ipaddress import IPv4Interface
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from services.common import toml
from services.common.errors import InputError, MissingError, nearest

Name = Annotated[str, Meta(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]
"""A DNS label (RFC 1123), in lower case."""
BUILT_IN = ("alone", "hall", "netboot", "pxe", "single")
SEAT_NAME = "pas-r{room:02}p{place:02}"
SEATS_PER_ROOM = 12


class Table(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A table of a topology: unknown keys are mistakes."""


class Segment(Table, frozen=True, kw_only=True):
    """A switch."""

    address: IPv4Interface | None = None
    """Address and prefix at which the lab itself answers there: what stands for the Internet has one."""


class Nic(Table, frozen=True, kw_only=True):
    """A network card of a node."""

    segment: Name
    """The switch that it is plugged into."""
    mac: str | None = None
    """Its address; made from the node's name when absent."""


class Node(Table, frozen=True, kw_only=True):
    """A machine of the lab."""

    role: Name
    """The image it runs."""
    nics: list[Nic] = []
    """Its network cards, in order: `host0`, `host1`..."""
    version: str = ""
    """An exact version of the role; the newest in the store when empty."""
    backend: Literal["nspawn", "qemu", "fake"] | None = None
    """What it runs in: a container, or a machine with a kernel of its own (a PXE client)."""
    hall: bool = True
    """Whether it gets hall.toml."""
    seat: bool = False
    """Whether it is a seat: it keeps nothing over a restart, and gets its address over DHCP."""
    stranger: bool = False
    """Whether mdb is not told of it: it gets an alien's address, and has to register itself."""
    off: bool = False
    """Whether it stays off when the lab is started."""
    memory: int = 1536
    """QEMU only: MiB."""
    firmware: Literal["bios", "uefi"] = "bios"
    """QEMU only."""
    screen: bool = False
    """QEMU only: whether it has a graphics card, whose picture a test can take; else it shows text alone."""
    clock_offset: int = 0
    """QEMU only: seconds that its clock is ahead when it is switched on."""
    credentials: dict[str, str] = {}
    """systemd credentials beside those that the lab gives it."""


class Topology(Table, frozen=True, kw_only=True):
    """All of it."""

    name: Name
    """Name of the topology; labs are called after it."""
    summary: str = ""
    """One line for people."""
    segments: dict[Name, Segment] = {}
    """Switches by name."""
    trunks: list[tuple[Name, Name]] = []
    """Pairs of switches that are one broadcast domain."""
    nodes: dict[Name, Node] = {}
    """Machines by name, in the order in which they are powered on."""

    def seats(self) -> dict[str, Node]:
        """The seats, by name."""
        return {name: node for name, node in self.nodes.items() if node.seat}

    def with_seats(self, count: int) -> Topology:
        """The same with `count` seats more, spread over its switches."""
        switches = [name for name, segment in self.segments.items() if segment.address is None]
        if count and not switches:
            raise InputError("lan.topology", f"{self.name} has no switch to put seats on")
        seats = {
            seat_name(number): Node(role="nfsroot", seat=True, nics=[Nic(segment=switches[number % len(switches)])])
            for number in range(count)
        }
        return msgspec.structs.replace(self, nodes={**self.nodes, **seats})


def seat_name(number: int) -> str:
    """The name of seat `number` (from 0), as halls name them: `pas-r01p01`."""
    return SEAT_NAME.format(room=number // SEATS_PER_ROOM + 1, place=number % SEATS_PER_ROOM + 1)


def mac_of(node: str, index: int) -> str:
    """A locally administered MAC address (IEEE 802, bit 1 of the first octet) that only depends on the node's name."""
    digest = hashlib.sha256(f"{node}/{index}".encode()).digest()
    return ":".join(f"{octet:02x}" for octet in (0x52, 0x54, *digest[:4]))


def check(topology: Topology, *, where: str = "topology") -> Topology:
    """`topology`, which must be consistent. Raises InputError("lan.topology") that names the first mistake."""

    def no(message: str) -> InputError:
        return InputError("lan.topology", message, where=where)

    for left, right in topology.trunks:
        for end in (left, right):
            if end not in topology.segments:
                raise no(f"a trunk ends at {end}, which is no segment")
        if left == right:
            raise no(f"a trunk joins {left} with itself")
    _no_loop(topology, where)
    macs: Counter[str] = Counter()
    for name, node in topology.nodes.items():
        if node.version and "/" in node.version:
            raise no(f"nodes.{name}.version: write the version without its role")
        for index, nic in enumerate(node.nics):
            if nic.segment not in topology.segments:
                raise no(f"nodes.{name}.nics[{index}]: there is no segment {nic.segment}")
            macs[nic.mac or mac_of(name, index)] += 1
    twice = [mac for mac, count in macs.items() if count > 1]
    if twice:
        raise no(f"two network cards have the address {twice[0]}")
    addresses = [segment.address.ip for segment in topology.segments.values() if segment.address]
    if len(addresses) != len(set(addresses)):
        raise no("two segments have the same address")
    return topology


def _no_loop(topology: Topology, where: str) -> None:
    """Switches of a lab have no spanning tree: a loop would carry a broadcast round for ever."""
    group = {name: name for name in topology.segments}

    def top(name: str) -> str:
        while group[name] != name:
            name = group[name]
        return name

    for left, right in topology.trunks:
        if top(left) == top(right):
            raise InputError("lan.topology", f"the trunk between {left} and {right} closes a loop", where=where)
        group[top(left)] = top(right)


def parse(text: str, *, where: Path) -> Topology:
    """A topology from TOML. Raises InputError: `topology.syntax`, `topology.invalid`, `lan.topology`."""
    document = toml.TomlDocument(text, path=where, area="topology")
    return check(toml.decode(document, Topology), where=str(where))


def built_in(name: str) -> Topology:
    """A topology that ships with Backline. Raises MissingError("lan.topology")."""
    if name not in BUILT_IN:
        hint = nearest(name, list(BUILT_IN)) or f"there are: {', '.join(BUILT_IN)}; or give the path of a TOML file"
        raise MissingError("lan.topology", f"no topology {name!r}", hint=hint)
    text = resources.files("e2e").joinpath(f"topologies/{name}.toml").read_text()
    return parse(text, where=Path(f"{name}.toml"))


def load(name: str) -> Topology:
    """A built-in topology by its name, or a file by its path."""
    if name.endswith(".toml") or "/" in name:
        try:
            text = Path(name).read_text()
        except OSError as error:
            raise InputError("lan.topology", f"cannot be read: {error.strerror}", where=name) from error
        return parse(text, where=Path(name))
    return built_in(name)


def hall(seats: int = 4) -> Topology:
    """The hall of the design: gw, rhfs01 with two cards, a web server's stand-in, and seats on two switches."""
    return built_in("hall").with_seats(seats)
