"""A topology says what is wrong with it before anything is started."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from e2e import topology
from e2e.topology import Nic, Node, Segment, Topology, check, mac_of, seat_name
from services.common.errors import InputError, MissingError

HERE = Path("here.toml")


def text(*lines: str) -> str:
    return "\n".join(['name = "x"', *lines])


@pytest.mark.parametrize("name", topology.BUILT_IN)
def test_what_ships_is_consistent(name: str) -> None:
    assert topology.built_in(name).nodes


def test_the_hall_is_the_design() -> None:
    hall = topology.hall(4)
    assert list(hall.nodes) == ["gw", "rhfs01", "web", "pas-r01p01", "pas-r01p02", "pas-r01p03", "pas-r01p04"]
    assert len(hall.nodes["rhfs01"].nics) == 2
    assert {seat.nics[0].segment for seat in hall.seats().values()} == {"server-room", "room-1"}


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["trunks = [['a', 'b']]", "[segments.a]"], "a trunk ends at b, which is no segment"),
        (["trunks = [['a', 'a']]", "[segments.a]"], "joins a with itself"),
        (["trunks = [['a','b'],['b','a']]", "[segments.a]", "[segments.b]"], "closes a loop"),
        (["[nodes.n]", "role = 'gw'", "nics = [{segment = 's'}]"], r"nodes\.n\.nics\[0\]: there is no segment s"),
        (
            [
                "[segments.s]",
                *(f"[nodes.n{n}]\nrole='gw'\nnics=[{{segment='s', mac='52:54:00:00:00:01'}}]" for n in "12"),
            ],
            "two network cards have the address",
        ),
        (["[nodes.n]", "role = 'gw'", "version = 'gw/1'"], "without its role"),
        (["[nodes.n]", "rolle = 'gw'"], "rolle"),
        (["[nodes.Upper]", "role = 'gw'"], "Upper|pattern|regex"),
        (["[nodes"], "not valid TOML"),
    ],
)
def test_a_mistake_is_named(lines: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        topology.parse(text(*lines), where=HERE)


def test_seats_need_a_switch() -> None:
    with pytest.raises(InputError, match="no switch"):
        Topology(name="x").with_seats(1)


def test_an_unknown_topology_is_named_with_those_that_there_are() -> None:
    with pytest.raises(MissingError) as caught:
        topology.load("hal")
    assert "hall" in (caught.value.hint or "")


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere\.toml"):
        topology.load(str(tmp_path / "nowhere.toml"))


@given(st.text("abcdefghijklmnopqrstuvwxyz0123456789-", min_size=1, max_size=63), st.integers(0, 9))
def test_a_made_mac_is_stable_local_and_unicast(name: str, index: int) -> None:
    mac = mac_of(name, index)
    assert mac == mac_of(name, index)
    first = int(mac.split(":")[0], 16)
    assert first & 2
    assert not first & 1


def test_seats_are_called_as_halls_call_them() -> None:
    assert [seat_name(number) for number in (0, 11, 12)] == ["pas-r01p01", "pas-r01p12", "pas-r02p01"]


@given(st.integers(2, 12), st.data())
def test_a_tree_of_switches_is_accepted_and_one_trunk_more_is_not(count: int, data: st.DataObject) -> None:
    names = [f"s{number}" for number in range(count)]
    trunks = [(names[data.draw(st.integers(0, number - 1))], names[number]) for number in range(1, count)]
    tree = Topology(name="x", segments={name: Segment() for name in names}, trunks=trunks)
    assert check(tree) is tree
    left, right = data.draw(st.sampled_from([(a, b) for a in names for b in names if a < b]))
    with pytest.raises(InputError):
        check(Topology(name="x", segments=tree.segments, trunks=[*trunks, (left, right)]))


def test_every_card_of_a_node_has_its_own_address() -> None:
    nic = Nic(segment="s")
    wanted = Topology(name="x", segments={"s": Segment()}, nodes={"n": Node(role="gw", nics=[nic, nic])})
    assert check(wanted) is wanted
