"""What holds for every test: nothing stays mounted when the session is over; and databases for those that want one."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests import left
from tests.postgres import DATABASES, postgresql, postgresql_server, shop

__all__ = ["database_url", "postgresql", "postgresql_server", "shop"]

EMULATED = ("test_pxe.py", "test_netboot.py", "test_damaged_root.py", "test_power_cut.py")
"""Files whose machines run in QEMU: each takes a processor, so only one at a time."""

ONE_HALL = (
    *("test_hall.py", "test_edge.py", "test_names.py", "test_users.py", "test_waits.py", "test_schedule.py"),
    *("test_firewall.py", "test_strangers.py"),
)
"""Scenarios that share one lab (`e2e.pool`) when they come one after the other, those last that leave most in it."""


def mounts(session: pytest.Session) -> set[str]:
    """Where something of ours is mounted, in this process's namespace; another session's tests are not ours."""
    own: Path = session.config._tmp_path_factory.getbasetemp()  # type: ignore[attr-defined]
    paths = [Path(line.split()[1]) for line in Path("/proc/self/mounts").read_text().splitlines()]
    others = own.parent if own.parent.name.startswith("pytest-of-") else own
    return {
        str(path)
        for path in paths
        if path.is_relative_to(own) or ("backline" in str(path) and not path.is_relative_to(others))
    }


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What comes first: emulated machines, which take minutes, and with two workers all the rest goes on beside them.

    The first test that wants an image builds those that are missing, and others that want one wait for it: files that
    want none come before, on the other worker.
    """
    wanting = {item.path for item in items if _wants_images(item)}
    items.sort(key=lambda item: _turn(item.path, images=item.path in wanting))


def _wants_images(item: pytest.Item) -> bool:
    marked = any(item.get_closest_marker(name) for name in ("images", "lan"))
    return marked or not {"shop", "_images"}.isdisjoint(getattr(item, "fixturenames", ()))


def _turn(path: Path, *, images: bool) -> tuple[int, int]:
    if path.name in EMULATED:
        return 0, 0
    if not images:
        return 1, 0
    return (2, ONE_HALL.index(path.name)) if _in_one_hall(path) else (3, 0)


def _in_one_hall(path: Path) -> bool:
    return path.parent.name == "scenarios" and path.name in ONE_HALL


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Who runs what (`pytest -n 2`): tests of a file stay together, so do emulated machines, and those of one lab."""
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            file: str = super()._split_scope(nodeid)
            if Path(file).name in EMULATED:
                return "emulated"
            return "one hall" if _in_one_hall(Path(file)) else file

    return Scheduling(config, log)


def pytest_sessionstart(session: pytest.Session) -> None:
    """Before the first test."""
    left.before(session, "still mounted", partial(mounts, session))


def pytest_sessionfinish(session: pytest.Session) -> None:
    """After the last."""
    left.after(session, "still mounted", partial(mounts, session))


@pytest.fixture(params=DATABASES)
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database, of each kind that we run on."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/test.db"
    return str(request.getfixturevalue("postgresql"))


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory where there is one: SIGKILL does not need a disk, and a busy one makes each step slow."""
    shared = Path("/dev/shm")
    if not os.access(shared, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=shared, prefix="backline-crash-") as folder:
        yield Path(folder)
