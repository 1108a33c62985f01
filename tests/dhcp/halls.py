"""The hall that the tests of DHCP serve, and machines for it."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network

from services.dhcp.machines import Machine
from services.dhcp.schema import NetworkSettings, Settings

GW, GW_ALIENS = IPv4Address("192.168.1.254"), IPv4Address("192.168.250.254")
HALL = NetworkSettings(name="hall", cidr=IPv4Network("192.168.0.0/23"), server=GW, router=GW, card=0)
ALIENS = NetworkSettings(
    name="aliens",
    cidr=IPv4Network("192.168.250.0/24"),
    server=GW_ALIENS,
    router=GW_ALIENS,
    card=0,
    aliens="192.168.250.1-192.168.250.200",
)
SETTINGS = Settings(domain="prolo", search=["prolo"], networks=[HALL, ALIENS])
CARDS = {0: "eth0"}


def mac(number: int) -> str:
    return f"52:54:00:{number >> 16 & 255:02x}:{number >> 8 & 255:02x}:{number & 255:02x}"


def machine(number: int, *, name: str = "", ip: str = "", card: int | None = None) -> Machine:
    """Machine `number`, at 192.168.0.<number> and the like unless told."""
    address = IPv4Address(ip) if ip else IPv4Address("192.168.0.0") + number
    return Machine(number, name or f"pc-{number}", mac(number if card is None else card), address)
