"""The DNS service's settings from a hall, as that service reads them."""

from __future__ import annotations

from pathlib import Path

from services.common.settings import read
from services.dns.schema import Settings
from services.dns.zones import HALL, Layout, render
from services.hall import for_dns
from services.hall.render import DNS, Identity
from services.hall.render import render as render_hall
from services.hall.schema import Hall
from tests.hall.halls import hall, proposal

WAY_OUT = proposal()[proposal().index("[upstream]") : proposal().index("# Who may log in")]
ISLAND = ((WAY_OUT, ""), ("upstream = true", "aliases = []"))


def settings(folder: Path, *changes: tuple[str, str]) -> Settings:
    """What the service reads."""
    file = folder / "dns.toml"
    file.write_text(for_dns.settings(hall(*changes)))
    return read(Settings, section="dns", file=file, environ={})


def forward(made: Settings) -> dict[str, str]:
    zone = next(each for each in render(Layout.of(made), []).zones if each.key == (HALL, made.domain))
    return {record.owner: record.value for record in zone.records}


def test_the_proposal_gives_the_names_of_the_first_system(tmp_path: Path) -> None:
    found = forward(settings(tmp_path))
    assert {found[name] for name in ("gw", "mdb", "ns", "netboot", "ntp")} == {"192.168.1.254"}
    assert (found["rfs0"], found["rfs1"], found["rhfs01-1"]) == ("192.168.1.10", "192.168.1.11", "192.168.1.11")
    assert found["map"] == "192.168.1.254"


def test_nothing_of_a_hall_is_left_out(tmp_path: Path) -> None:
    assert render(Layout.of(settings(tmp_path)), []).left_out == ()


def test_gw_is_netboot_and_ns_even_when_its_aliases_do_not_say_so(tmp_path: Path) -> None:
    found = forward(settings(tmp_path, ('"ns", ', ""), ('"netboot", ', "")))
    assert (found["ns"], found["netboot"]) == ("192.168.1.254", "192.168.1.254")


def test_aliens_are_told_gws_address_in_their_network(tmp_path: Path) -> None:
    made = settings(tmp_path)
    assert (made.aliens.network, made.aliens.address) == ("192.168.250.0/24", "192.168.250.254")
    assert made.pointers == ["192.168.250.254 gw.alien"]
    assert made.addresses == ["192.168.1.254", "192.168.250.254"]


def test_names_of_the_world_are_looked_up_where_there_is_a_way_out(tmp_path: Path) -> None:
    made = settings(tmp_path)
    assert (made.recursion, made.forwarders, made.dhcp_forwarders) == (True, [], True)
    made = settings(tmp_path, ("dns = []", 'dns = ["198.51.100.53"]'))
    assert (made.recursion, made.forwarders, made.dhcp_forwarders) == (True, ["198.51.100.53"], False)


def test_an_island_looks_nothing_up(tmp_path: Path) -> None:
    made = settings(tmp_path, *ISLAND)
    assert (made.recursion, made.forwarders, made.dhcp_forwarders) == (False, [], False)


def test_only_gw_gets_them() -> None:
    made: Hall = hall()
    assert DNS in render_hall(made, Identity("gw", "gw"))
    assert DNS not in render_hall(made, Identity("rhfs", "rhfs01"))
