"""What holds for every test: nothing stays mounted when the session is over."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest


def mounts() -> set[str]:
    """Where something is mounted, in this process's namespace."""
    return {line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()}


@pytest.fixture(scope="session", autouse=True)
def _nothing_stays_mounted() -> Iterator[None]:
    before = mounts()
    yield
    left = {path for path in mounts() - before if "pytest" in path or "backline" in path}
    assert not left, f"still mounted: {', '.join(sorted(left))}"
