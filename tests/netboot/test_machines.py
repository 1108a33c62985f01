"""What netboot knows of mdb follows the feed, whatever order changes come in."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from netboot.machines import Machines
from services.common.feed.client import Changed
from services.common.feed.wire import Kind


def record(id: int, mac: str, name: str, **more: object) -> dict[str, Any]:
    return {"id": id, "mac": mac, "hostname": name, "ip": f"192.168.0.{id}", "aliases": [], **more}


def change(id: int, after: dict[str, Any] | None, topic: str = "machines") -> Changed:
    return Changed(topic, str(id), Kind.UPDATED if after else Kind.DELETED, None, after)


def test_two_machines_swap_everything() -> None:
    found = Machines()
    found.take({("machines", "1"): record(1, "a", "one"), ("machines", "2"): record(2, "b", "two")})
    found.follow([change(1, record(1, "b", "two")), change(2, record(2, "a", "one"))])
    assert [getattr(found.by_mac(mac), "id", None) for mac in "ab"] == [2, 1]
    assert [getattr(found.by_name(name), "id", None) for name in ("one", "two")] == [2, 1]


def test_one_record_that_cannot_be_read_leaves_the_others() -> None:
    found = Machines()
    found.take({("machines", "1"): {"id": "x"}, ("machines", "2"): record(2, "b", "two")})
    assert (len(found), found.unreadable) == (1, {("machines", "1")})
    found.follow([change(1, record(1, "a", "one"))])
    assert (len(found), found.unreadable) == (2, set())


def test_a_machine_without_a_mac_is_found_by_name_alone() -> None:
    found = Machines()
    found.take({("machines", "1"): record(1, None, "gw", aliases=["rfs1"])})  # type: ignore[arg-type]
    assert getattr(found.by_name("rfs1"), "id", None) == 1
    assert found.by_name("rfs10") is None


def test_topics_of_mdb_that_do_not_concern_us_are_passed_over() -> None:
    found = Machines()
    switch = {"id": 1, "name": "sw", "chassis": "aa:bb:cc:00:00:01", "room": "alt", "rfs": 1, "hfs": 1}
    found.take({("switches", "1"): switch, ("settings", "1"): {"value": True}})
    found.follow([change(1, {"value": False}, topic="settings")])
    assert [each.name for each in found.switches] == ["sw"]
    found.follow([change(1, None, topic="switches")])
    assert found.switches == []


edits = st.tuples(
    st.integers(1, 4),
    st.none() | st.tuples(st.sampled_from("abcd"), st.sampled_from(["p", "q", "r"]), st.sampled_from(["s", "t"])),
)


@given(st.lists(edits))
def test_after_any_changes_it_knows_what_a_snapshot_would_say(given_: list[tuple[int, Any]]) -> None:
    found = Machines()
    state: dict[tuple[str, str], dict[str, Any]] = {}
    for id, fields in given_:
        after = None if fields is None else record(id, fields[0], fields[1], aliases=[fields[2]])
        found.follow([change(id, after)])
        if after is None:
            state.pop(("machines", str(id)), None)
        else:
            state[("machines", str(id))] = after
    fresh = Machines()
    fresh.take(state)
    assert sorted(each.id for each in found) == sorted(each.id for each in fresh)
    for mac in "abcd":  # where several claim one, either may be found; where one does, it is
        owners = [record["id"] for record in state.values() if record["mac"] == mac]
        if len(owners) == 1 and len({key for key, _ in given_}) == 1:
            assert getattr(found.by_mac(mac), "id", None) == owners[0]
        if not owners:
            assert found.by_mac(mac) is None
