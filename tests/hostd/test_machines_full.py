"""A disk that is full: an upgrade is refused before anything stops, and a machine that filled it can be taken back."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.common.errors import HostError
from services.common.process import run
from tests.hostd.machines_rig import FAILING, NAME, NEW, OLD, ROLE, Rig

pytestmark = [pytest.mark.images, pytest.mark.needs("root")]
MEGABYTE = 1 << 20


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "disk"
    place.mkdir()
    run(["mount", "-t", "tmpfs", "-o", "size=40m", "tmpfs", place])
    try:
        yield place
    finally:
        run(["umount", place])


@pytest.fixture
def rig(disk: Path, tmp_path: Path) -> Rig:
    made = Rig(tmp_path, disk=disk)
    made.furnish()
    made.machines.create(NAME, ROLE, version=OLD)
    made.machines.settle(NAME)
    return made


def fill(folder: Path) -> None:
    """Write until nothing goes in any more."""
    with (folder / "filler").open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(4096)):
            pass
    assert shutil.disk_usage(folder).free == 0


def test_an_upgrade_without_room_is_refused_and_the_machine_runs_on(rig: Rig) -> None:
    var = rig.machines.records.home(NAME) / rig.record().current.var
    (var / "big").write_bytes(bytes(20 * MEGABYTE))
    with pytest.raises(HostError, match=r"it needs 20 MB, and 1\d MB are free") as refused:
        rig.machines.plan_upgrade(NAME, NEW)
    assert "machine forget" in (refused.value.hint or "")
    assert rig.record().change is None
    assert rig.iron.world.runs[NAME].version == OLD
    (var / "big").unlink()
    rig.machines.plan_upgrade(NAME, NEW, gate_seconds=10, settle_seconds=1)
    rig.machines.settle(NAME)
    assert rig.iron.world.runs[NAME].version == NEW


def test_a_new_version_that_fills_the_disk_is_taken_back(rig: Rig, disk: Path) -> None:
    rig.machines.plan_upgrade(NAME, FAILING, gate_seconds=10, settle_seconds=1)

    def step(name: str) -> None:
        if name == "start: done":
            fill(disk)

    rig.machines.step = step
    rig.machines.settle(NAME)
    record = rig.record()
    assert record.change is None
    assert rig.iron.world.runs[NAME].version == OLD
    assert not (disk / ".reserve").exists(), "its room was needed"
    (disk / "filler").unlink()
    rig.machines.settle(NAME)
    assert (disk / ".reserve").stat().st_blocks * 512 >= MEGABYTE


def test_a_record_that_has_no_room_at_all_says_what_to_do_and_stays(rig: Rig, disk: Path) -> None:
    before = rig.record()
    (disk / ".reserve").unlink()
    fill(disk)
    with pytest.raises(HostError, match="no space left on the disk") as refused:
        rig.machines.want(NAME, "stopped")
    assert refused.value.where == str(rig.machines.records.home(NAME) / "record.json")
    assert rig.record() == before
