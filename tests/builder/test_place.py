"""The memory that a build works in is nobody else's, and gone afterwards."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from builder.place import Place, in_place
from services.common.process import run

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root"),
    pytest.mark.parametrize("place", [Place.MEMORY, Place.EXT4]),
]
SIZE = 64 << 20


def namespace() -> str:
    return str(Path("/proc/thread-self/ns/mnt").readlink())


def test_what_is_written_in_memory_is_gone_afterwards(tmp_path: Path, place: Place) -> None:
    with in_place(tmp_path, place, size=SIZE):
        (tmp_path / "file").write_text("x")
    assert list(tmp_path.iterdir()) == []


def test_the_way_back_leads_to_the_old_namespace_and_folder(tmp_path: Path, place: Place) -> None:
    before = namespace(), Path.cwd()
    with in_place(tmp_path, place, size=SIZE):
        assert namespace() != before[0]
    assert (namespace(), Path.cwd()) == before


def test_a_failure_inside_leads_back_too(tmp_path: Path, place: Place) -> None:
    before = namespace()
    with pytest.raises(RuntimeError), in_place(tmp_path, place, size=SIZE):
        raise RuntimeError
    assert namespace() == before


def test_it_is_the_file_system_that_was_asked_for(tmp_path: Path, place: Place) -> None:
    with in_place(tmp_path, place, size=SIZE):
        mounted = [line.split() for line in Path("/proc/thread-self/mounts").read_text().splitlines()]
        kinds = [words[2] for words in mounted if words[1] == str(tmp_path)]
    assert kinds[-1] == {Place.MEMORY: "tmpfs", Place.EXT4: "ext4"}[place]


def test_no_loop_device_is_left(tmp_path: Path, place: Place) -> None:
    before = run(["losetup", "--all", "--noheadings"]).stdout
    with in_place(tmp_path, place, size=SIZE):
        pass
    assert run(["losetup", "--all", "--noheadings"]).stdout == before
