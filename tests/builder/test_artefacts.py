"""A version's files on a disk that is too small for them: said at once, and nobody waits."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from builder import artefacts
from builder.place import Place, in_place
from builder.recipe import Recipe
from builder.sandbox import Environment
from services.common.errors import HostError

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: mounts")
RECIPE = Recipe("gw", {"format": {"recipe": "1", "role": "gw"}})


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Eight megabytes that cannot be compressed."""
    folder = tmp_path / "tree"
    folder.mkdir()
    for number in range(8):
        (folder / f"file{number}").write_bytes(os.urandom(1 << 20))
    return folder


@pytest.mark.parametrize("seat", [True, False])
def test_a_disk_that_fills_while_the_root_is_written_is_told_at_once(
    tools_tree: Path, tree: Path, tmp_path: Path, seat: bool
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    began = time.monotonic()
    with in_place(out, Place.MEMORY, size=2 << 20), pytest.raises(HostError) as caught:
        artefacts.make_erofs(tools_tree, tree, out, RECIPE, seat=seat, epoch=1, environment=Environment())
    assert caught.value.code == "store.full"
    assert time.monotonic() - began < 30


def test_a_disk_that_fills_while_the_hash_tree_is_written_is_told(tools_tree: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    with in_place(out, Place.MEMORY, size=(8 << 20) + (16 << 10)):
        (out / "root.erofs").write_bytes(os.urandom(8 << 20))
        with pytest.raises(HostError) as caught:
            artefacts.make_verity(tools_tree, out, RECIPE, epoch=1, environment=Environment())
    assert caught.value.code == "store.full"
