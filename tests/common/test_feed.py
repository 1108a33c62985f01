"""Feeds: after every batch a subscriber's state is the owner's at that revision, whatever happens in between."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import socket
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy.orm import Session

from services.common.database import Database
from services.common.errors import IntegrityError, MissingError
from services.common.feed import client, server
from services.common.feed.client import Batch, Follower, State, follow_in_thread
from services.common.feed.wire import LINE_MAX, Change, Item, Kind, Parser, Position, encode
from services.common.problem import RemoteError
from tests.common.feed_rig import Owner, serving, subscribed
from tests.postgres import DATABASES


@pytest.fixture
def owner(database_url: str) -> Iterator[Owner]:
    with Database(database_url) as database:
        yield Owner(database)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "feed.sock"


def told(batch: Batch) -> list[tuple[str, Kind]]:
    return [(change.key, change.kind) for change in batch.changes]


# The whole way


def test_a_subscriber_gets_the_state_and_then_every_change(owner: Owner, path: Path) -> None:
    async def run() -> None:
        owner.put("a", "1")
        async with serving(owner, path), subscribed(path) as one:
            await one.reaches(1)
            owner.put("b", "1")
            owner.put("a", "2")
            await one.reaches(owner.remove("b"))
            assert one.batches[0].first
            assert one.states[0] == (1, {("things", "a"): {"value": "1", "note": ""}})
            changes = [change for batch in one.batches[1:] for change in told(batch)]
            assert changes == [("b", Kind.CREATED), ("a", Kind.UPDATED), ("b", Kind.DELETED)]
            assert one.follower.state.records == owner.state()

    asyncio.run(run())


def test_an_empty_feed_is_a_state_too(owner: Owner, path: Path) -> None:
    async def run() -> None:
        async with serving(owner, path), subscribed(path) as one:
            await one.reaches(0)
            assert (one.batches[0].first, dict(one.batches[0].state)) == (True, {})

    asyncio.run(run())


def test_deletions_while_nobody_was_connected_are_told(owner: Owner, path: Path) -> None:
    async def run() -> None:
        owner.put("a", "1")
        owner.put("b", "1")
        async with subscribed(path) as one:
            async with serving(owner, path):
                await one.reaches(2)
            owner.remove("a")
            async with serving(owner, path):
                await one.reaches(3)
            assert told(one.batches[-1]) == [("a", Kind.DELETED)]

    asyncio.run(run())


def test_who_missed_more_than_the_log_keeps_finds_the_deletions_itself(owner: Owner, path: Path) -> None:
    async def run() -> None:
        owner.put("a", "1")
        owner.put("b", "1")
        async with subscribed(path) as one:
            async with serving(owner, path):
                await one.reaches(2)
            owner.remove("a")
            revision = owner.put("c", "1")
            with owner.database.write() as session:
                session.execute(owner.outbox.changes.delete())
            async with serving(owner, path):
                await one.reaches(revision)
            assert sorted(told(one.batches[-1])) == [("a", Kind.DELETED), ("c", Kind.CREATED)]

    asyncio.run(run())


def test_a_restored_database_is_another_history(owner: Owner, path: Path) -> None:
    async def run() -> None:
        owner.put("a", "1")
        async with serving(owner, path), subscribed(path) as one:
            await one.reaches(1)
            with owner.database.write() as session:
                owner.outbox.begin_anew(session)
                session.execute(owner.things.delete())
            async with asyncio.timeout(20):
                while one.follower.state.records:
                    await asyncio.sleep(0.02)
            assert told(one.batches[-1]) == [("a", Kind.DELETED)]

    asyncio.run(run())


def test_a_subscriber_of_a_topic_hears_of_no_other(owner: Owner, path: Path) -> None:
    async def run() -> None:
        owner.put("x", "1", topic="others")
        async with serving(owner, path), subscribed(path, topics=["things"]) as one:
            await one.reaches(1)
            owner.put("y", "1", topic="others")
            await one.reaches(owner.put("a", "1"))
            assert set(one.follower.state.records) == {("things", "a")}

    asyncio.run(run())


def test_only_updates_of_the_fields_that_were_asked_for_are_told(owner: Owner, path: Path) -> None:
    async def run() -> None:
        owner.put("a", "1")
        async with serving(owner, path), subscribed(path, fields=["value"]) as one:
            await one.reaches(1)
            await one.reaches(owner.put("a", "1", note="seen by none"))
            await one.reaches(owner.put("a", "2"))
            assert [told(batch) for batch in one.batches[1:]] == [[("a", Kind.UPDATED)]]
            assert one.follower.state.records == owner.state()

    asyncio.run(run())


def test_an_unknown_topic_is_refused_and_not_asked_for_again(owner: Owner, path: Path) -> None:
    async def run() -> None:
        async with serving(owner, path), subscribed(path, topics=["thing"]) as one:
            with pytest.raises(RemoteError, match="no topic thing"):
                await one.reaches(0)

    asyncio.run(run())


def test_those_who_come_together_are_sent_one_snapshot_and_those_after_a_change_another(
    owner: Owner, path: Path
) -> None:
    async def run() -> None:
        for number in range(250):
            owner.put(f"key{number}", "1")
        async with serving(owner, path) as feed:
            reads = 0
            source = feed.source

            def counted(session: Session, topics: frozenset[str]) -> Iterable[Item]:
                nonlocal reads
                reads += 1
                return source(session, topics)

            feed.source = counted
            async with contextlib.AsyncExitStack() as stack:
                many = [await stack.enter_async_context(subscribed(path)) for _ in range(20)]
                for each in many:
                    await each.reaches(250)
                assert reads == 1
                revision = owner.put("more", "1")
                for each in many:
                    await each.reaches(revision)
                late = await stack.enter_async_context(subscribed(path))
                await late.reaches(revision)
                assert (reads, late.states[-1]) == (2, many[0].states[-1])

    asyncio.run(run())


def test_a_remembered_state_tells_what_changed_while_the_subscriber_was_down(
    owner: Owner, path: Path, tmp_path: Path
) -> None:
    async def run() -> None:
        memory = tmp_path / "state"
        owner.put("a", "1")
        async with serving(owner, path):
            async with subscribed(path, memory=memory) as one:
                await one.reaches(1)
                async with asyncio.timeout(20):
                    while not memory.exists():
                        await asyncio.sleep(0.01)
            owner.remove("a")
            revision = owner.put("b", "1")
            async with subscribed(path, memory=memory) as two:
                await two.reaches(revision)
                assert two.batches[0].first
                changes = [change for batch in two.batches for change in told(batch)]
                assert changes == [("a", Kind.DELETED), ("b", Kind.CREATED)]

    asyncio.run(run())


@pytest.mark.parametrize("database_url", DATABASES[1:], indirect=True)
def test_servers_over_one_database_see_each_others_changes(owner: Owner, path: Path) -> None:
    async def run() -> None:
        with Database(owner.database.url.render_as_string(hide_password=False)) as second:
            other = Owner.__new__(Owner)
            other.__dict__ |= owner.__dict__ | {"database": second}
            async with serving(other, path), subscribed(path) as one:
                await one.reaches(0)
                began = asyncio.get_running_loop().time()
                await one.reaches(owner.put("a", "1"))
                took = asyncio.get_running_loop().time() - began
                assert took < server._LOOK_SECONDS / 2, "it was told, it did not look"

    asyncio.run(run())


# Writers


def test_revisions_are_in_the_order_of_commits_and_without_gaps(owner: Owner, path: Path) -> None:
    async def run() -> None:
        async with serving(owner, path), subscribed(path) as one:
            await one.reaches(0)
            with ThreadPoolExecutor(4) as pool:
                jobs = [
                    asyncio.get_running_loop().run_in_executor(pool, owner.put, f"k{number % 7}", str(number))
                    for number in range(60)
                ]
                revisions = await asyncio.gather(*jobs)
            assert sorted(revisions) == list(range(1, 61))
            await one.reaches(60)
            for revision, state in one.states:
                assert state == owner.history[revision]

    asyncio.run(run())


OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.sampled_from("abc"), st.sampled_from("123")),
        st.tuples(st.just("remove"), st.sampled_from("abc"), st.just("")),
        st.tuples(st.sampled_from(["restart", "forget", "wait"]), st.just(""), st.just("")),
    ),
    max_size=25,
)


@given(OPERATIONS)
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_state_is_always_the_owners_at_its_revision(
    tmp_path_factory: pytest.TempPathFactory, operations: list[tuple[str, str, str]]
) -> None:
    """Random edits, restarts of the server, and a log that forgets."""
    folder = tmp_path_factory.mktemp("feed")

    async def run() -> None:
        with Database(f"sqlite:///{folder}/test.db") as database:
            owner = Owner(database)
            revision = 0
            async with subscribed(folder / "s") as one:
                rest = iter(operations)
                going = True
                while going:
                    async with serving(owner, folder / "s"):
                        going = False
                        for word, key, value in rest:
                            if word == "put":
                                revision = owner.put(key, value)
                            elif word == "remove":
                                revision = owner.remove(key)
                            elif word == "wait":
                                await one.reaches(revision)
                            elif word == "restart":
                                going = True
                                break
                            else:
                                with database.write() as session:
                                    session.execute(owner.outbox.changes.delete())
                        if not going:
                            await one.reaches(revision)
                for seen, state in one.states:
                    assert state == owner.history[seen]
                assert one.states[-1][1] == owner.state()

    monkey = pytest.MonkeyPatch()
    with monkey.context() as patch:
        patch.setattr(client, "_FIRST_WAIT", 0.01)
        asyncio.run(run())


# Trouble


@pytest.mark.parametrize("database_url", DATABASES[:1], indirect=True)
def test_a_subscriber_that_reads_nothing_is_cut_off_and_others_go_on(
    owner: Owner, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "SLOW_SECONDS", 0.5)
    monkeypatch.setattr(server, "RING_CHANGES", 100_000)

    async def run() -> None:
        async with serving(owner, path) as feed, subscribed(path) as one:
            await one.reaches(0)
            with socket.socket(socket.AF_UNIX) as slow:
                slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                slow.connect(str(path))
                slow.sendall(b"GET /v1/feed HTTP/1.1\r\nHost: x\r\n\r\n")
                async with asyncio.timeout(20):
                    while feed._subscribers < 2:
                        await asyncio.sleep(0.01)
                number = 0
                async with asyncio.timeout(40):
                    while feed._subscribers > 1:
                        number += 1
                        note = {"value": str(number), "note": "x" * 30}
                        await asyncio.to_thread(owner._do, [("things", f"k{i}", note) for i in range(100)])
                await one.reaches(number * 100)
                assert one.follower.state.records == owner.state()

    asyncio.run(run())


def test_a_stale_subscriber_says_so(path: Path) -> None:
    async def run() -> None:
        follower = Follower(f"unix:{path}")
        with pytest.raises(MissingError, match="nothing from"):
            await follower.fresh()

    asyncio.run(run())


def test_what_fails_in_a_thread_is_raised_where_it_was_started(owner: Owner, path: Path) -> None:
    async def run() -> None:
        async with serving(owner, path):
            await asyncio.to_thread(follow)

    def follow() -> None:
        def take(_: Batch) -> None:
            raise RuntimeError("cannot take it")

        with (
            pytest.raises(RuntimeError, match="cannot take it"),
            follow_in_thread(Follower(f"unix:{path}"), take) as thread,
        ):
            thread.join(20)

    asyncio.run(run())


# What travels


EVENTS = b"".join(
    encode("change", b'{"n":%d}' % number, position=Position("0" * 16, number)) + b":\n\n" for number in range(3)
)


@given(st.lists(st.integers(0, len(EVENTS)), max_size=6).map(sorted))
def test_events_come_whole_however_they_are_cut(cuts: list[int]) -> None:
    parser = Parser()
    ends = [0, *cuts, len(EVENTS)]
    found = [event for begin, end in itertools.pairwise(ends) for event in parser.feed(EVENTS[begin:end])]
    assert [(event.kind, event.data, event.id) for event in found] == [
        ("change", f'{{"n":{number}}}', f"{'0' * 16}-{number}") for number in range(3)
    ]


def test_a_line_without_end_is_refused() -> None:
    parser = Parser()
    with pytest.raises(IntegrityError):
        list(parser.feed(b"data: " + b"x" * LINE_MAX))


@pytest.mark.parametrize("text", ["", "7", "x-7", "0" * 16 + "-", "0" * 16 + "--7", None])
def test_what_is_no_position_is_none(text: str | None) -> None:
    assert Position.parse(text) is None


def test_a_change_before_its_snapshot_is_refused() -> None:
    with pytest.raises(IntegrityError, match="before its snapshot"):
        State().change(Change(1, "things", "a", Kind.CREATED, 0.0, {}), Position("0" * 16, 1))


def test_a_change_that_is_known_is_not_told_again() -> None:
    state = State({}, Position("0" * 16, 5))
    assert state.change(Change(5, "things", "a", Kind.CREATED, 0.0, {}), Position("0" * 16, 5)) is None
    assert state.records == {}
