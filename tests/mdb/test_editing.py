"""What a form means, and how two people's changes go together."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.codec import convert, to_builtins
from services.mdb.pages import editing
from services.mdb.pages.editing import FieldsError
from services.mdb.schema import Machine, MachinePatch
from tests.mdb.test_listing import machine

MINE = editing.texts(machine(1, aliases=["a", "b"], notes="one\ntwo"))


def test_a_form_that_nobody_touched_changes_nothing() -> None:
    assert editing.patch(MINE, MINE) == MachinePatch()


def test_only_what_was_changed_becomes_a_patch() -> None:
    changed = {**MINE, "aliases": "a, b c", "rfs": "7", "faulty": "yes", "pinned": "v1", "ip": ""}
    expected = {"aliases": ["a", "b", "c"], "rfs": 7, "faulty": True, "pinned": "v1", "ip": None}
    assert to_builtins(editing.patch(changed, MINE)) == expected


def test_every_wrong_field_is_named() -> None:
    with pytest.raises(FieldsError) as caught:
        editing.patch({**MINE, "rfs": "many", "type": "toaster", "ip": "1.2.3"}, MINE)
    assert set(caught.value.errors) == {"rfs", "type", "ip"}


def test_a_new_machine_needs_a_name_and_a_mac() -> None:
    with pytest.raises(FieldsError) as caught:
        editing.new(editing.blank())
    assert set(caught.value.errors) == {"hostname", "mac"}
    made = editing.new({**editing.blank(), "hostname": "x", "mac": "525400000001"})
    assert (made.hostname, made.channel, made.ip) == ("x", "stable", None)


FIELDS = st.dictionaries(st.sampled_from(["room", "notes", "channel", "rfs"]), st.sampled_from(["1", "2", "3"]))


@given(FIELDS, FIELDS)
def test_a_merge_keeps_mine_and_takes_theirs_elsewhere(ours: dict[str, str], others: dict[str, str]) -> None:
    mine, theirs = {**MINE, **ours}, {**MINE, **others}
    merged = editing.merged(mine, MINE, theirs)
    for name in MINE:
        assert merged[name] == (mine[name] if mine[name] != MINE[name] else theirs[name])
    contested = editing.contested(mine, MINE, theirs)
    assert {one.field for one in contested} == {name for name in MINE if theirs[name] != MINE[name]}
    assert all(one.both == (one.mine not in (one.was, one.theirs)) for one in contested)


def test_differences_are_in_the_order_of_the_form() -> None:
    before = machine(1)
    after = msgspec.structs.replace(before, notes="x", hostname="y", faulty=not before.faulty)
    found = editing.differences(before, after)
    assert [one.field for one in found] == ["hostname", "faulty", "notes"]
    assert found[1].after in ("yes", "no")


def test_the_same_change_of_many_is_one_group() -> None:
    changes = [
        editing.Change(one, msgspec.structs.replace(one, room="b", ip=machine(100 + one.id).ip))
        for one in map(machine, range(1, 9))
    ]
    found = [(group.difference.field, group.count) for group in editing.groups(changes)]
    assert found == [("ip", 8), ("room", 4), ("room", 4)]


def test_every_field_of_a_machine_can_be_edited_or_is_kept_by_the_store() -> None:
    kept = {"id", "declared", "created", "updated", "revision"}
    assert set(editing.TITLES) | kept == set(Machine.__struct_fields__)
    assert set(editing.TITLES) == set(MachinePatch.__struct_fields__)
    convert({}, MachinePatch)
