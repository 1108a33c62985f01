"""What a machine boots, from where, and by which rule. Pure."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from netboot.decide import SERVERS, Decision, Pointers, decide, effective, rules
from netboot.machines import Known, Machines
from netboot.schema import Channel, Outcome, PinKind
from services.common.addresses import Range
from tests.netboot.rig import ONE, TWO, machines, seat, server, version

NOW = 1_800_000_000.0
THREE = "20261123.aaaaaaaaaaaa"
VERSIONS = {id: version(id) for id in (ONE, TWO, THREE)}
ALIENS = Range.parse("192.168.250.1-192.168.250.200")


def channel(current: str | None = ONE, *, name: str = "stable", **more: object) -> Channel:
    values: dict[str, object] = {"previous": None, "commit_by": None, "committed": True, "generation": 1}
    values |= {"effective": None}
    values |= {"changed": 0.0, "changed_by": "me", "why": ""}
    return Channel(name=name, current=current, **{**values, **more})  # type: ignore[arg-type]


def pointers(**more: object) -> Pointers:
    values = {
        "versions": VERSIONS,
        "holders": {id: frozenset({1, 2, 10}) for id in VERSIONS},
        "channels": {"stable": channel()},
        "pins": {},
    }
    return Pointers(**{**values, **more})  # type: ignore[arg-type]


def answer(machine: Known | None = None, given: Pointers | None = None, *others: Known, **more: object) -> Decision:
    machine = machine or seat()
    known = machines(machine, *others)
    return decide(machine, known, given or pointers(), now=NOW, **more)  # type: ignore[arg-type]


# Which version


def test_a_machine_boots_what_its_channel_points_to() -> None:
    found = answer()
    assert (found.outcome, found.rule) == (Outcome.BOOT, "channel stable")
    assert found.version is VERSIONS[ONE]


@pytest.mark.parametrize(
    ("pinned", "pins", "rule", "wanted"),
    [
        (TWO, {(PinKind.ROOM, "pasteur"): THREE, (PinKind.TYPE, "user"): THREE}, "pin of the machine", TWO),
        (None, {(PinKind.ROOM, "pasteur"): TWO, (PinKind.TYPE, "user"): THREE}, "pin of room pasteur", TWO),
        (None, {(PinKind.ROOM, "alt"): TWO, (PinKind.TYPE, "user"): THREE}, "pin of type user", THREE),
        (None, {(PinKind.ROOM, "alt"): TWO, (PinKind.TYPE, "orga"): THREE}, "channel stable", ONE),
    ],
)
def test_the_narrowest_pin_wins_and_the_channel_is_last(
    pinned: str | None, pins: dict[tuple[PinKind, str], str], rule: str, wanted: str
) -> None:
    machine, given_ = seat(pinned=pinned), pointers(pins=pins)
    found = answer(machine, given_)
    assert (found.rule, found.version) == (rule, VERSIONS[wanted])
    tried = rules(machine, given_, NOW)
    assert [each.name for each in tried if each.won] == [rule]
    losers = [each for each in tried if each.version is not None and not each.won]
    assert all(f"but {rule} comes first" in each.because for each in losers)


def test_a_pin_that_cannot_be_followed_is_not_passed_over() -> None:
    found = answer(seat(pinned="19990101.000000000000"))
    assert found.outcome is Outcome.NO_VERSION
    assert "19990101.000000000000" in found.detail


def test_a_machine_of_no_channel_boots_nothing_and_says_why() -> None:
    assert answer(seat(channel="beta")).detail == "there is no channel beta"
    empty = answer(None, pointers(channels={"stable": channel(None)}))
    assert (empty.outcome, empty.detail) == (Outcome.NO_VERSION, "it points nowhere")


@pytest.mark.parametrize(
    ("committed", "commit_by", "wanted"),
    [(True, None, TWO), (False, NOW + 1, TWO), (False, NOW, ONE), (False, NOW - 1, ONE)],
)
def test_a_pointer_that_nobody_committed_in_time_is_as_good_as_taken_back(
    committed: bool, commit_by: float | None, wanted: str
) -> None:
    pointed = channel(TWO, previous=ONE, committed=committed, commit_by=commit_by)
    assert effective(pointed, NOW) == wanted
    found = answer(None, pointers(channels={"stable": pointed}))
    assert found.version is VERSIONS[wanted]
    assert ("was not committed in time" in found.detail) == (wanted == ONE)


def test_what_was_taken_back_to_nothing_boots_nothing() -> None:
    found = answer(None, pointers(channels={"stable": channel(TWO, committed=False, commit_by=NOW - 1)}))
    assert found.outcome is Outcome.NO_VERSION
    assert found.detail == f"{TWO} was not committed in time, and there was none before"


# From where


def test_rfs1_is_not_rfs10() -> None:
    only_ten = pointers(holders={ONE: frozenset({10})})
    assert answer(seat(rfs=1), only_ten).outcome is Outcome.NOT_HELD
    assert [each.rfs for each in answer(seat(rfs=10), only_ten).servers] == [10]


def test_its_own_server_comes_first_and_others_follow() -> None:
    assert [each.rfs for each in answer(seat(rfs=2)).servers] == [2, 10, 1]
    assert [each.address for each in answer(seat(rfs=1)).servers] == ["192.168.1.1", "192.168.1.2", "192.168.1.10"]


def test_a_version_that_is_not_on_its_server_yet_is_not_offered() -> None:
    found = answer(seat(rfs=1), pointers(holders={ONE: frozenset({2})}))
    assert (found.outcome, found.servers) == (Outcome.NOT_HELD, ())
    assert found.detail == f"{ONE} is not yet on rfs1 (rhfs01)"
    assert found.passed == ["it is on rfs2"]


def test_a_server_that_nobody_knows_is_said() -> None:
    found = answer(seat(rfs=7))
    assert (found.outcome, found.detail) == (Outcome.NO_SERVER, "mdb knows no machine with the alias rfs7")


def test_a_faulty_server_is_passed_over() -> None:
    known = Machines([seat(), server(1, faulty=True, faulty_reason="no fan"), server(2)])
    found = decide(seat(), known, pointers(), now=NOW)
    assert [each.rfs for each in found.servers] == [2]
    assert "rfs1 (rhfs01) is marked faulty: no fan" in found.passed


def test_without_any_server_it_says_so() -> None:
    known = Machines([seat(), server(1, faulty=True)])
    found = decide(seat(), known, pointers(holders={ONE: frozenset({1})}), now=NOW)
    assert (found.outcome, found.detail) == (Outcome.NO_SERVER, f"no root server of {ONE} is available")


# What keeps it from booting


def test_a_faulty_machine_is_told_its_reason_whatever_it_would_boot() -> None:
    found = answer(seat(faulty=True, faulty_reason="no fan", pinned=TWO))
    assert (found.outcome, found.detail) == (Outcome.FAULTY, "no fan")


def test_a_machine_with_an_address_of_unknown_ones_waits_for_its_own() -> None:
    assert answer(asked_from="192.168.250.7", aliens=ALIENS).outcome is Outcome.WAIT
    assert answer(asked_from="192.168.0.9", aliens=ALIENS).outcome is Outcome.BOOT
    assert answer(asked_from="local", aliens=ALIENS).outcome is Outcome.BOOT


@pytest.mark.parametrize("name", ["a_b", "x || reboot", "${x}", "", "A", "x" * 64, "a.b"])
def test_a_host_name_that_is_none_boots_nothing(name: str) -> None:
    assert answer(seat(hostname=name)).outcome is Outcome.BAD_RECORD


def test_an_address_that_is_none_boots_nothing() -> None:
    assert answer(seat(ip="192.168.0.1 quiet")).outcome is Outcome.BAD_RECORD


ids = st.sampled_from([*VERSIONS, "unknown"])
rfs = st.integers(0, 11)


@given(
    st.builds(seat, rfs=rfs, pinned=st.none() | ids, faulty=st.booleans(), room=st.sampled_from(["pasteur", "alt"])),
    st.dictionaries(ids, st.frozensets(rfs)),
    st.dictionaries(st.tuples(st.sampled_from(PinKind), st.sampled_from(["pasteur", "user", "alt"])), ids),
    st.builds(channel, st.none() | ids, previous=st.none() | ids, committed=st.booleans(), commit_by=st.just(NOW)),
    st.frozensets(st.integers(0, 10)),
)
def test_whatever_the_tables_say_a_boot_is_one_version_that_its_servers_hold(
    machine: Known,
    holders: dict[str, frozenset[int]],
    pins: dict[tuple[PinKind, str], str],
    pointed: Channel,
    faulty: frozenset[int],
) -> None:
    servers = [msgspec.structs.replace(server(n), faulty=n in faulty) for n in range(10)]
    given_ = pointers(holders=holders, pins=pins, channels={"stable": pointed})
    found = decide(machine, Machines([machine, *servers]), given_, now=NOW)
    tried = rules(machine, given_, NOW)
    assert sum(each.won for each in tried) <= 1
    assert found.boots == bool(found.servers)
    assert len(found.servers) <= SERVERS
    if found.boots:
        assert found.version is not None
        (winner,) = [each for each in tried if each.won]
        assert (found.version.version, found.rule) == (winner.version, winner.name)
        assert not machine.faulty
        for each in found.servers:
            assert each.rfs in holders[found.version.version] - faulty
        assert found.servers[0].rfs == machine.rfs or machine.rfs in faulty
    else:
        assert found.detail
