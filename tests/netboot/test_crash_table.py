"""A pointer that is moved while netboot dies, at whichever step: machines get one of the two versions, and the restart
finds one of the two states. The table is in docs/crash-table.md (`tests.crash_table`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from netboot.decide import decide
from netboot.schema import Action, Channel
from netboot.store import Store
from tests.crash_table import compare, lines, rows
from tests.netboot.dying import OPERATIONS, open_store, prepare
from tests.netboot.rig import ONE, TWO
from tests.netboot.test_crash import same
from tests.watched import Victims

pytestmark = pytest.mark.needs("root", "loop devices", "held system calls")


@pytest.fixture(scope="module")
def victims() -> Iterator[Victims]:
    with Victims("tests.netboot.dying") as program:
        yield program


class Pointer:
    """A `tests.crash_table.Case`."""

    names: Mapping[str, str] = {}
    asides = ()

    def __init__(self, operation: str) -> None:
        self.operation = operation
        self.store: Store | None = None
        self.generation = 0

    def prepare(self, root: Path) -> None:
        prepare(root, self.operation)
        store = open_store(root)
        self.generation = store.channels()[0].generation
        self.held = store.pointers().holders
        store.database.close()

    def begin(self) -> None:
        self.leave()

    def arguments(self, root: Path) -> Mapping[str, object]:
        return {"root": str(root)}

    def look(self, root: Path) -> None:
        """Ask as two seats do, one of which tries what is on trial, and as an administrator does."""
        if self.store is None:
            self.store = open_store(root)
        whole(self.store, self.generation)

    def leave(self) -> None:
        if self.store is not None:
            self.store.database.close()
            self.store = None

    def remember(self) -> object:
        return None

    def restart(self, root: Path, elsewhere: object) -> str:
        assert elsewhere is None
        store = open_store(root)
        store.prepare()
        channel = whole(store, self.generation)
        assert channel.committed, "what was not committed is back after a restart"
        lines = [line for line in store.channel_history("stable").__reversed__() if line.generation > self.generation]
        own = [line for line in lines if line.action is not Action.RESTARTED]
        done = bool(own) or store.pointers().holders != self.held
        said = "after" if done else "before"
        if len(own) < len(lines):
            assert channel.current == ONE
            said += ", the trial taken back"
        elif done and self.operation in ("switch", "commit"):
            assert (channel.current, channel.previous) == (TWO, ONE)
        elif done and self.operation.startswith("rollback"):
            assert (channel.current, channel.previous) == (ONE, None)
        quarantined = [each.version for each in store.quarantines()]
        assert quarantined == ([TWO] if done and "quarantine" in self.operation else [])
        store.database.close()
        return said


def whole(store: Store, before: int) -> Channel:
    """What every reader finds: the pointer as the newest line of its history has it, and an answer for each seat."""
    with store.database.read() as session:
        pointers = store.current(session)
    channel = pointers.channels["stable"]
    newest, *_ = store.channel_history("stable")
    assert newest.generation in (channel.generation, channel.generation + 1), "two reads: one may be younger"
    assert before <= channel.generation <= before + 2
    if newest.generation == channel.generation:
        assert same(channel, newest)
    now = store.clock()
    for seat in (1, 2):
        machine = store.machines.by_id(seat)
        assert machine is not None
        answer = decide(machine, store.machines, pointers, now=now)
        if answer.version is None:
            assert 1 not in pointers.holders.get(TWO, ()), answer.detail
            continue
        assert answer.version.version in (ONE, TWO)
        assert answer.version.quarantined is None
        assert [each.rfs for each in answer.servers] == sorted(pointers.holders[answer.version.version])
    return channel


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_move_of_a_pointer_is_before_or_after(operation: str, victims: Victims, tmp_path: Path, memory: Path) -> None:
    found = rows("netboot", Pointer(operation), victims, tmp_path, memory=memory)
    assert found[0].killed.startswith("before")
    assert found[-1].killed.startswith("after"), "what was answered is there"
    assert found[-1].cut == found[-1].killed, "after a power cut too"
    compare("netboot", operation, lines(operation, found))
