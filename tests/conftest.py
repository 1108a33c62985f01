"""What holds for every test: nothing stays mounted when the session is over; and databases for those that want one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import left
from tests.postgres import DATABASES, postgresql, postgresql_server, shop

__all__ = ["database_url", "postgresql", "postgresql_server", "shop"]


def mounts() -> set[str]:
    """Where something of ours is mounted, in this process's namespace."""
    paths = {line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()}
    return {path for path in paths if "pytest" in path or "backline" in path}


@pytest.hookimpl(tryfirst=True)  # before xdist reads the marks
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """For two at a time (`-n 2 --dist loadgroup`): a file's tests stay together, and so do the emulated machines.

    Each of those takes a processor for minutes: they come first, one after the other, and all the rest goes on beside.
    """
    emulated = {item.path for item in items for marker in item.iter_markers("needs") if "QEMU" in marker.args}
    items.sort(key=lambda item: item.path not in emulated)
    if config.pluginmanager.has_plugin("xdist"):
        for item in items:
            group = "emulated" if item.path in emulated else item.nodeid.split("::")[0]
            item.add_marker(pytest.mark.xdist_group(group))


def pytest_sessionstart(session: pytest.Session) -> None:
    """Before the first test."""
    left.before(session, "still mounted", mounts)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """After the last."""
    left.after(session, "still mounted", mounts)


@pytest.fixture(params=DATABASES)
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database, of each kind that we run on."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/test.db"
    return str(request.getfixturevalue("postgresql"))
