"""From the hall's networks and its machines to the zones of both views. Pure: no files, no clock, no network.

Three kinds of zones, each for a view of named: the hall's domain with an A record for every host name and alias, the
reverse zones by address (RFC 1035, section 3.5), and those that every server has (RFC 1912, section 4.1). Machines that
the hall does not know have a view of their own, where there are only `netboot` and `ns`.

Names and addresses are believed nobody's: what could not be in a zone, or is somebody else's already, is left out and
told with its reason, and the rest of the zone is as it should be. hall.toml comes first, then machines by number.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network
from typing import Any

import dns.exception
import dns.name
import dns.rdataclass
import dns.rdatatype
import dns.reversename
import msgspec
from dns.name import Name
from dns.rdtypes.ANY.NS import NS
from dns.rdtypes.ANY.PTR import PTR
from dns.rdtypes.ANY.SOA import SOA
from dns.rdtypes.IN.A import A
from dns.rdtypes.IN.AAAA import AAAA

from services.common.addresses import Range, unusable
from services.common.errors import InputError
from services.common.names import domain_problem, host_problem
from services.dns.schema import LeftOut, Settings

TTL = 10
REFRESH, RETRY, EXPIRE, NEGATIVE = 1200, 60, 360_000, 10
HALL, ALIEN = "hall", "alien"
FROM_HALL = "hall.toml"
ALIEN_NAMES = ("netboot", "ns")
_IN = dns.rdataclass.IN
_ALL_OF = 16  # a network as wide as this, or wider, has one zone for each 65,536 of its addresses, not for each 256
_REMEMBERED = 65_536
SHOWN = 200  # letters of a hostile name that are repeated


class Machine(msgspec.Struct, frozen=True):
    """What of a machine concerns DNS; `key` is its number in mdb."""

    key: str
    hostname: str
    aliases: tuple[str, ...]
    ip: str


@dataclass(frozen=True)
class Record:
    """One record: owner relative to its zone (`@` for the zone itself), type, value, and the machine that it is of."""

    owner: str
    type: str
    value: str
    machine: str = ""

    @property
    def line(self) -> str:
        return f"{self.owner} {self.type} {self.value}\n"


@dataclass(frozen=True)
class Zone:
    """A zone of a view: `name` without the dot at its end, and its records in a fixed order."""

    name: str
    view: str
    server: str
    records: tuple[Record, ...]

    @property
    def key(self) -> tuple[str, str]:
        """View and name."""
        return self.view, self.name

    def text(self, serial: int) -> str:
        """The zone file (RFC 1035, section 5)."""
        server = dns.name.from_text(self.server)
        mailbox = Name((b"hostmaster", *server.labels))
        soa = SOA(_IN, dns.rdatatype.SOA, server, mailbox, serial, REFRESH, RETRY, EXPIRE, NEGATIVE)
        head = f"$ORIGIN {dns.name.from_text(self.name)}\n$TTL {TTL}\n@ SOA {soa}\n"
        head += f"@ NS {NS(_IN, dns.rdatatype.NS, server)}\n"
        return head + "".join(record.line for record in self.records)

    def without(self, records: Iterable[Record]) -> Zone:
        """The same zone without some records."""
        gone = set(records)
        return Zone(self.name, self.view, self.server, tuple(each for each in self.records if each not in gone))


@dataclass(frozen=True)
class Rendered:
    """All zones, and what is in none of them."""

    zones: tuple[Zone, ...]
    left_out: tuple[LeftOut, ...]


@dataclass(frozen=True)
class Aliens:
    """The network of machines that the hall does not know."""

    network: IPv4Network
    address: IPv4Address
    span: Range | None


@dataclass(frozen=True)
class Layout:
    """Settings, read: what hall.toml says of names and addresses."""

    domain: Name
    networks: tuple[IPv4Network, ...]
    addresses: tuple[IPv4Address, ...]
    hosts: tuple[Machine, ...]
    pointers: tuple[tuple[IPv4Address, Name], ...]
    aliens: Aliens | None
    reverse: tuple[tuple[IPv4Network, Name], ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "reverse", tuple(_reverse_zones(self.networks)))

    @property
    def zone(self) -> str:
        """The domain as text."""
        return self.domain.to_text(omit_final_dot=True)

    @classmethod
    def of(cls, settings: Settings) -> Layout:
        """Raises InputError("dns.settings")."""
        try:
            return cls._of(settings)
        except (ValueError, dns.exception.DNSException) as error:
            raise InputError("dns.settings", f"{error}", hint="`backline hall apply` renders dns.toml") from error

    @classmethod
    def _of(cls, settings: Settings) -> Layout:
        if problem := domain_problem(settings.domain):
            raise ValueError(problem)
        domain = dns.name.from_text(settings.domain)
        dns.name.from_text("hostmaster.ns", domain)  # raises when the domain leaves no room for a name in it
        aliens = None
        if settings.aliens.network:
            aliens = Aliens(
                IPv4Network(settings.aliens.network),
                IPv4Address(settings.aliens.address),
                Range.parse(settings.aliens.range) if settings.aliens.range else None,
            )
        hosts = []
        for line in settings.hosts:
            address, name, *aliases = line.split()
            hosts.append(Machine(FROM_HALL, name, tuple(aliases), str(IPv4Address(address))))
        pointers = []
        for line in settings.pointers:
            address, name = line.split()
            pointers.append((IPv4Address(address), dns.name.from_text(name, domain)))
        return cls(
            domain=domain,
            networks=tuple(sorted({IPv4Network(each) for each in settings.networks})),
            addresses=tuple(IPv4Address(each) for each in settings.addresses),
            hosts=tuple(hosts),
            pointers=tuple(pointers),
            aliens=aliens,
        )

    def holds(self, address: IPv4Address) -> IPv4Network | None:
        """The network of the hall that an address is in."""
        return next((network for network in self.networks if address in network), None)


def machine_of(key: str, record: Mapping[str, Any]) -> Machine | LeftOut:
    """A machine as mdb's feed tells it; what is no machine is left out."""
    try:
        return msgspec.convert({**record, "key": key}, Machine)
    except msgspec.ValidationError as error:
        return LeftOut(machine=key, name=_shown(record.get("hostname")), reason=f"mdb told no machine: {error}")


