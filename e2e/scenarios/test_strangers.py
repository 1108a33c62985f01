"""Machines that mdb does not know: what they reach, what they are told, and how they become known.

The stranger is a seat that nobody registered. Neighbours on one switch reach each other without gw, whatever gw does:
against that helps port security of the switches alone (docs/dhcp.md).
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from ipaddress import IPv4Address, IPv4Network

import httpx2
import pytest

from e2e.lab import Lab
from e2e.node import Node
from e2e.pool import Labs
from e2e.scenarios.questions import GW, resolve
from e2e.topology import mac_of
from services.mdb.client import Mdb

pytestmark = [pytest.mark.images, pytest.mark.needs("root", "cgroup2", "namespaces", "systemd-nspawn")]
NAME = "laptop"
ALIENS = IPv4Network("192.168.250.0/24")
GATEWAY = "192.168.250.254"
FLOOD = 300


@pytest.fixture(scope="module")
def hall(labs: Labs) -> Iterator[Lab]:
    """The hall, with a stranger on its second switch."""
    lab = labs.take(topology="hall", seats=2)
    try:
        lab.add_seat(NAME, stranger=True)
        yield lab
    finally:
        labs.give_back(lab, failed=False, share=False)


@pytest.fixture
def stranger(hall: Lab) -> Node:
    return hall[NAME]


def asks(stranger: Node, path: str, *, host: str = "") -> httpx2.Response:
    """What gw answers it over HTTP."""
    return stranger.http("GET", f"http://{GATEWAY}{path}", headers={"Host": host} if host else {})


def test_it_gets_an_address_of_aliens(stranger: Node) -> None:
    assert IPv4Address(stranger.wait_for_address()) in ALIENS


def test_it_finds_netboot_and_the_name_server_and_no_other_name(hall: Lab, stranger: Node) -> None:
    for name in ("netboot", "ns"):
        assert resolve(hall, stranger, f"{name}.prolo", server=GATEWAY) == [GATEWAY]
    for server in (GATEWAY, GW):
        for name in ("rhfs01.prolo", "mdb.prolo", "web.prolo"):
            assert not resolve(hall, stranger, name, server=server)


@pytest.mark.parametrize("address", ["192.168.1.10", "192.168.1.100", "198.51.100.1"])
def test_nothing_is_routed_for_it(stranger: Node, address: str) -> None:
    stranger.fails("ping", "-c1", "-W1", address)


def test_netboot_gives_it_the_menu_and_nothing_to_boot(stranger: Node) -> None:
    menu = asks(stranger, "/bootstrap")
    assert menu.status_code == 200
    assert menu.text.startswith("#!ipxe\n")
    answer = asks(stranger, f"/boot/{mac_of(NAME, 0)}")
    assert answer.text.startswith("#!ipxe\n")
    assert "vmlinuz" not in answer.text


@pytest.mark.parametrize("host", ["mdb", "mdb.prolo", "nothing"])
def test_other_services_are_closed_to_it(stranger: Node, host: str) -> None:
    assert asks(stranger, "/v1/machines", host=host).status_code in (403, 404)


def test_self_registration_is_off_until_an_administrator_allows_it(hall: Lab, stranger: Node) -> None:
    answer = asks(stranger, f"/register?hostname=pas-r07p01&mac={mac_of(NAME, 0)}")
    assert "not registered" in answer.text
    with Mdb(hall["gw"].service("mdb")) as mdb:
        assert mdb.machines("pas-r07p01").machines == []


def test_a_registered_stranger_moves_to_its_own_address(hall: Lab, stranger: Node) -> None:
    with Mdb(hall["gw"].service("mdb")) as mdb:
        mdb.set("allow_self_registration", True)
        answer = asks(stranger, f"/register?hostname=pas-r07p02&mac={mac_of(NAME, 0)}&rfs=1&hfs=1&room=pasteur")
        assert "registered as pas-r07p02" in answer.text
        machine = mdb.machine("pas-r07p02")
    stranger.succeeds("networkctl", "reconfigure", "host0")
    stranger.wait_until("its own address", lambda: stranger.addresses == [str(machine.ip)], seconds=40)
    assert resolve(hall, stranger, "rhfs01.prolo") == ["192.168.1.10"]


def test_a_flood_of_registrations_hurts_nobody_else(hall: Lab, stranger: Node) -> None:
    """It is answered with a refusal or an address that the pool has; who is known boots all the while."""
    gw = hall["gw"]
    with Mdb(gw.service("mdb")) as mdb:
        mdb.set("allow_self_registration", True)
        before = {machine.id for machine in mdb.machines().machines}
        known = mdb.machine("web")

    def register(number: int) -> str:
        mac = f"52:54:00:f1:{number // 256:02x}:{number % 256:02x}"
        return asks(stranger, f"/register?hostname=flood-{number}&mac={mac}").text

    began = time.monotonic()
    with ThreadPoolExecutor(max_workers=16) as executor:
        floods = [executor.submit(register, number) for number in range(FLOOD)]
        for _ in range(10):
            assert resolve(hall, hall["web"], f"{known.hostname}.prolo") == [str(known.ip)]
            assert hall["web"].http("GET", f"http://{GW}/bootstrap").status_code == 200
        answers = [flood.result() for flood in floods]
    assert all(answer.startswith("#!ipxe\n") for answer in answers)
    assert time.monotonic() - began < 60
    with Mdb(gw.service("mdb")) as mdb:
        mdb.set("allow_self_registration", False)
        made = [machine for machine in mdb.machines().machines if machine.id not in before]
        assert len({machine.ip for machine in made}) == len(made)
        assert len(made) == sum("registered as" in answer for answer in answers) < FLOOD
        assert all(machine.type.value == "user" for machine in made)
