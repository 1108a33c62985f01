"""A small hall and its machines, for tests."""

from __future__ import annotations

from ipaddress import IPv4Address

from services.dns.schema import Aliens, Settings
from services.dns.zones import Machine

GW, ALIEN_GW = "192.168.1.254", "192.168.250.254"
SETTINGS = Settings(
    domain="prolo",
    networks=["192.168.0.0/23", "192.168.250.0/24"],
    addresses=[GW, ALIEN_GW],
    hosts=[f"{GW} gw mdb ns netboot", "192.168.1.10 rhfs01 rfs0"],
    pointers=[f"{ALIEN_GW} gw.alien"],
    aliens=Aliens(network="192.168.250.0/24", address=ALIEN_GW, range="192.168.250.1-192.168.250.200"),
)


def machine(key: int, hostname: str, ip: str, *aliases: str) -> Machine:
    """A machine as mdb tells it."""
    return Machine(str(key), hostname, aliases, ip)


def machines(count: int) -> list[Machine]:
    """Machines in 192.168.0.0/23 from its first address on, two names each; 250 at most."""
    first = int(IPv4Address("192.168.0.1"))
    return [
        machine(number, f"pas-r{number // 20:02}p{number % 20:02}", str(IPv4Address(first + number)), f"seat{number}")
        for number in range(count)
    ]
