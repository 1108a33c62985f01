"""The contest's switch: what it says, who may turn it, what of it is kept, and what the command shows."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.common.changes import Action, Actor
from services.common.errors import HostError
from services.common.users import UserGroup
from services.firewall.switch import KEPT, Switch

ME = Actor("olga", "192.168.1.7")
USER, ORGA, ROOT = UserGroup.USER, UserGroup.ORGA, UserGroup.ROOT


def switch(folder: Path, *default: UserGroup) -> Switch:
    made = Switch(folder, default, clock=lambda: 5.0)
    made.read()
    return made


def test_hall_toml_counts_until_somebody_decides_and_again_when_that_is_over(tmp_path: Path) -> None:
    one = switch(tmp_path, USER, ORGA)
    assert one.groups == {USER, ORGA}
    assert one.put(USER, False, ME)
    assert one.put(ROOT, True, ME)
    assert one.groups == switch(tmp_path).groups | {ORGA} == {ORGA, ROOT}
    assert one.put(USER, None, ME)
    assert one.groups == {USER, ORGA, ROOT}
    assert [(each.key, each.action) for each in one.kept.entries] == [
        ("user", Action.DELETED), ("root", Action.CREATED), ("user", Action.CREATED)
    ]  # fmt: skip


def test_a_decision_that_changes_nothing_is_none(tmp_path: Path) -> None:
    one = switch(tmp_path, USER)
    assert not one.put(USER, None, ME)
    assert one.put(USER, True, ME)  # hall.toml may say otherwise tomorrow
    assert not one.put(USER, True, ME)
    assert len(one.kept.entries) == 1


def test_the_history_says_who_when_and_from_where_and_does_not_grow_for_ever(tmp_path: Path) -> None:
    one = switch(tmp_path, USER)
    for number in range(3):
        one.put(USER, number % 2 == 0, ME)
    (last, *_) = switch(tmp_path).kept.entries
    assert (last.id, last.at, last.actor, last.origin) == (3, 5.0, "olga", "192.168.1.7")
    assert (last.before, last.after) == ({"allowed": False}, {"allowed": True})
    one.kept = type(one.kept)(entries=[last] * KEPT)
    one.put(USER, True, ME)
    assert len(one.kept.entries) == KEPT


def test_a_file_that_cannot_be_read_keeps_all_in_until_somebody_decides(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "switch.json").write_text("{")
    one = switch(tmp_path, USER, ORGA, ROOT)
    assert one.groups == frozenset()
    assert "no group gets out" in caplog.text
    one.put(ORGA, True, ME)
    assert switch(tmp_path, USER, ORGA, ROOT).groups == {ORGA}


def test_what_cannot_be_written_does_not_count(tmp_path: Path) -> None:
    one = switch(tmp_path, USER)
    (tmp_path / "switch.json").mkdir()
    with pytest.raises(HostError):
        one.put(USER, False, ME)
    assert one.groups == {USER}
    assert one.kept.entries == []
