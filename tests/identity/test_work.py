"""The running service: what udb says is in force soon, deletions too, whatever else goes wrong."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from services.common.errors import BacklineError, HostError
from services.common.feed.client import Batch, Follower, State
from services.common.feed.wire import Change, Item, Kind, Position, Snapshot
from services.common.metrics import Metrics
from services.identity.accounts import Own
from services.identity.app import make_app
from services.identity.folder import Folder
from services.identity.work import TOPIC, Worker
from tests.identity.people import person


class Machine:
    """A machine whose udb is this test; `state` is what its follower would hold."""

    def __init__(self, folder: Path) -> None:
        self.ended: list[int] = []
        self.own = Own()
        self.state = State()
        self.folder = Folder(folder / "identity")
        follower = Follower(f"unix:{folder}/nobody.sock")
        self.worker = Worker(self.folder, follower, own=lambda: self.own, end=self.ended.append)

    def snapshot(self, *people: dict[str, Any]) -> None:
        """What udb says first."""
        items = [Item(TOPIC, str(each["id"]), each) for each in people]
        position = Position("log", 1)
        changes = self.state.snapshot(Snapshot(1, items, last=True), position)
        self.worker.take(Batch(self.state.records, changes or [], position, first=True))

    def change(self, kind: Kind, number: int, record: dict[str, Any] | None) -> None:
        """What udb says next."""
        assert self.state.position is not None
        position = Position("log", self.state.position.revision + 1)
        told = self.state.change(Change(position.revision, TOPIC, str(number), kind, 0.0, record), position)
        assert told is not None
        self.worker.take(Batch(self.state.records, [told], position, first=False))

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not holds():
                await asyncio.sleep(0.01)

    def logins(self) -> list[str]:
        return [line.split(":")[0] for line in (self.folder.read() or {}).get("passwd", "").splitlines()]


@contextlib.asynccontextmanager
async def running(machine: Machine) -> AsyncIterator[None]:
    async with machine.worker.run(Metrics(service="identity", version="", role="", image="")):
        yield


def test_users_come_change_and_go_and_who_goes_is_logged_out(tmp_path: Path) -> None:
    async def story() -> None:
        machine = Machine(tmp_path)
        async with running(machine):
            machine.snapshot(person(1, "alice"), person(2, "bob"))
            await machine.until(lambda: machine.logins() == ["alice", "bob"])
            machine.change(Kind.CREATED, 3, person(3, "carol"))
            await machine.until(lambda: machine.logins() == ["alice", "bob", "carol"])
            assert machine.ended == []
            machine.change(Kind.DELETED, 2, None)
            await machine.until(lambda: machine.ended == [10_002])
            assert machine.logins() == ["alice", "carol"]
            assert machine.worker.status().state == "applied"
            await machine.worker.in_force()

    asyncio.run(story())


def test_who_was_deleted_while_the_service_was_away_is_logged_out_as_well(tmp_path: Path) -> None:
    async def story() -> None:
        before = Machine(tmp_path)
        async with running(before):
            before.snapshot(person(1, "alice"), person(2, "bob"))
            await before.until(lambda: before.logins() == ["alice", "bob"])
        after = Machine(tmp_path)
        assert after.logins() == ["alice", "bob"]  # in force before udb says a word
        async with running(after):
            after.snapshot(person(2, "bob"))
            await after.until(lambda: after.ended == [10_001])

    asyncio.run(story())


def test_a_disk_that_cannot_be_written_is_tried_again_and_said_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.identity.work.AGAIN", 0.05)

    async def story() -> None:
        machine = Machine(tmp_path)
        machine.folder.path.write_text("no folder")
        async with running(machine):
            machine.snapshot(person(1, "alice"))
            await machine.until(lambda: isinstance(machine.worker.problem, HostError))
            with pytest.raises(BacklineError, match="identity"):
                await machine.worker.in_force()
            assert machine.worker.status().state == "pending"
            machine.folder.path.unlink()
            await machine.until(lambda: machine.worker.status().problem is None)
            assert machine.logins() == ["alice"]

    asyncio.run(story())


def test_a_bug_in_one_turn_is_not_the_last_turn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.identity.work.AGAIN", 0.05)

    async def story() -> None:
        machine = Machine(tmp_path)
        own: Any = machine.own
        machine.own = None  # type: ignore[assignment]
        async with running(machine):
            machine.snapshot(person(1, "alice"))
            await machine.until(lambda: machine.worker.problem is not None and "bug" in machine.worker.problem.code)
            machine.own = own
            await machine.until(lambda: machine.logins() == ["alice"])

    asyncio.run(story())


def test_what_is_left_out_is_told(tmp_path: Path) -> None:
    async def story() -> None:
        machine = Machine(tmp_path)
        machine.own = Own(frozenset({"alice"}))
        async with running(machine):
            machine.snapshot(person(1, "alice"), person(2, "bob"))
            await machine.until(lambda: machine.worker.status().state == "applied")
            assert machine.logins() == ["bob"]
            status = machine.worker.status()
            assert [(each.user, each.login) for each in status.left_out] == [("1", "alice")]
            assert (status.users, status.left_out_total) == (1, 1)

    asyncio.run(story())


def test_the_application_tells_no_more_than_passwd_does(tmp_path: Path) -> None:
    app = make_app(Machine(tmp_path).worker)
    assert [operation.path for operation in app.operations if operation.path.startswith("/v1/")] == ["/v1/status"]