def render(layout: Layout, machines: Iterable[Machine]) -> Rendered:
    """The zones of both views."""
    names = _Names(layout)
    for host in layout.hosts:
        names.add(host)
    for machine in sorted(machines, key=lambda each: (len(each.key), each.key)):
        names.add(machine)
    for address, name in layout.pointers:
        names.pointers.setdefault(address, (name, FROM_HALL))
    server = Name((b"ns", *layout.domain.labels)).to_text(omit_final_dot=True)
    zones = [Zone(layout.zone, HALL, server, tuple(names.forward()))]
    alien = dict(_alien_pointers(layout))
    for view, pointers in ((HALL, {**alien, **names.pointers}), (ALIEN, alien)):
        if view == ALIEN and layout.aliens is not None:
            zones.append(Zone(layout.zone, ALIEN, server, tuple(_alien_names(layout.aliens))))
        for network, origin in layout.reverse:
            if view == HALL or (layout.aliens is not None and network.overlaps(layout.aliens.network)):
                inside = sorted(address for address in pointers if address in network)
                records = tuple(_pointer(address, origin, *pointers[address]) for address in inside)
                zones.append(Zone(origin.to_text(omit_final_dot=True), view, server, records))
    taken = {zone.key for zone in zones}
    zones += (zone for zone in _usual(server) if zone.key not in taken)
    return Rendered(tuple(zones), tuple(names.left_out))


