"""Kea's configuration of a hall, as far as it can be judged without Kea; what Kea makes of it is in test_answers.py."""

from __future__ import annotations

import json
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from services.dhcp.machines import Choice, Machine, choose
from services.dhcp.render import USER_CLASS, cards, render
from services.dhcp.schema import NetworkSettings, Settings
from tests.dhcp.halls import ALIENS, CARDS, HALL, SETTINGS, machine
from tests.dhcp.rig import reservations

CLUSTER = NetworkSettings(name="cluster", cidr=IPv4Network("192.168.2.0/24"), server=HALL.server)


def configuration(*machines: Machine, settings: Settings = SETTINGS) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(render(settings, choose(settings, machines), CARDS))["Dhcp4"]
    return found


def test_networks_of_one_card_are_one_shared_network_on_its_interface() -> None:
    (shared,) = configuration()["shared-networks"]
    assert shared["interface"] == "eth0"
    assert [subnet["subnet"] for subnet in shared["subnet4"]] == ["192.168.0.0/23", "192.168.250.0/24"]


def test_only_aliens_have_a_pool() -> None:
    hall, aliens = configuration()["shared-networks"][0]["subnet4"]
    assert hall["pools"] == []
    assert aliens["pools"] == [{"pool": "192.168.250.1 - 192.168.250.200", "client-class": "UNKNOWN"}]


def test_kea_listens_on_one_address_of_a_card() -> None:
    assert configuration()["interfaces-config"]["interfaces"] == ["eth0/192.168.1.254"]


def test_a_network_that_only_relays_lead_to_is_a_subnet_without_a_card() -> None:
    settings = msgspec.structs.replace(SETTINGS, networks=[HALL, ALIENS, CLUSTER])
    found = configuration(machine(3, ip="192.168.2.3"), settings=settings)
    assert [subnet["subnet"] for subnet in found["subnet4"]] == ["192.168.2.0/24"]
    assert found["interfaces-config"]["interfaces"] == ["eth0/192.168.1.254"]
    assert found["subnet4"][0]["reservations"][0]["ip-address"] == "192.168.2.3"


def test_a_card_is_found_by_its_address_among_known_machines() -> None:
    settings = msgspec.structs.replace(SETTINGS, networks=[ALIENS, HALL])
    assert cards(settings) == {0: HALL}


def test_a_card_with_aliens_alone_is_found_by_their_address() -> None:
    other = msgspec.structs.replace(ALIENS, card=2)
    assert cards(msgspec.structs.replace(SETTINGS, networks=[HALL, other])) == {0: HALL, 2: other}


def test_numbers_of_subnets_stay_when_a_network_is_added() -> None:
    """Kea's leases name them."""
    more = msgspec.structs.replace(SETTINGS, networks=[CLUSTER, HALL, ALIENS])
    before, after = (
        {subnet["subnet"]: subnet["id"] for shared in found["shared-networks"] for subnet in shared["subnet4"]}
        for found in (configuration(), configuration(settings=more))
    )
    assert before == after


@given(st.lists(st.integers(1, 500), unique=True, max_size=20), st.randoms())
def test_the_same_machines_give_the_same_bytes_in_whatever_order_they_come(numbers: list[int], random: Any) -> None:
    machines = [machine(number) for number in numbers if number != 510]
    before = render(SETTINGS, choose(SETTINGS, machines), CARDS)
    random.shuffle(machines)
    assert render(SETTINGS, choose(SETTINGS, machines), CARDS) == before


@given(st.lists(st.integers(1, 253), unique=True, max_size=20))
def test_every_chosen_machine_is_reserved_its_address(numbers: list[int]) -> None:
    machines = [machine(number) for number in numbers]
    found = reservations(render(SETTINGS, choose(SETTINGS, machines), CARDS))
    assert found == {str(each.ip): each.mac for each in machines}


@given(st.text(max_size=20))
def test_no_text_of_a_hall_breaks_the_configuration(text: str) -> None:
    settings = msgspec.structs.replace(SETTINGS, domain=text, search=[text])
    json.loads(render(settings, Choice({}), CARDS))


def test_the_script_beside_our_ipxe_makes_it_call_itself_ours() -> None:
    script = Path(__file__).parents[2] / "images/gw/mkosi.extra/usr/lib/ipxe/autoexec.ipxe"
    lines = script.read_text().splitlines()
    assert lines[0] == "#!ipxe"
    assert lines[-2:] == [f"set user-class {USER_CLASS}", "autoboot"]


def test_a_hall_without_aliens_serves_the_others() -> None:
    settings = msgspec.structs.replace(SETTINGS, networks=[HALL])
    found = configuration(machine(3), settings=settings)
    assert [subnet["pools"] for subnet in found["shared-networks"][0]["subnet4"]] == [[]]
    assert IPv4Address(found["shared-networks"][0]["subnet4"][0]["next-server"]) == HALL.server
