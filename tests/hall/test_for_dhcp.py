"""hall.toml as the DHCP service is told of it."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from services.common.settings import read
from services.dhcp.schema import HostSettings, NetworkSettings, Settings
from services.hall.for_dhcp import settings
from services.hall.render import DHCP, Identity, render
from services.hall.schema import Hall
from tests.hall.halls import hall


def told(found: Hall, folder: Path) -> Settings:
    """A hall as the service reads it."""
    file = folder / "dhcp.toml"
    file.write_text(settings(found))
    return read(Settings, section="dhcp", file=file, environ={})


def test_the_proposed_hall(tmp_path: Path) -> None:
    found = told(hall(), tmp_path)
    assert (found.domain, found.search, found.hosts) == ("prolo", ["prolo"], [])
    gw, aliens = IPv4Address("192.168.1.254"), IPv4Address("192.168.250.254")
    assert found.networks == [
        NetworkSettings(name="hall", cidr=IPv4Network("192.168.0.0/23"), server=gw, router=gw, card=0),
        NetworkSettings(
            name="aliens", cidr=IPv4Network("192.168.250.0/24"), server=aliens, router=aliens, card=0,
            aliens="192.168.250.1-192.168.250.200",
        ),
    ]  # fmt: skip


def test_aliens_are_told_of_gw_where_hall_toml_names_no_router_for_them(tmp_path: Path) -> None:
    found = told(hall(('gateway = "192.168.250.254"\n', "")), tmp_path)
    assert found.networks[1].router == IPv4Address("192.168.250.254")


def test_a_network_without_gw_is_reached_by_relays(tmp_path: Path) -> None:
    change = '[networks.far]\ncidr = "10.7.0.0/24"\ngateway = "10.7.0.1"\n\n[hosts.gw]\n'
    far = told(hall(("[hosts.gw]\n", change)), tmp_path).networks[2]
    assert (far.card, far.server, far.router) == (-1, IPv4Address("192.168.1.254"), IPv4Address("10.7.0.1"))


def test_servers_with_a_mac_are_told_under_the_name_of_their_card(tmp_path: Path) -> None:
    found = told(
        hall(
            (
                'addresses = { hall = "192.168.1.10" }',
                'mac = "52:54:00:00:00:10"\naddresses = { hall = "192.168.1.10" }',
            ),
            (
                'addresses = { hall = "192.168.1.11" }',
                'mac = "52:54:00:00:00:11"\naddresses = { hall = "192.168.1.11" }',
            ),
        ),
        tmp_path,
    )
    assert found.hosts == [
        HostSettings(name="rhfs01", mac="52:54:00:00:00:10", address=IPv4Address("192.168.1.10")),
        HostSettings(name="rhfs01-1", mac="52:54:00:00:00:11", address=IPv4Address("192.168.1.11")),
    ]


def test_gw_alone_has_the_file() -> None:
    assert DHCP in render(hall(), Identity("gw", "gw"))
    assert DHCP not in render(hall(), Identity("rhfs", "rhfs01"))
