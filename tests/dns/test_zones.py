"""Zones from machines: names, addresses, aliens, and what is in none of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from ipaddress import IPv4Address
from random import Random

import dns.zone
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.common.errors import InputError
from services.common.names import label_problem
from services.dns.schema import Aliens, LeftOut, Settings
from services.dns.zones import ALIEN, HALL, Layout, Machine, Rendered, Zone, machine_of, render
from tests.dns.hall import ALIEN_GW, GW, SETTINGS, machine

LAYOUT = Layout.of(SETTINGS)


def zone(rendered: Rendered, name: str, view: str = HALL) -> Zone:
    return next(each for each in rendered.zones if each.key == (view, name))


def records(rendered: Rendered, name: str = "prolo", view: str = HALL) -> dict[str, str]:
    """Owner → value."""
    return {record.owner: record.value for record in zone(rendered, name, view).records}


def parsed(one: Zone, serial: int = 7) -> dns.zone.Zone:
    """As dnspython reads the text; raises for what is no zone."""
    return dns.zone.from_text(one.text(serial), origin=f"{one.name}.")


# Names


def test_a_machine_is_found_by_its_name_and_its_aliases() -> None:
    found = records(render(LAYOUT, [machine(7, "pas-r01p01", "192.168.0.1", "seat1", "corner")]))
    assert {found[name] for name in ("pas-r01p01", "seat1", "corner")} == {"192.168.0.1"}


def test_the_hosts_of_the_hall_are_there_before_any_machine() -> None:
    found = records(render(LAYOUT, []))
    assert found == {"gw": GW, "mdb": GW, "ns": GW, "netboot": GW, "rhfs01": "192.168.1.10", "rfs0": "192.168.1.10"}


def test_the_reverse_zone_is_that_of_the_address_whatever_the_machine_is_for() -> None:
    made = render(LAYOUT, [machine(1, "one", "192.168.0.1"), machine(2, "two", "192.168.1.200")])
    assert records(made, "0.168.192.in-addr.arpa") == {"1": "one.prolo."}
    assert records(made, "1.168.192.in-addr.arpa") == {"10": "rhfs01.prolo.", "200": "two.prolo.", "254": "gw.prolo."}


def test_an_address_leads_to_the_host_name_not_to_an_alias() -> None:
    made = render(LAYOUT, [machine(1, "zzz", "192.168.0.1", "aaa")])
    assert records(made, "0.168.192.in-addr.arpa")["1"] == "zzz.prolo."


def test_the_head_of_a_zone_is_that_of_the_first_system() -> None:
    soa = parsed(zone(render(LAYOUT, []), "prolo"), serial=42).get_rdataset("@", "SOA")
    assert soa is not None
    assert (str(soa[0]), soa.ttl) == ("ns hostmaster.ns 42 1200 60 360000 10", 10)


def test_each_zone_has_a_server_that_it_or_another_one_knows() -> None:
    made = render(LAYOUT, [])
    for each in made.zones:
        assert str(parsed(each).get_rdataset("@", "NS")[0]).startswith("ns")  # type: ignore[index]
    assert records(made)["ns"] == GW


# Aliens


def test_unknown_machines_find_netboot_and_ns_and_nothing_else() -> None:
    made = render(LAYOUT, [machine(1, "one", "192.168.0.1")])
    assert records(made, view=ALIEN) == {"netboot": ALIEN_GW, "ns": ALIEN_GW}
    assert {each.name for each in made.zones if each.view == ALIEN} == {"prolo", "250.168.192.in-addr.arpa"}


@pytest.mark.parametrize("view", [HALL, ALIEN])
def test_addresses_of_unknown_machines_say_so_in_both_views(view: str) -> None:
    found = records(render(LAYOUT, []), "250.168.192.in-addr.arpa", view)
    assert found["7"] == "unknown-7.alien.prolo."
    assert found["254"] == "gw.alien.prolo."
    assert len(found) == 201


def test_a_hall_without_aliens_has_no_view_for_them() -> None:
    made = render(Layout.of(msgspec.structs.replace(SETTINGS, aliens=Aliens())), [])
    assert {each.view for each in made.zones} == {HALL}


# Reverse zones


@pytest.mark.parametrize(
    ("networks", "names"),
    [
        (["192.168.0.0/23"], ["0.168.192", "1.168.192"]),
        (["192.168.7.128/25", "192.168.7.0/25"], ["7.168.192"]),
        (["10.3.0.0/16"], ["3.10"]),
        (["10.0.0.0/15", "10.0.4.0/24"], ["0.10", "1.10"]),
        (["10.0.0.0/8", "10.1.0.0/24"], ["10"]),
    ],
)
def test_reverse_zones_cover_the_networks_each_once(networks: list[str], names: list[str]) -> None:
    layout = Layout.of(Settings(domain="prolo", networks=networks))
    found = [each.name for each in render(layout, []).zones if each.name.endswith(".in-addr.arpa")]
    assert sorted(set(found) - {"127.in-addr.arpa", "0.in-addr.arpa", "255.in-addr.arpa"}) == sorted(
        f"{name}.in-addr.arpa" for name in names
    )


def test_in_a_wide_network_an_address_is_found_too() -> None:
    layout = Layout.of(Settings(domain="prolo", networks=["10.3.0.0/16"]))
    made = render(layout, [machine(1, "far", "10.3.200.9")])
    assert records(made, "3.10.in-addr.arpa") == {"9.200": "far.prolo."}


# Left out


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (machine(5, "under_score", "192.168.0.5"), "underscore"),
        (machine(5, "x\n@ a 6", "192.168.0.5"), "is not a host name"),
        (machine(5, "$INCLUDE", "192.168.0.5"), "capital"),
        (machine(5, "*", "192.168.0.5"), "is not a host name"),
        (machine(5, "", "192.168.0.5"), "is not a host name"),
        (machine(5, "x" * 64, "192.168.0.5"), "63 at most"),
        (machine(5, "x" * 100_000, "192.168.0.5"), "63 at most"),
        (machine(5, "pröf", "192.168.0.5"), "is not a host name"),
        (machine(5, "localhost", "192.168.0.5"), "name for itself"),
        (machine(5, "gw", "192.168.0.5"), "the name is gw's (192.168.1.254)"),
        (machine(5, "ns", "192.168.0.5"), "the name is gw's"),
        (machine(5, "lost", "8.8.8.8"), "in no network of the hall"),
        (machine(5, "lost", "127.0.0.1"), "in no network of the hall"),
        (machine(5, "lost", "192.168.1.255"), "broadcast"),
        (machine(5, "lost", "192.168.0.5; DROP"), "is no IPv4 address"),
        (machine(5, "twin", "192.168.0.1"), "the address is one's"),
    ],
)
def test_what_cannot_be_in_dns_is_left_out_and_named_and_the_rest_is_there(bad: Machine, reason: str) -> None:
    one = machine(1, "one", "192.168.0.1", "uno")
    made = render(LAYOUT, [bad, one])
    assert [(each.machine, reason in each.reason) for each in made.left_out] == [("5", True)]
    assert {name: records(made)[name] for name in ("one", "uno", "gw", "ns")} == {
        "one": "192.168.0.1", "uno": "192.168.0.1", "gw": GW, "ns": GW,
    }  # fmt: skip
    assert records(made, "0.168.192.in-addr.arpa")["1"] == "one.prolo."
    for each in made.zones:
        parsed(each)


def test_a_bad_alias_leaves_the_machine_its_other_names() -> None:
    made = render(LAYOUT, [machine(5, "good", "192.168.0.5", "bad_", "fine")])
    assert (records(made)["good"], records(made)["fine"]) == ("192.168.0.5", "192.168.0.5")
    assert [each.name for each in made.left_out] == ["bad_"]


def test_of_two_that_want_a_name_the_older_one_has_it() -> None:
    late, early = machine(10, "late", "192.168.0.10", "printer"), machine(9, "early", "192.168.0.9", "printer")
    made = render(LAYOUT, [late, early])
    assert records(made)["printer"] == "192.168.0.9"
    assert [(each.machine, each.name, each.reason) for each in made.left_out] == [
        ("10", "printer", "the name is early's (192.168.0.9)")
    ]


def test_what_hall_toml_and_mdb_both_say_is_no_conflict() -> None:
    assert render(LAYOUT, [machine(1, "rhfs01", "192.168.1.10", "rfs0")]).left_out == ()


def test_a_name_that_leaves_no_room_below_a_long_domain_is_left_out() -> None:
    layout = Layout.of(Settings(domain=".".join(["d" * 60] * 3 + ["e" * 50]), networks=["192.168.0.0/24"]))
    made = render(layout, [machine(1, "x" * 63, "192.168.0.1"), machine(2, "ok", "192.168.0.2")])
    assert [(each.machine, "too long" in each.reason) for each in made.left_out] == [("1", True)]
    for each in made.zones:
        parsed(each)


@pytest.mark.parametrize("record", [{}, {"hostname": 3, "aliases": [], "ip": "1"}, {"hostname": "a", "aliases": "b"}])
def test_what_is_no_machine_is_left_out(record: dict[str, object]) -> None:
    found = machine_of("3", record)
    assert isinstance(found, LeftOut)
    assert found.machine == "3"


@pytest.mark.parametrize("domain", ["", "local", "Prolo", "a..b", ".".join(["d" * 60] * 4)])
def test_a_domain_that_is_none_is_refused(domain: str) -> None:
    with pytest.raises(InputError):
        Layout.of(Settings(domain=domain))


# Properties

HOSTILE = st.one_of(
    st.text(max_size=70),
    st.sampled_from(["gw", "ns", "netboot", "@", "*", "$TTL", "a b", "a;b", "a.b", "-a", "x" * 63, "x" * 64, "\\000"]),
    st.from_regex(r"[a-z0-9]{1,4}", fullmatch=True),
)
ADDRESSES = st.one_of(
    st.integers(int(IPv4Address("192.168.0.0")), int(IPv4Address("192.168.2.0"))).map(lambda n: str(IPv4Address(n))),
    st.ip_addresses(v=4).map(str),
    st.text(max_size=20),
)
MACHINES = st.lists(
    st.builds(
        lambda key, name, aliases, ip: Machine(str(key), name, tuple(aliases), ip),
        st.integers(1, 10**6),
        HOSTILE,
        st.lists(HOSTILE, max_size=3),
        ADDRESSES,
    ),
    max_size=12,
    unique_by=lambda each: each.key,
)


FEW = Layout.of(
    msgspec.structs.replace(
        SETTINGS, aliens=msgspec.structs.replace(SETTINGS.aliens, range="192.168.250.1-192.168.250.3")
    )
)


def names_of(machines: Iterable[Machine]) -> Iterator[tuple[str, str, str]]:
    """Key, name and address of all that machines want to be called."""
    for each in machines:
        for label in (each.hostname, *each.aliases):
            yield each.key, label, each.ip


@settings(max_examples=300, deadline=None)
@given(MACHINES)
def test_whatever_mdb_says_the_zones_can_be_read_and_say_only_what_machines_are(machines: list[Machine]) -> None:
    made = render(FEW, machines)
    for each in made.zones:
        assert len(list(parsed(each).iterate_rdatas())) == len(each.records) + 2
    claimed = {(label, ip) for _, label, ip in names_of([*machines, *FEW.hosts])}
    for record in zone(made, "prolo").records:
        assert label_problem(record.owner) is None
        assert (record.owner, record.value) in claimed


@settings(max_examples=300, deadline=None)
@given(MACHINES)
def test_whoever_lacks_a_name_in_dns_is_told(machines: list[Machine]) -> None:
    made = render(FEW, machines)
    there = {(record.owner, record.value) for record in zone(made, "prolo").records}
    told = {each.machine for each in made.left_out}
    assert {key for key, label, ip in names_of(machines) if (label, ip) not in there} <= told


@settings(max_examples=100, deadline=None)
@given(MACHINES, st.randoms(use_true_random=False))
def test_the_order_in_which_machines_are_told_changes_nothing(machines: list[Machine], random: Random) -> None:
    shuffled = list(machines)
    random.shuffle(shuffled)
    assert render(FEW, shuffled) == render(FEW, machines)


@settings(max_examples=100, deadline=None)
@given(MACHINES)
def test_an_address_has_one_name_and_the_name_has_the_address(machines: list[Machine]) -> None:
    made = render(FEW, machines)
    forward = records(made)
    for name in ("0.168.192.in-addr.arpa", "1.168.192.in-addr.arpa"):
        pointers = [record.owner for record in zone(made, name).records]
        assert len(pointers) == len(set(pointers))
        for record in zone(made, name).records:
            address = f"192.168.{name[0]}.{record.owner}"
            assert forward[record.value.removesuffix(".prolo.")] == address
