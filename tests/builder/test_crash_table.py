"""A store whose writer dies at whichever step: versions are there as a whole or not at all, pointers name one of two.
The table is in docs/crash-table.md (`tests.crash_table`).
"""

from __future__ import annotations

import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from builder.store import Store
from tests.builder import stock
from tests.builder.dying import OPERATIONS
from tests.crash_table import compare, lines, rows
from tests.watched import Victims

pytestmark = pytest.mark.needs("root", "loop devices", "held system calls")


@pytest.fixture(scope="module")
def victims() -> Iterator[Victims]:
    with Victims("tests.builder.dying") as program:
        yield program


class Operation:
    """A `tests.crash_table.Case`: a version that is wanted is there, and another one comes, is marked, or goes."""

    asides = ("incoming",)

    def __init__(self, operation: str, folder: Path) -> None:
        self.operation = operation
        self.comes = operation in ("add", "build")
        self.staged = folder / "staged"
        self.old = stock.stage(folder / "old", recipe={"settings": {"number": "1"}})
        self.ref = stock.stage(self.staged, recipe={"settings": {"number": "2"}})
        self.folder = folder
        self.names: Mapping[str, str] = {self.ref.version: "NEW", self.old.version: "OLD"}

    def prepare(self, root: Path) -> None:
        store = Store(root)
        store.add(self.old.role, self.old.version, self.folder / "old")
        store.set_current(self.old)
        store.pin("keep", self.old)
        if not self.comes:
            store.add(self.ref.role, self.ref.version, self.staged)

    def begin(self) -> None:
        return None

    def arguments(self, root: Path) -> Mapping[str, object]:
        more = {"staged": str(self.staged), "role": self.ref.role, "version": self.ref.version}
        return {"root": str(root), **more}

    def look(self, root: Path) -> None:
        store = Store(root)
        listing = store.listing()
        assert listing.problems == []
        for stored in listing.versions:
            store.verify(stored.role, stored.version)
        assert self.old in store.refs()
        assert store.wanted.roots().unreadable == {}
        for marked in (store.current(self.old.role), store.wanted.pins()["keep"]):
            assert marked in store.refs()

    def leave(self) -> None:
        return None

    def remember(self) -> object:
        return None

    def restart(self, root: Path, elsewhere: object) -> str:
        assert elsewhere is None
        self.look(root)
        store = Store(root)
        there = self.ref in store.refs()
        if self.operation == "pin, make current":
            marks = (store.wanted.pins()["keep"] == self.ref, store.current("gw") == self.ref)
            said = {(False, False): "before", (True, False): "the pin after, the other before", (True, True): "after"}[
                marks
            ]
        else:
            said = "after" if there == self.comes else "before"
        OPERATIONS[self.operation](store, self.staged, self.ref)
        self.look(root)
        assert (self.ref in store.refs()) == (self.operation != "collect")
        assert list(store.aside.root.iterdir()) == [] or self.operation == "pin, make current"
        for ref in store.refs():
            assert stat.S_IMODE(store.path(ref.role, ref.version).stat().st_mode) in (0o555, 0o755)
        return said


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_store_whose_writer_dies_is_before_or_after(
    operation: str, victims: Victims, tmp_path: Path, memory: Path
) -> None:
    found = rows("builder", Operation(operation, tmp_path), victims, tmp_path, memory=memory)
    assert (found[0].killed, found[-1].killed) == ("before", "after")
    assert (found[0].cut, found[-1].cut) == ("before", "after"), "what was reported is on the disk"
    compare("builder", operation, lines(operation, found))