class _Names:
    """Who has which name and address, and what could not be given."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.names: dict[str, tuple[str, str, str]] = {}  # label → owner in the zone, address, machine
        self.pointers: dict[IPv4Address, tuple[Name, str]] = {}
        self.owners: dict[str, str] = {}  # label → host name of the machine
        self.left_out: list[LeftOut] = []

    def add(self, machine: Machine) -> None:
        try:
            address = self._address(machine.ip)
        except ValueError as error:
            self._refuse(machine, machine.hostname, str(error))
            return
        for label in (machine.hostname, *machine.aliases):
            try:
                self._give(label, address, machine)
            except ValueError as error:
                self._refuse(machine, label, str(error))
        if self.owners.get(machine.hostname) != machine.hostname or self.names[machine.hostname][1] != str(address):
            return
        name = Name((machine.hostname.encode(), *self.layout.domain.labels))
        before = self.pointers.setdefault(address, (name, machine.key))
        if before[0] != name:
            self._refuse(machine, str(address), f"the address is {before[0].labels[0].decode()}'s")

    def _give(self, label: str, address: IPv4Address, machine: Machine) -> None:
        """Raises ValueError with the reason for which a name is not in DNS."""
        if problem := _label_problem(label):
            raise ValueError(problem)
        try:
            owner = _owner(label, self.layout.domain)
        except dns.exception.DNSException as error:
            raise ValueError(f"{label} is too long for a name in {self.layout.zone}: {error}") from error
        value = _address_text(address)
        before = self.names.setdefault(label, (owner, value, machine.key))
        self.owners.setdefault(label, machine.hostname)
        if before[1] != value:
            raise ValueError(f"the name is {self.owners[label]}'s ({before[1]})")

    def _address(self, text: str) -> IPv4Address:
        try:
            address = IPv4Address(text)
        except ValueError as error:
            raise ValueError(f"{_shown(text)} is no IPv4 address") from error
        network = self.layout.holds(address)
        if network is None:
            raise ValueError(f"{address} is in no network of the hall")
        if problem := unusable(address, network):
            raise ValueError(problem)
        return address

    def _refuse(self, machine: Machine, name: str, reason: str) -> None:
        self.left_out.append(LeftOut(machine=machine.key, name=_shown(name), reason=reason))

    def forward(self) -> Iterator[Record]:
        for _, (owner, value, machine) in sorted(self.names.items()):
            yield Record(owner, "A", value, machine)


def _label_problem(label: str) -> str | None:
    if len(label) > SHOWN:
        return f"{_shown(label)} has {len(label)} letters; a label has 63 at most"
    return host_problem(label)


def _shown(name: object) -> str:
    text = name if isinstance(name, str) else repr(name)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


def _alien_names(aliens: Aliens) -> Iterator[Record]:
    for label in ALIEN_NAMES:
        yield Record(label, "A", _address_text(aliens.address), FROM_HALL)


def _alien_pointers(layout: Layout) -> Iterator[tuple[IPv4Address, tuple[Name, str]]]:
    """What addresses of unknown machines are called: by their place in the network, 1 for its first address."""
    if layout.aliens is None:
        return
    network, span = layout.aliens.network, layout.aliens.span
    for address in span or ():
        number = int(address) - int(network.network_address)
        yield address, (dns.name.from_text(f"unknown-{number}.alien", layout.domain), FROM_HALL)
    for address, name in layout.pointers:
        if address in network:
            yield address, (name, FROM_HALL)


# A turn renders everything anew, and nearly all of it is as it was in the turn before: that is remembered here.


@functools.lru_cache(maxsize=_REMEMBERED)
def _owner(label: str, domain: Name) -> str:
    """A label as a zone file has it. Raises DNSException when it is too long below the domain (RFC 1035, 2.3.4)."""
    Name((label.encode(), *domain.labels))
    return Name((label.encode(),)).to_text()


@functools.lru_cache(maxsize=_REMEMBERED)
def _address_text(address: IPv4Address) -> str:
    return A(_IN, dns.rdatatype.A, str(address)).to_text()


@functools.lru_cache(maxsize=_REMEMBERED)
def _pointer(address: IPv4Address, origin: Name, target: Name, machine: str) -> Record:
    owner = dns.reversename.from_address(str(address)).relativize(origin)
    return Record(owner.to_text(), "PTR", PTR(_IN, dns.rdatatype.PTR, target).to_text(), machine)


def _reverse_zones(networks: Iterable[IPv4Network]) -> Iterator[tuple[IPv4Network, Name]]:
    """Whole octets (RFC 1035, section 3.5) that cover the networks, each once, and the names of their zones."""
    found: set[IPv4Network] = set()
    for network in networks:
        octets = 24 if network.prefixlen > _ALL_OF else 16 if network.prefixlen > 8 else 8
        if network.prefixlen >= octets:
            found.add(network.supernet(new_prefix=octets))
        else:
            found.update(network.subnets(new_prefix=octets))
    for block in sorted(found):
        if not any(other != block and block.subnet_of(other) for other in found):
            labels = str(block.network_address).split(".")[: block.prefixlen // 8]
            yield block, dns.name.from_text(f"{'.'.join(reversed(labels))}.in-addr.arpa")


def _usual(server: str) -> Iterator[Zone]:
    """The zones that every server has, so that questions of this kind never leave it."""
    itself = (
        Record("@", "A", A(_IN, dns.rdatatype.A, "127.0.0.1").to_text()),
        Record("@", "AAAA", AAAA(_IN, dns.rdatatype.AAAA, "::1").to_text()),
    )
    yield Zone("localhost", HALL, server, itself)
    yield Zone("127.in-addr.arpa", HALL, server, (Record("1.0.0", "PTR", "localhost."),))
    yield Zone("0.in-addr.arpa", HALL, server, ())
    yield Zone("255.in-addr.arpa", HALL, server, ())
