"""What a lab puts where a service of Backline will be: a DHCP server's static configuration, a time server's option.

Everything goes in as systemd credentials (systemd.system-credentials(7)): `tmpfiles.extra` writes files of `/run` and
`/etc`, `systemd.unit-dropin.*` changes units. Nothing of it is in an image.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from ipaddress import IPv4Address

from e2e.topology import Topology, mac_of
from services.hall.schema import Hall, Purpose

Credentials = dict[str, bytes]

# chronyd has no clock to set in a container, and its unit says so: without steering it serves the host's time.
CHRONY = b"""[Unit]
ConditionCapability=
[Service]
ExecStart=
ExecStart=!/usr/sbin/chronyd -x $DAEMON_OPTS
"""
# gw's own DHCP service makes another configuration, of the machines that mdb has: in a lab with this one it waits.
KEA = b"""[Service]
ExecStart=
ExecStart=/usr/sbin/kea-dhcp4 -c /etc/kea/kea-dhcp4.conf
"""
LEASE_SECONDS = 3600


def file_line(path: str, text: str, *, mode: str = "0644", owner: str = "root", group: str = "root") -> str:
    """A line of tmpfiles.d(5) that writes a file."""
    return f"f+~ {path} {mode} {owner} {group} - {base64.b64encode(text.encode()).decode()}\n"


def wants(*units: str) -> bytes:
    """A drop-in that makes a target want units."""
    return f"[Unit]\nWants={' '.join(units)}\n".encode()


def join(*parts: Mapping[str, bytes]) -> Credentials:
    """Credentials of several stand-ins on one node: those of one name are texts that follow each other.

    There is one `tmpfiles.extra` a machine, and one drop-in a unit; lines and sections of both may simply be repeated.
    """
    found: Credentials = {}
    for part in parts:
        for name, text in part.items():
            before = found.get(name, b"")
            found[name] = before + (b"\n" if before and not before.endswith(b"\n") else b"") + text
    return found


def seat_addresses(topology: Topology, hall: Hall) -> dict[str, IPv4Address]:
    """The address of every seat: the range of users, in the topology's order."""
    users = hall.range_for(Purpose.USERS)
    if users is None:
        return {}
    taken = hall.taken()
    free = (address for address in users if address not in taken)
    return dict(zip(topology.seats(), free, strict=False))


def kea(topology: Topology, hall: Hall) -> str:
    """A Kea DHCPv4 configuration with a reservation for every seat; strangers get the range of aliens, if there is one.

    It listens on one address of gw's first card: with a bare interface Kea listens once for each that the card has, and
    answers every question that often.
    """
    found = hall.network_for(Purpose.USERS)
    assert found is not None, "a hall with seats has a range of users"
    _, network = found
    gateway = hall.gateway_address({found[0]})
    reservations = [
        {"hw-address": mac_of(name, 0), "ip-address": str(address), "hostname": name}
        for name, address in seat_addresses(topology, hall).items()
    ]
    # What is left of the range goes to seats that join later.
    users = hall.range_for(Purpose.USERS)
    reserved = set(seat_addresses(topology, hall).values())
    spare = [address for address in users or () if address not in reserved]
    options = {
        "routers": str(network.gateway or gateway),
        "domain-name-servers": str(gateway),
        "domain-name": hall.site.domain,
        "domain-search": ", ".join(hall.site.search_domains),
        "ntp-servers": str(gateway),
    }
    subnet = {
        "id": 1,
        "subnet": str(network.cidr),
        "reservations": reservations,
        "reservations-in-subnet": True,
        "pools": [{"pool": f"{spare[0]} - {spare[-1]}"}] if spare else [],
        "option-data": [{"name": name, "data": data} for name, data in options.items()],
    }
    configuration = {
        "Dhcp4": {
            "interfaces-config": {"interfaces": [f"host0/{gateway}"], "service-sockets-max-retries": 100},
            "lease-database": {"type": "memfile", "persist": True, "name": "/var/lib/kea/kea-leases4.csv"},
            "valid-lifetime": LEASE_SECONDS,
            "authoritative": True,
            "subnet4": [subnet],
            "loggers": [{"name": "kea-dhcp4", "output-options": [{"output": "stdout"}], "severity": "INFO"}],
        }
    }
    return json.dumps(configuration, indent=1)


def time_server() -> Credentials:
    """What lets chronyd of a container serve time."""
    return {"systemd.unit-dropin.chrony.service": CHRONY}


def dhcp_server(configuration: str) -> Credentials:
    """What lets gw's Kea start with this configuration."""
    return {
        "tmpfiles.extra": file_line("/etc/kea/kea-dhcp4.conf", configuration, mode="0640", group="_kea").encode(),
        "systemd.unit-dropin.multi-user.target": wants("kea-dhcp4-server.service"),
        "systemd.unit-dropin.kea-dhcp4-server.service": KEA,
    }
