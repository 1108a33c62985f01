"""named.conf from a hall, and whom named asks."""

from __future__ import annotations

from ipaddress import IPv4Address
from pathlib import Path

import msgspec
import pytest

from services.dns.named import forwarders_of, named_conf
from services.dns.schema import Aliens, Settings
from services.dns.work import forwarders
from services.dns.zones import Layout, render
from tests.dns.hall import ALIEN_GW, GW, SETTINGS

FORWARDER = IPv4Address("198.51.100.53")


def conf(settings: Settings = SETTINGS, *, recursion: bool = True, asked: tuple[IPv4Address, ...] = ()) -> str:
    layout = Layout.of(settings)
    zones = render(layout, []).zones
    return named_conf(layout, zones, Path("/var/lib/backline-dns"), recursion=recursion, forwarders=asked)


def view(text: str, name: str) -> str:
    return text.partition(f'view "{name}" {{')[2].partition("\n};")[0]


def test_it_listens_on_gws_own_addresses_and_nowhere_else() -> None:
    assert f"listen-on {{ 127.0.0.1; {GW}; {ALIEN_GW}; }};" in conf()
    assert "listen-on-v6 { none; };" in conf()


def test_recursion_is_for_the_hall_without_its_aliens() -> None:
    assert "acl hall { 127.0.0.0/8; 192.168.0.0/23; };" in conf()
    assert "allow-recursion { hall; };" in view(conf(), "hall")
    assert "recursion no;" in view(conf(), "alien")
    assert "match-clients { 192.168.250.0/24; };" in view(conf(), "alien")


def test_a_hall_without_a_way_out_looks_nothing_up() -> None:
    text = conf(recursion=False, asked=(FORWARDER,))
    assert text.count("recursion no;") == 2
    assert "hint" not in text
    assert "forward" not in text


def test_forwarders_are_asked_first_and_the_root_when_they_fail() -> None:
    assert f"forward first;\n    forwarders {{ {FORWARDER}; }};" in conf(asked=(FORWARDER,))
    assert "root.hints" in conf(asked=(FORWARDER,))
    assert "forward" not in conf()


def test_nothing_is_transferred_told_or_updated() -> None:
    for line in ("allow-transfer { none; };", "notify no;", "version none;", "hostname none;", "server-id none;"):
        assert line in conf()
    assert "allow-update" not in conf()  # BIND's own default is nobody


def test_every_view_limits_the_answers_to_one_address() -> None:
    for name in ("hall", "alien"):
        assert "ipv4-prefix-length 32;" in view(conf(), name)


def test_without_aliens_there_is_one_view() -> None:
    assert 'view "alien"' not in conf(msgspec.structs.replace(SETTINGS, aliens=Aliens()))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", []),
        ("nameserver 198.51.100.53\n", ["198.51.100.53"]),
        (f"nameserver {GW}\nnameserver 198.51.100.53\n", ["198.51.100.53"]),
        ("nameserver 127.0.0.53\nnameserver 2001:db8::1\nnameserver\nsearch prolo\n# nameserver 1.1.1.1\n", []),
        ("nameserver 198.51.100.1\n" * 2, ["198.51.100.1"]),
        ("".join(f"nameserver 198.51.100.{n}\n" for n in range(1, 9)), [f"198.51.100.{n}" for n in (1, 2, 3)]),
    ],
)
def test_forwarders_that_dhcp_names_are_those_that_are_not_gw_itself(text: str, found: list[str]) -> None:
    assert [str(each) for each in forwarders_of(text, [IPv4Address(GW)])] == found


def test_hall_tomls_forwarders_win_over_those_of_dhcp(tmp_path: Path) -> None:
    file = tmp_path / "resolv.conf"
    file.write_text("nameserver 198.51.100.7\n")
    dhcp = msgspec.structs.replace(SETTINGS, recursion=True, dhcp_forwarders=True, resolv_conf=str(file))
    named = msgspec.structs.replace(dhcp, forwarders=[str(FORWARDER)])
    assert forwarders(named, ()) == (FORWARDER,)
    assert forwarders(dhcp, ()) == (IPv4Address("198.51.100.7"),)
    assert forwarders(msgspec.structs.replace(dhcp, recursion=False), ()) == ()
    file.unlink()
    assert forwarders(dhcp, (), known=(FORWARDER,)) == (FORWARDER,)
