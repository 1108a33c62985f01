"""Sessions on disk and their feed, on SQLite and on PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from services.common.database import Database
from services.common.feed.wire import Kind
from services.presence.models import outbox
from services.presence.rules import Change, Row
from services.presence.store import TOPICS, Store

ALICE = Row("alice", 1, "p1", "a" * 32, 1000.0)
BOB = Row("bob", 2, "p2", "b" * 32, 1001.0)


@pytest.fixture
def store(database_url: str) -> Iterator[Store]:
    with Database(database_url) as database:
        made = Store(database)
        assert made.prepare() == []
        yield made


def told(store: Store, after: int = 0) -> list[tuple[str, Kind, str | None]]:
    """What the feed says after a revision: whose session, what happened, and where it is."""
    with store.database.read() as session:
        changes = outbox.after(session, after, limit=100)
    assert changes is not None
    return [(each.key, each.kind, (each.record or {}).get("hostname")) for each in changes]


def snapshot(store: Store) -> list[dict[str, object]]:
    with store.database.read() as session:
        return [dict(item.record) for item in store.source(session, TOPICS)]


def test_what_was_kept_is_there_for_the_next_process(store: Store) -> None:
    store.save([Change(None, ALICE), Change(None, BOB)])
    store.save([Change(ALICE, seen := replace(ALICE, seen=True)), Change(BOB, asleep := replace(BOB, live=False))])
    again = Store(store.database)
    assert sorted(again.prepare(), key=lambda row: row.login) == [seen, asleep]
    assert (store.new, again.new) == (True, False)


def test_the_feed_tells_what_others_see_and_nothing_else(store: Store) -> None:
    store.save([Change(None, ALICE)])
    store.save([Change(ALICE, seen := replace(ALICE, seen=True))])
    store.save([Change(seen, asleep := replace(seen, live=False))])
    store.save([Change(asleep, moved := replace(asleep, live=True, machine=2, hostname="p2"))])
    store.save([Change(moved, renamed := replace(moved, hostname="window"))])
    assert told(store) == [
        ("alice", Kind.CREATED, "p1"),
        ("alice", Kind.DELETED, None),
        ("alice", Kind.CREATED, "p2"),
        ("alice", Kind.UPDATED, "window"),
    ]
    assert snapshot(store) == [{"login": "alice", "machine": 2, "hostname": "window", "since": 1000.0}]
    store.save([Change(renamed, None)])
    assert snapshot(store) == []


def test_a_machine_passes_to_another_user_in_one_transaction(store: Store) -> None:
    store.save([Change(None, ALICE)])
    store.save([Change(ALICE, None), Change(None, replace(BOB, machine=1, hostname="p1"))])
    assert told(store, 1) == [("alice", Kind.DELETED, None), ("bob", Kind.CREATED, "p1")]
    assert [row.login for row in store.load()] == ["bob"]


def test_two_users_change_machines_in_one_batch(store: Store) -> None:
    store.save([Change(None, ALICE), Change(None, BOB)])
    swapped = [
        Change(ALICE, None),
        Change(BOB, None),
        Change(None, replace(ALICE, machine=2, hostname="p2")),
        Change(None, replace(BOB, machine=1, hostname="p1")),
    ]
    store.save(swapped)
    assert told(store, 2) == [("alice", Kind.UPDATED, "p2"), ("bob", Kind.UPDATED, "p1")]
    assert {row.login: row.machine for row in store.load()} == {"alice": 2, "bob": 1}


def test_what_comes_and_goes_in_one_batch_is_not_told(store: Store) -> None:
    store.save([Change(None, ALICE), Change(ALICE, None)])
    assert told(store) == []
    assert store.load() == []
