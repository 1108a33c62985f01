"""Who gets out: for each kind of machine and session, and whatever else is in the feeds."""

from __future__ import annotations

from ipaddress import IPv4Address
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from services.common.users import UserGroup
from services.firewall.plan import Bounds, Machine, Plan, Session, User, plan
from services.firewall.schema import Reason, Settings
from tests.common.mirrors import mirrored

SETTINGS = Settings(
    networks=["192.168.0.0/23", "192.168.250.0/24"],
    aliens=["192.168.250.0/24"],
    services=["192.168.1.1-192.168.1.127", "192.168.1.200"],
)
Feed = dict[str, dict[str, Any]]


def machine(id: int, ip: str, type: str = "user", **more: object) -> dict[str, object]:
    return {"id": id, "hostname": f"m{id}", "ip": ip, "type": type, "aliases": [], "mac": None, **more}


def user(login: str, group: str) -> dict[str, object]:
    return {"id": 1, "login": login, "group": group, "uid": 10_000}


def session(login: str, machine: int) -> dict[str, object]:
    return {"login": login, "machine": machine, "hostname": f"m{machine}", "since": 0.0}


def made(machines: list[Any], users: list[Any] = [], sessions: list[Any] = [], **settings: Any) -> Plan:  # noqa: B006
    bounds = Bounds.of(replace(SETTINGS, **settings))
    return plan(bounds, mirrored(Machine, machines), mirrored(User, users), mirrored(Session, sessions))


def reason(of: Plan, id: int = 1) -> Reason:
    return of.standings[id].reason


SEAT = machine(1, "192.168.0.5")
ALICE, BOB = user("alice", "user"), user("bob", "orga")


def test_a_seat_gets_out_while_somebody_sits_there_whose_group_may() -> None:
    assert reason(made([SEAT], [ALICE])) is Reason.NOBODY
    found = made([SEAT], [ALICE], [session("alice", 1)])
    assert reason(found) is Reason.GROUP
    assert found.sets.seats == {IPv4Address("192.168.0.5")}
    assert found.standings[1].text == "the groups of all who have a session there may: alice (user)"


def test_a_seat_whose_users_group_may_not_does_not_and_the_reason_names_both() -> None:
    found = made([SEAT], [ALICE], [session("alice", 1)], allowed_groups=[UserGroup.ORGA, UserGroup.ROOT])
    assert (found.sets.seats, found.standings[1].text) == (frozenset(), "alice is in group user, which may not")


def test_who_helps_by_ssh_opens_nothing_to_who_sits_there() -> None:
    groups = [UserGroup.ORGA, UserGroup.ROOT]
    both = [session("bob", 1), session("alice", 1)]
    assert reason(made([SEAT], [ALICE, BOB], both, allowed_groups=groups)) is Reason.REFUSED
    assert reason(made([SEAT], [ALICE, BOB], both[:1], allowed_groups=groups)) is Reason.GROUP


def test_machines_of_organizers_and_servers_always_do() -> None:
    orga = machine(1, "192.168.1.130", "orga")
    assert reason(made([orga])) is Reason.TYPE
    assert reason(made([orga], [ALICE], [session("alice", 1)], allowed_groups=[])) is Reason.TYPE
    assert reason(made([machine(1, "192.168.1.9", "service")])) is Reason.TYPE
    assert reason(made([machine(1, "192.168.1.9", "cluster")])) is Reason.SERVER
    assert made([orga]).sets.always == {IPv4Address("192.168.1.130")}


def test_somebody_whom_udb_does_not_know_stops_nobody_else() -> None:
    other = machine(2, "192.168.0.6")
    found = made([SEAT, other], [ALICE], [session("ghost", 1), session("alice", 2)])
    assert reason(found) is Reason.UNKNOWN
    assert found.sets.seats == {IPv4Address("192.168.0.6")}
    assert [each.record for each in found.left_out] == ["session of ghost"]


def test_machines_outside_of_the_hall_or_among_the_unknown_never_do() -> None:
    for ip in ("10.0.0.1", "192.168.250.7"):
        found = made([machine(1, ip, "orga")])
        assert reason(found) is Reason.ADDRESS
        assert found.sets.always == frozenset()
        assert ip in found.left_out[0].reason


def test_an_address_that_two_machines_have_is_the_first_ones() -> None:
    found = made([machine(2, "192.168.0.5", "orga"), SEAT], [ALICE])
    assert (reason(found, 1), reason(found, 2)) == (Reason.NOBODY, Reason.ADDRESS)
    assert found.sets.always == frozenset()


def test_a_machine_is_found_by_name_alias_and_address() -> None:
    found = made([machine(1, "192.168.0.5", aliases=["printer"])])
    for name in ("m1", "printer", "192.168.0.5"):
        standing = found.find(name)
        assert standing is not None
        assert standing.machine == 1
    assert found.find("m2") is None
    assert found.find("192.168.0.6") is None


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner, max_size=2),
    max_leaves=5,
)
BROKEN = st.dictionaries(st.sampled_from(["id", "login", "machine", "hostname", "ip", "type", "group"]), JUNK)


@given(st.lists(BROKEN, max_size=4), st.lists(BROKEN, max_size=4), st.lists(BROKEN, max_size=4))
def test_broken_records_change_nothing_for_others(machines: list[Any], users: list[Any], sessions: list[Any]) -> None:
    mine = [machine(-1001, "192.168.0.5"), machine(-1002, "192.168.1.130", "orga")]
    alice, here = user("alice.", "user"), session("alice.", -1001)
    found = made([*mine, *machines], [alice, *users], [here, *sessions])
    assert IPv4Address("192.168.0.5") in found.sets.seats
    assert IPv4Address("192.168.1.130") in found.sets.always


@given(
    st.lists(st.sampled_from(["user", "orga", "service", "cluster"]), min_size=1, max_size=6),
    st.dictionaries(st.sampled_from("abcdef"), st.sampled_from(["user", "orga", "root", "nobody"]), max_size=6),
    st.dictionaries(st.sampled_from("abcdef"), st.integers(0, 6), max_size=6),
    st.sets(st.sampled_from(list(UserGroup))),
)
def test_the_sets_are_what_the_rules_say_in_words(
    types: list[str], users: dict[str, str], sessions: dict[str, int], groups: set[UserGroup]
) -> None:
    machines = [machine(number, f"192.168.0.{number + 1}", type) for number, type in enumerate(types)]
    found = made(
        machines,
        [user(login, group) for login, group in users.items() if group != "nobody"],
        [session(login, id) for login, id in sessions.items()],
        allowed_groups=sorted(groups, key=lambda group: group.value),
    )
    allowed = {group.value for group in groups}
    for number, type in enumerate(types):
        there = [login for login, id in sessions.items() if id == number]
        seat = bool(there) and all(users.get(login) in allowed for login in there)
        assert found.standings[number].allowed == (type in ("orga", "service") or seat)
        assert (IPv4Address(f"192.168.0.{number + 1}") in found.sets) == found.standings[number].allowed
