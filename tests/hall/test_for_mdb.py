"""mdb's settings as hall.toml gives them: pools, reserved addresses, and the servers as machines."""

from __future__ import annotations

import tomllib
from typing import Any

from services.hall import for_mdb
from services.hall.render import MDB, Identity, render
from services.hall.schema import Hall
from tests.hall.halls import hall


def settings(found: Hall | None = None) -> dict[str, Any]:
    return tomllib.loads(for_mdb.settings(found or hall()))


def test_pools_are_the_ranges_by_purpose() -> None:
    pools = settings()["pools"]
    assert pools["user"] == {"range": "192.168.0.1-192.168.0.253", "network": "192.168.0.0/23"}
    assert pools["orga"]["range"] == "192.168.1.128-192.168.1.253"
    assert "cluster" not in pools


def test_a_server_is_a_machine_for_each_interface_with_an_address() -> None:
    seeds = {seed["hostname"]: seed for seed in settings()["seeds"]}
    assert list(seeds) == ["gw", "rhfs01", "rhfs01-1", "web", "monitoring", "misc"]
    assert seeds["gw"]["ip"] == "192.168.1.254"
    assert "netboot" in seeds["gw"]["aliases"]
    assert seeds["rhfs01"]["aliases"] == ["rhfs", "rhfs0", "hfs0", "rfs0"]
    assert seeds["rhfs01-1"] == {"hostname": "rhfs01-1", "ip": "192.168.1.11", "aliases": ["rhfs1", "hfs1", "rfs1"]}


def test_a_mac_that_hall_toml_knows_is_the_machines() -> None:
    known = 'mac = "52:54:00:12:34:56"\naddresses = { hall = "192.168.1.100" }'
    seeds = {
        seed["hostname"]: seed for seed in settings(hall(('addresses = { hall = "192.168.1.100" }', known)))["seeds"]
    }
    assert seeds["web"]["mac"] == "52:54:00:12:34:56"


def test_every_address_of_hall_toml_is_reserved_for_its_host() -> None:
    reserved = dict(text.split("=", 1) for text in settings()["reserved"])
    assert reserved["192.168.250.254"] == "gw"
    assert reserved["192.168.1.11"] == "rhfs01-1"
    other = settings(hall(('gateway = "192.168.1.254"', 'gateway = "192.168.0.254"')))["reserved"]
    assert "192.168.0.254=the router of network hall" in other


def test_only_gw_gets_them() -> None:
    assert MDB in render(hall(), Identity("gw", "gw"))
    assert MDB not in render(hall(), Identity("web", "web"))
