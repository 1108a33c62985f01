"""A depot, a signer and a root file server's folder for each test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.roots import rig


@pytest.fixture
def hall(tmp_path: Path) -> Iterator[rig.Hall]:
    with rig.hall(tmp_path) as made:
        yield made
