"""The memory that a check builds in is nobody else's, and gone afterwards."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from builder.image import in_memory

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")


def namespace() -> str:
    return str(Path("/proc/thread-self/ns/mnt").readlink())


def test_what_is_written_in_memory_is_gone_afterwards(tmp_path: Path) -> None:
    with in_memory(tmp_path):
        (tmp_path / "file").write_text("x")
    assert list(tmp_path.iterdir()) == []


def test_the_way_back_leads_to_the_old_namespace_and_folder(tmp_path: Path) -> None:
    before = namespace(), Path.cwd()
    with in_memory(tmp_path):
        assert namespace() != before[0]
    assert (namespace(), Path.cwd()) == before


def test_a_failure_inside_leads_back_too(tmp_path: Path) -> None:
    before = namespace()
    with pytest.raises(RuntimeError), in_memory(tmp_path):
        raise RuntimeError
    assert namespace() == before
