"""What holds for every test: nothing stays mounted when the session is over; and databases for those that want one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.postgres import DATABASES, postgresql, postgresql_server, shop

__all__ = ["database_url", "postgresql", "postgresql_server", "shop"]


def mounts() -> set[str]:
    """Where something is mounted, in this process's namespace."""
    return {line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()}


@pytest.fixture(scope="session", autouse=True)
def _nothing_stays_mounted() -> Iterator[None]:
    before = mounts()
    yield
    left = {path for path in mounts() - before if "pytest" in path or "backline" in path}
    assert not left, f"still mounted: {', '.join(sorted(left))}"


@pytest.fixture(params=DATABASES)
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database, of each kind that we run on."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/test.db"
    return str(request.getfixturevalue("postgresql"))
