"""Which machines have an answer of their own: whatever mdb says, nobody's mistake is anybody else's."""

from __future__ import annotations

from ipaddress import IPv4Address

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.names import label_problem
from services.dhcp.machines import Machine, choose, read
from services.dhcp.schema import HostSettings, LeftOut
from tests.dhcp.halls import ALIENS, HALL, SETTINGS, mac, machine

RECORD = {"id": 3, "hostname": "pc-3", "mac": mac(3), "ip": "192.168.0.3", "room": "pasteur", "faulty": True}

names = st.sampled_from(["pc-1", "pc-2", "Pc_3", "-", "a.b", "", "pc\n4", 'x"y', "p" * 64])
macs = st.sampled_from([mac(1), mac(2), mac(1).upper(), "52-54-00-00-00-02", "ff:ff:ff:ff:ff:ff", "", "no", None])
addresses = st.one_of(
    st.integers(0, 600).map(lambda number: IPv4Address("192.168.0.0") + number),
    st.sampled_from(["192.168.250.7", "192.168.250.254", "192.168.1.254", "10.0.0.1", "0.0.0.0"]).map(IPv4Address),
)
anyones = st.lists(st.builds(Machine, st.integers(0, 9), names, macs, addresses), max_size=12)


def test_a_record_has_more_than_dhcp_wants() -> None:
    assert read("3", RECORD) == machine(3)


@pytest.mark.parametrize("change", [{"ip": "192.168.0.300"}, {"ip": None}, {"hostname": 7}, {"mac": 5}, {"id": "x"}])
def test_a_record_that_cannot_be_read_is_named(change: dict[str, object]) -> None:
    found = read("3", {**RECORD, **change})
    assert isinstance(found, LeftOut)
    assert found.id == 3
    assert "cannot be read" in found.reason


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        (machine(5, name="under_score"), "underscore"),
        (machine(5, ip="10.0.0.5"), "no network of the hall"),
        (machine(5, ip="192.168.250.5"), "network aliens"),
        (machine(5, ip="192.168.0.0"), "network 192.168.0.0/23 itself"),
        (machine(5, ip="192.168.1.255"), "broadcast"),
        (msgspec.structs.replace(machine(5), mac="01:00:5e:00:00:01"), "multicast"),
        (msgspec.structs.replace(machine(5), mac="twelve"), "no MAC address"),
    ],
)
def test_a_machine_that_kea_would_refuse_is_left_out_and_named(wrong: Machine, why: str) -> None:
    choice = choose(SETTINGS, [machine(4), wrong, machine(6)])
    assert [each.id for each in choice.machines] == [4, 6]
    (left,) = choice.left_out
    assert (left.id, left.name) == (5, wrong.hostname)
    assert why in left.reason


def test_of_two_with_one_mac_the_one_known_longer_has_it() -> None:
    choice = choose(SETTINGS, [machine(9, card=4), machine(4)])
    assert [each.id for each in choice.machines] == [4]
    assert choice.left_out == [LeftOut(9, "pc-9", f"{mac(4)} is already the MAC address of pc-4")]


def test_of_two_with_one_address_the_one_known_longer_has_it() -> None:
    choice = choose(SETTINGS, [machine(9, ip="192.168.0.4"), machine(4)])
    assert [each.id for each in choice.machines] == [4]
    assert choice.left_out == [LeftOut(9, "pc-9", "192.168.0.4 is already the address of pc-4")]


def test_a_machine_without_a_mac_is_counted_and_no_mistake() -> None:
    choice = choose(SETTINGS, [msgspec.structs.replace(machine(4), mac=None)])
    assert (choice.machines, choice.left_out, choice.macless) == ([], [], 1)


def test_gw_itself_is_offered_nothing_and_is_no_mistake() -> None:
    choice = choose(SETTINGS, [machine(1, name="gw", ip="192.168.1.254")])
    assert (choice.machines, choice.left_out) == ([], [])


def test_a_server_of_hall_toml_has_its_answer_before_mdb_says_anything() -> None:
    settings = msgspec.structs.replace(
        SETTINGS, hosts=[HostSettings(name="web", mac=mac(100), address=IPv4Address("192.168.1.100"))]
    )
    assert [each.hostname for each in choose(settings, []).machines] == ["web"]
    told = machine(2, name="web", ip="192.168.1.100", card=100)
    assert choose(settings, [told]).machines == [told]


@given(anyones)
def test_what_is_chosen_is_always_something_kea_takes(told: list[Machine]) -> None:
    choice = choose(SETTINGS, told)
    chosen = choice.machines
    assert len({each.mac for each in chosen}) == len({each.ip for each in chosen}) == len(chosen)
    for each in chosen:
        assert label_problem(each.hostname) is None
        assert each.ip in HALL.cidr
        assert each.ip not in ALIENS.cidr
        assert each.ip not in (HALL.server, HALL.cidr.network_address, HALL.cidr.broadcast_address)
        assert each.mac in (mac(1), mac(2))


@given(anyones)
def test_nobody_is_lost_without_a_word(told: list[Machine]) -> None:
    choice = choose(SETTINGS, told)
    own = sum(each.mac is not None and each.ip in (HALL.server, ALIENS.server) for each in told)
    assert len(choice.machines) + len(choice.left_out) + choice.macless + own == len(told)


@given(anyones, st.randoms())
def test_the_order_of_the_feed_does_not_matter_between_machines_of_different_age(
    told: list[Machine], random: object
) -> None:
    distinct = list({each.id: each for each in told}.values())
    shuffled = list(distinct)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert choose(SETTINGS, shuffled).machines == choose(SETTINGS, distinct).machines
