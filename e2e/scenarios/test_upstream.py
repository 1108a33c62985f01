"""Names of the world: gw asks the servers that its way out names over DHCP, and answers the hall with what they say.

The provider is a machine of its own on the upstream segment: networkd's DHCP server, and a BIND that knows example.org.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import msgspec
import pytest

from e2e import halls, stand_ins, topology
from e2e.lab import Lab
from e2e.pool import Labs
from services.dns.client import Dns

pytestmark = [pytest.mark.needs("root"), pytest.mark.images]
GW, ALIEN_GW, PROVIDER, WWW = "192.168.1.254", "192.168.250.254", "198.51.100.3", "203.0.113.7"
NETWORK = f"""[Match]
Name=host0

[Network]
Address={PROVIDER}/24
LinkLocalAddressing=no
DHCPServer=yes

[DHCPServer]
PoolOffset=100
PoolSize=10
DNS={PROVIDER}
"""
NAMED = f"""options {{
    directory "/run/provider";
    listen-on {{ {PROVIDER}; }};
    listen-on-v6 {{ none; }};
    pid-file none;
    session-keyfile none;
    recursion no;
}};
controls {{ }};
zone "example.org" {{ type primary; file "/run/provider/example.org.zone"; }};
"""
ZONE = f"""$TTL 60
@ SOA ns hostmaster 1 3600 600 86400 60
@ NS ns
ns A {PROVIDER}
www A {WWW}
"""
UNIT = """[Unit]
Description=The provider's name server
After=network.target

[Service]
ExecStart=/usr/sbin/named -f -4 -c /run/provider/named.conf
Restart=on-failure
RestartSec=1
"""


@pytest.fixture(scope="module")
def lab(labs: Labs) -> Iterator[Lab]:
    """A hall whose way out is told by DHCP."""
    labs.close()
    hall = topology.built_in("hall")
    files = stand_ins.file_line("/run/provider/named.conf", NAMED)
    files += stand_ins.file_line("/run/provider/example.org.zone", ZONE)
    provider = topology.Node(
        role="gw",
        hall=False,
        nics=[topology.Nic(segment="upstream")],
        credentials={
            "network.network.10-provider": NETWORK,
            "tmpfiles.extra": files,
            "systemd.extra-unit.provider.service": UNIT,
            "systemd.unit-dropin.multi-user.target": stand_ins.wants("provider.service").decode(),
        },
    )
    nodes = {"provider": provider, "gw": hall.nodes["gw"], "web": hall.nodes["web"]}
    made = halls.make(roles={"gw": "gw", "web": "rhfs"}, upstream='[upstream]\nmethod = "dhcp"\n')
    with Lab(msgspec.structs.replace(hall, name="upstream", nodes=nodes), hall=made, settings=labs.settings) as lab:
        lab.start()
        yield lab


def until(what: Callable[[], bool], *, seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def dig(lab: Lab, *words: str) -> list[str]:
    """What named on gw answers."""
    return lab["gw"].succeeds("dig", "+short", "+tries=3", "+time=1", *words).splitlines()


def test_the_server_that_dhcp_names_is_the_forwarder(lab: Lab) -> None:
    with Dns(lab["gw"].service("dns")) as client:
        until(lambda: client.status().forwarders == [PROVIDER])


def test_machines_of_the_hall_find_names_of_the_world(lab: Lab) -> None:
    until(lambda: dig(lab, f"@{GW}", "www.example.org") == [WWW])
    assert lab["web"].succeeds("getent", "hosts", "www.example.org").split()[0] == WWW


def test_machines_without_a_registration_do_not(lab: Lab) -> None:
    assert dig(lab, "-b", ALIEN_GW, f"@{ALIEN_GW}", "www.example.org") == []


def test_names_of_the_hall_need_no_world(lab: Lab) -> None:
    lab.cut("gw:1")
    try:
        assert dig(lab, f"@{GW}", "web.prolo") == [lab["web"].addresses[0]]
        assert lab["web"].succeeds("getent", "hosts", "gw").split()[0] == GW
    finally:
        lab.heal()
