"""Switches and settings, on both databases: rules, history, and what the feed is told."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from services.common.codec import convert
from services.common.database import Database
from services.common.errors import BacklineError
from services.common.feed.wire import Kind
from services.mdb.models import SettingRow, outbox
from services.mdb.schema import Action, Actor, NewSwitch, Scalar, SwitchPatch
from services.mdb.store import TOPICS, Store
from tests.mdb.conftest import BOUNDS

ME = Actor("alice", "192.168.1.7")
SWITCH = NewSwitch(name="pas-r01", chassis="00-1B-21-00-00-01", room="pasteur", rfs=1, hfs=2)


def refused(call: Callable[[], object]) -> BacklineError:
    with pytest.raises(BacklineError) as caught:
        call()
    return caught.value


def feed(store: Store) -> list[tuple[str, str, Kind]]:
    with store.database.read() as session:
        return [(change.topic, change.key, change.kind) for change in outbox.after(session, 0, limit=50) or []]


def test_a_switch_is_made_changed_and_removed(store: Store) -> None:
    made = store.create_switch(ME, SWITCH)
    assert (made.chassis, made.room, made.rfs, made.hfs) == ("00:1b:21:00:00:01", "pasteur", 1, 2)
    changed = store.update_switch(ME, made.id, SwitchPatch(rfs=3))
    assert store.switches() == [changed]
    assert store.switch(made.id).rfs == 3
    store.delete_switch(ME, made.id)
    assert store.switches() == []
    assert [entry.action for entry in store.audit(topic="switches")] == [
        Action.DELETED,
        Action.UPDATED,
        Action.CREATED,
    ]
    key = str(made.id)
    assert feed(store)[-3:] == [("switches", key, kind) for kind in (Kind.CREATED, Kind.UPDATED, Kind.DELETED)]


def test_a_change_that_changes_nothing_is_none(store: Store) -> None:
    made = store.create_switch(ME, SWITCH)
    assert store.update_switch(ME, made.id, SwitchPatch(name="pas-r01", chassis="001b21000001")) == made
    assert len(store.audit(topic="switches")) == 1


@pytest.mark.parametrize(
    ("more", "code"),
    [
        ({"name": "pas-r01"}, "conflict.name"),
        ({"chassis": "001B.2100.0001"}, "conflict.chassis"),
        ({"name": "pas_r02"}, "switch.name"),
        ({"chassis": "GigabitEthernet1/0/1"}, "switch.chassis"),
        ({"room": "Salle 1"}, "switch.room"),
    ],
    ids=str,
)
def test_what_a_switch_cannot_be_is_refused(store: Store, more: dict[str, str], code: str) -> None:
    first = store.create_switch(ME, SWITCH)
    values = {"name": "pas-r02", "chassis": "001b21000002", **more}
    patch = convert(more, SwitchPatch)
    assert refused(lambda: store.create_switch(ME, convert(values, NewSwitch))).code == code
    other = store.create_switch(ME, NewSwitch(name="alt-r01", chassis="001b21000003"))
    assert refused(lambda: store.update_switch(ME, other.id, patch)).code == code
    assert {switch.name for switch in store.switches()} == {first.name, other.name}


def test_a_switch_that_was_changed_meanwhile_is_not_overwritten(store: Store) -> None:
    made = store.create_switch(ME, SWITCH)
    store.update_switch(ME, made.id, SwitchPatch(rfs=3))
    for call in (
        lambda: store.update_switch(ME, made.id, SwitchPatch(rfs=4), match=made.revision),
        lambda: store.delete_switch(ME, made.id, match=made.revision),
    ):
        assert refused(call).code == "conflict.changed"


def test_a_switch_that_is_not_there_is_named(store: Store) -> None:
    assert refused(lambda: store.update_switch(ME, 7, SwitchPatch(rfs=1))).code == "switch.unknown"


# Settings


def test_nobody_registers_by_himself_unless_somebody_says_so(store: Store) -> None:
    (setting,) = store.settings()
    assert (setting.key, setting.value, setting.default) == ("allow_self_registration", False, False)
    assert setting.type == "true or false"
    assert ("settings", "allow_self_registration", Kind.CREATED) in feed(store)


def test_a_setting_has_a_history(store: Store) -> None:
    store.set(ME, "allow_self_registration", True)
    assert store.set(ME, "allow_self_registration", True).value is True
    store.set(Actor("bob", "local"), "allow_self_registration", False)
    last, first = store.audit(topic="settings", key="allow_self_registration")
    assert (first.actor, first.before, first.after) == ("alice", {"value": False}, {"value": True})
    assert (last.actor, last.after) == ("bob", {"value": False})


@pytest.mark.parametrize("value", ["yes", 1, 0.5, "true"])
def test_a_setting_has_a_type(store: Store, value: Scalar) -> None:
    error = refused(lambda: store.set(ME, "allow_self_registration", value))
    assert (error.code, "allow_self_registration" in error.message) == ("setting.value", True)


def test_a_setting_that_nobody_knows_is_named_with_those_that_are_near(store: Store) -> None:
    error = refused(lambda: store.set(ME, "allow_self_registrations", value=True))
    assert (error.code, error.hint) == ("setting.unknown", "did you mean allow_self_registration?")


def test_a_second_start_keeps_what_is_set_and_forgets_what_is_no_setting(database: Database, store: Store) -> None:
    store.set(ME, "allow_self_registration", True)
    with database.write() as session:
        session.add(SettingRow(key="old", value="1", updated=0.0))
    again = Store(database, BOUNDS)
    again.prepare()
    assert [(setting.key, setting.value) for setting in again.settings()] == [("allow_self_registration", True)]
    assert feed(again)[-1] == ("settings", "old", Kind.DELETED)


def test_the_snapshot_of_the_feed_has_every_kind_of_record(store: Store) -> None:
    made = store.create_switch(ME, SWITCH)
    with store.database.read() as session:
        found = {(item.topic, item.key): item.record for item in store.source(session, TOPICS)}
    assert found["switches", str(made.id)] == {
        "id": made.id,
        "name": "pas-r01",
        "chassis": "00:1b:21:00:00:01",
        "room": "pasteur",
        "rfs": 1,
        "hfs": 2,
        "revision": made.revision,
    }
    assert found["settings", "allow_self_registration"] == {"key": "allow_self_registration", "value": False}
