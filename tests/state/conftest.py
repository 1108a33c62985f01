"""Two gws with everything in them, made once: `old`, whose state is saved, and `new`, which it is restored on."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.state import rig


@pytest.fixture(scope="session")
def molds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {name: rig.gw(tmp_path_factory.mktemp("molds") / name, name) for name in ("old", "new")}


@pytest.fixture
def old(molds: dict[str, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(molds["old"], tmp_path / "old", symlinks=True))


@pytest.fixture
def new(molds: dict[str, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(molds["new"], tmp_path / "new", symlinks=True))


@pytest.fixture
def archive(old: Path) -> Path:
    """A sealed archive of `old`."""
    return rig.settings(old).folder / rig.saved(old).name
