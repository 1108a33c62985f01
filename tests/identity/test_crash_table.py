"""An identity service that dies at whichever step of bringing users into force: whoever looks somebody up finds the old
users or the new ones, all along and after a power cut. The table is in docs/crash-table.md (`tests.crash_table`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from services.identity.accounts import FILES
from tests.crash_table import compare, lines, rows
from tests.identity.dying import NEW, OLD, OPERATION, open_folder
from tests.watched import Victims

pytestmark = pytest.mark.needs("root", "loop devices", "held system calls")


@pytest.fixture(scope="module")
def victims() -> Iterator[Victims]:
    with Victims("tests.identity.dying") as program:
        yield program


class Operation:
    """A `tests.crash_table.Case`: twenty users are there, and thirty come."""

    operation = OPERATION
    names: Mapping[str, str] = {}
    asides = ("identity/generations/.new",)

    def prepare(self, root: Path) -> None:
        root.mkdir()
        for users in (NEW, OLD):  # a set to remove is there, too
            open_folder(root).put(users)

    def begin(self) -> None:
        """Nothing lies elsewhere."""

    def arguments(self, root: Path) -> Mapping[str, object]:
        return {"root": str(root)}

    def look(self, root: Path) -> None:
        self._whole(root)

    def leave(self) -> None:
        """Nothing is kept open."""

    def remember(self) -> object:
        return None

    def _whole(self, root: Path) -> bool:
        """Whether the new users are in force; the old ones are otherwise."""
        found = {name: (root / "identity/current" / name).read_text() for name in FILES}
        assert found in (OLD, NEW), "files of two sets, or half of one"
        return found == NEW

    def restart(self, root: Path, elsewhere: object) -> str:
        del elsewhere
        done = self._whole(root)
        folder = open_folder(root)
        assert folder.put(NEW) != done
        assert folder.read() == NEW
        folder.put(OLD)
        assert sorted(path.name for path in folder.path.iterdir()) == ["current", "generations"]
        assert len(list(folder.sets.iterdir())) == 2
        return "after" if done else "before"


def test_a_service_that_dies_has_the_old_users_or_the_new_ones(victims: Victims, tmp_path: Path, memory: Path) -> None:
    case = Operation()
    found = rows("identity", case, victims, tmp_path, memory=memory)
    assert (found[0].killed, found[-1].killed) == ("before", "after")
    assert (found[0].cut, found[-1].cut) == ("before", "after"), "what was answered is there after a power cut"
    compare("identity", case.operation, lines(case.operation, found))
