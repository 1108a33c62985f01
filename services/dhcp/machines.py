"""Which machines get an answer of their own, and which Kea would refuse: those are left out, and named. Pure.

Kea takes a configuration as a whole or not at all, so one wrong reservation would keep everybody's changes away.
What it refuses in a reservation (Kea's manual, "Host Reservations in DHCPv4", and seen with 2.6.3) is found here first.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address

import msgspec

from services.common.addresses import unusable
from services.common.codec import convert
from services.common.feed.wire import Record
from services.common.names import label_problem, normal_mac
from services.dhcp.schema import LeftOut, NetworkSettings, Settings


class Machine(msgspec.Struct, frozen=True):
    """What DHCP has to know of a machine; a record of mdb's feed has more. `id` is None for a server of hall.toml."""

    id: int | None
    hostname: str
    mac: str | None
    ip: IPv4Address


FIELDS = frozenset({"hostname", "mac", "ip"})
"""The fields of a record that matter here."""


@dataclass(frozen=True)
class Choice:
    """Machines by the network that reserves their address; those that are left out; how many have no MAC address."""

    reserved: Mapping[str, Sequence[Machine]]
    left_out: Sequence[LeftOut] = ()
    macless: int = 0

    @property
    def machines(self) -> list[Machine]:
        """Everyone with a reservation."""
        return [machine for machines in self.reserved.values() for machine in machines]


def read(key: str, record: Record) -> Machine | LeftOut:
    """A record of the feed, or why it is none."""
    try:
        return convert(record, Machine)
    except msgspec.ValidationError as error:
        name = record.get("hostname")
        id = int(key) if key.isdigit() else None
        return LeftOut(id, name if isinstance(name, str) else key, f"its record cannot be read: {error}")


def of_hall(settings: Settings) -> list[Machine]:
    """The servers that hall.toml itself knows by MAC address."""
    return [Machine(None, host.name, host.mac, host.address) for host in settings.hosts]


@dataclass
class _Taken:
    macs: dict[str, str] = field(default_factory=dict)
    addresses: dict[IPv4Address, str] = field(default_factory=dict)


def choose(settings: Settings, machines: Iterable[Machine | LeftOut]) -> Choice:
    """Decide about every machine. Of several that want one address or MAC, the one that mdb knows longest has it."""
    reserved: dict[str, list[Machine]] = {network.name: [] for network in settings.networks}
    left_out: list[LeftOut] = []
    own = {network.server for network in settings.networks}
    routers = {network.router for network in settings.networks if network.router is not None} - own
    taken, macless = _Taken(), 0
    for machine in sorted(_with_hall(settings, machines), key=_age):
        if isinstance(machine, LeftOut):
            left_out.append(machine)
            continue
        if machine.mac is None:
            macless += 1
            continue
        if machine.ip in own:  # gw itself: it answers, it does not ask
            continue
        found = _place(settings.networks, machine, routers)
        if isinstance(found, str):
            left_out.append(LeftOut(machine.id, machine.hostname, found))
            continue
        network, normal = found
        assert normal.mac is not None
        if (other := taken.macs.get(normal.mac)) is not None:
            left_out.append(LeftOut(normal.id, normal.hostname, f"{normal.mac} is already the MAC address of {other}"))
            continue
        if (other := taken.addresses.get(normal.ip)) is not None:
            left_out.append(LeftOut(normal.id, normal.hostname, f"{normal.ip} is already the address of {other}"))
            continue
        taken.macs[normal.mac] = taken.addresses[normal.ip] = normal.hostname
        reserved[network.name].append(normal)
    for each in reserved.values():
        each.sort(key=lambda machine: machine.ip)
    return Choice(reserved, left_out, macless)


def network_of(networks: Iterable[NetworkSettings], address: IPv4Address) -> NetworkSettings | None:
    """The network that an address is in."""
    return next((network for network in networks if address in network.cidr), None)


def _with_hall(settings: Settings, machines: Iterable[Machine | LeftOut]) -> list[Machine | LeftOut]:
    """The machines of mdb, and those servers of hall.toml whose address mdb has not told (yet)."""
    told = list(machines)
    addresses = {machine.ip for machine in told if isinstance(machine, Machine)}
    return [*told, *(server for server in of_hall(settings) if server.ip not in addresses)]


def _age(machine: Machine | LeftOut) -> tuple[bool, int]:
    return machine.id is not None, machine.id or 0


def _place(
    networks: Sequence[NetworkSettings], machine: Machine, routers: set[IPv4Address]
) -> tuple[NetworkSettings, Machine] | str:
    """The network that reserves the machine's address, and the machine with its MAC in normal form; or why not."""
    if problem := label_problem(machine.hostname):
        return problem
    try:
        mac = normal_mac(machine.mac or "")
    except ValueError as error:
        return str(error)
    network = network_of(networks, machine.ip)
    if network is None:
        return f"{machine.ip} is in no network of the hall"
    if network.aliens:
        return f"{machine.ip} is in network {network.name}, which is for machines that mdb does not know"
    if problem := unusable(machine.ip, network.cidr):
        return problem
    if machine.ip in routers:
        return f"{machine.ip} is the router of a network"
    return network, msgspec.structs.replace(machine, mac=mac)
