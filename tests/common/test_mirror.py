"""A mirror of one topic: structs by key and by another name, current while it runs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from services.common.database import Database
from services.common.errors import MissingError
from services.common.feed.client import Follower
from services.common.feed.mirror import Mirror, Told
from tests.common.feed_rig import Owner, serving


class Thing(msgspec.Struct, frozen=True):
    """What of a record is of interest."""

    value: str


def mirror(address: str = "unix:/nowhere", **how: object) -> Mirror[Thing]:
    return Mirror(Follower(address, **how), "things", Thing, by=lambda thing: thing.value)  # type: ignore[arg-type]


def state(**values: object) -> dict[tuple[str, str], dict[str, object]]:
    return {("things", key): {"value": value, "note": "x"} for key, value in values.items()}


def test_a_record_is_found_by_its_key_and_by_its_other_name() -> None:
    made = mirror()
    assert (made.ready, len(made)) == (False, 0)
    told = made.take(state(a="1", b="2"))
    assert sorted(told, key=lambda each: each.key) == [Told("a", None, Thing("1")), Told("b", None, Thing("2"))]
    assert (made.get("a"), made.find("2"), made.find("a"), made.ready) == (Thing("1"), Thing("2"), None, True)


def test_only_what_differs_is_told_and_what_is_gone_is_gone() -> None:
    made = mirror()
    made.take(state(a="1", b="2", c="3"))
    told = made.take(state(a="1", b="4"))
    assert sorted(told, key=lambda each: each.key) == [Told("b", Thing("2"), Thing("4")), Told("c", Thing("3"), None)]
    assert [made.find(name) for name in "234"] == [None, None, Thing("4")]
    assert list(made) == [Thing("1"), Thing("4")]


def test_names_that_swap_in_one_batch_stay_with_their_new_owners() -> None:
    made = mirror()
    made.take(state(a="1", b="2"))
    made.take(state(a="2", b="1"))
    assert (made.get("a"), made.get("b")) == (made.find("2"), made.find("1"))


def test_a_record_that_cannot_be_read_is_left_out_until_it_can(caplog: pytest.LogCaptureFixture) -> None:
    made = mirror()
    made.take(state(a="1", b=2))
    assert (made.get("b"), list(made.unreadable), "record b of things" in caplog.text) == (None, ["b"], True)
    made.take(state(a="1", b="2"))
    assert (made.get("b"), made.unreadable) == (Thing("2"), {})


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not true():
            await asyncio.sleep(0.01)


def test_it_follows_its_owner_and_tells_of_the_first_batch_in_any_case(tmp_path: Path) -> None:
    async def run(owner: Owner) -> None:
        heard: list[list[Told[Thing]]] = []

        async def changed(told: list[Told[Thing]]) -> None:
            heard.append(told)

        path = tmp_path / "feed.sock"
        made = mirror(f"unix:{path}", memory=tmp_path / "memory.json")
        with pytest.raises(MissingError):
            await made.fresh()
        async with serving(owner, path):
            made.changed = changed
            task = asyncio.create_task(made.follower.follow(made.hear))
            await until(lambda: heard == [[]])
            await made.fresh()
            owner.put("a", "1")
            owner.put("a", "9", topic="others")
            owner.put("b", "2")
            owner.remove("a")
            await until(lambda: made.find("2") is not None and made.get("a") is None)
            assert [each.key for told in heard for each in told] == ["a", "b", "a"]
            await until(lambda: (tmp_path / "memory.json").exists() and '"b"' in (tmp_path / "memory.json").read_text())
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        again = mirror(f"unix:{path}", memory=tmp_path / "memory.json")
        again.recall()
        assert (again.get("b"), again.ready, again.heard) == (Thing("2"), True, False)
        with pytest.raises(MissingError):
            await again.fresh()

    with Database(f"sqlite:///{tmp_path}/owner.db") as database:
        asyncio.run(run(Owner(database)))
