"""Whatever is killed or cut off at whichever step: a machine is wholly as before, or wholly as after.

The table is generated: every operation is run once to learn its steps, and then killed at each of them. What comes up
is asked twice: what the units of the running iron make of it, and what the iron makes of it after a restart. It stands
in docs/crash-table.md, and BACKLINE_CRASH_TABLE=1 writes it there anew.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.common.errors import BacklineError
from services.common.process import run
from tests.crash import Victims
from tests.crash_table import END, Disk, Row, compare, lines
from tests.hostd.dying_machine import OPERATIONS, prepare
from tests.hostd.machines_rig import FULL, NAME, NEW, OLD, Rig

MODULE = "tests.hostd.dying_machine"
AFTER = {"create": OLD, "upgrade": NEW, "upgrade that fails": OLD, "upgrade that hangs": OLD, "revert": OLD, "stop": ""}
BEFORE = {
    "create": "",
    "upgrade": OLD,
    "upgrade that fails": OLD,
    "upgrade that hangs": OLD,
    "revert": NEW,
    "stop": OLD,
}


@pytest.fixture(scope="module")
def victims() -> Iterator[Victims]:
    with Victims(MODULE) as program:
        yield program


def check_whole(rig: Rig, operation: str) -> str:
    """One of the two states, and nothing of the other; says which."""
    runs = rig.iron.world.runs.get(NAME)
    version = runs.version if runs else ""
    assert version in (BEFORE[operation], AFTER[operation])
    assert all(start.files == FULL for start in rig.iron.world.starts), "somebody ran on half a copy"
    if NAME not in rig.machines.records.names():
        assert operation == "create"
        return "before"
    record = rig.record()
    assert record.change is None
    assert (record.wanted == "running") == bool(runs)
    if runs:
        assert (runs.version, runs.var) == (record.current.version, record.current.var)
    home = rig.machines.records.home(NAME)
    assert sorted(path.name for path in home.iterdir()) == sorted({"lock", "record.json", *record.vars()})
    assert rig.written("var-1") == [OLD], "nobody but the old version has written there"
    if record.current.var != "var-1":
        assert rig.written(record.current.var) == [OLD, NEW], "the new version has all that the old one wrote"
    for kept in record.kept:
        # Tried, as the record says, need not mean that it had come to write.
        assert rig.written(kept.var)[-1] in (kept.version, OLD)
    return "after" if version == AFTER[operation] and version != BEFORE[operation] else "before"


@pytest.mark.parametrize("operation", OPERATIONS)
def test_killed_at_any_step_a_machine_is_as_before_or_as_after(operation: str, victims: Victims, memory: Path) -> None:
    origin = memory / "origin"
    origin.mkdir()
    prepare(Rig(origin), operation)
    whole = memory / "whole"
    shutil.copytree(origin, whole)
    names = victims.steps(whole, operation)
    assert check_whole(Rig(whole), operation) == ("before" if AFTER[operation] == BEFORE[operation] else "after")
    rows: list[tuple[str, str, str]] = []
    for number, name in enumerate(names):
        said = []
        dead = memory / f"{number}"
        shutil.copytree(origin, dead)
        assert victims.kill(dead, number, operation) == name
        for restart in ("unit", "iron"):
            place = memory / f"{number}-{restart}"
            shutil.copytree(dead, place)
            rig = Rig(place)
            if restart == "unit":
                rig.settle_like_systemd()
            else:
                rig.boot_like_systemd()
            said.append(check_whole(rig, operation))
            shutil.rmtree(place)
        rows.append((name, said[0], said[1]))
    if operation == "upgrade":
        # Killed and restarted, an upgrade goes on; found in another boot of the iron, it is taken back until committed.
        planned = next(n for n, row in enumerate(rows) if row[0] == "stop: begun")
        committed = next(n for n, row in enumerate(rows) if row[0] == "commit: done")
        assert {row[1] for row in rows[planned:]} == {"after"}
        assert {row[2] for row in rows[:committed]} == {"before"}
        assert {row[2] for row in rows[committed:]} == {"after"}
    compare("machines", operation, lines(operation, [Row(*row) for row in rows]))


@pytest.mark.images
@pytest.mark.needs("root", "loop devices")
@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_power_cut_at_any_step_leaves_a_machine_as_before_or_as_after(operation: str, tmp_path: Path) -> None:
    """The machines lie on an ext4 of their own; a copy of its file is what a disk would hold at that moment."""
    disk = Disk(tmp_path)
    folder = tmp_path / "folder"
    folder.mkdir()
    cuts: list[tuple[str, Path]] = []

    def cut(name: str) -> None:
        cuts.append((name, disk.cut(f"cut-{len(cuts)}")))

    with disk.mounted() as place:
        place.mkdir()
        prepare(Rig(folder, disk=place), operation)
        run(["sync", "--file-system", place])
        with contextlib.suppress(BacklineError):
            OPERATIONS[operation](Rig(folder, disk=place, step=cut))
        cut(END)
    seen = []
    for _, copy in cuts:
        with disk.mounted(copy) as place:
            rig = Rig(folder, disk=place)
            world = rig.iron.world
            world.starts = []
            rig.iron.keep(world)
            rig.boot_like_systemd()
            runs = rig.iron.world.runs.get(NAME)
            version = runs.version if runs else ""
            assert version in (BEFORE[operation], AFTER[operation])
            assert all(start.files == FULL for start in rig.iron.world.starts), "somebody ran on half a copy"
            seen.append(version)
            if NAME in rig.machines.records.names():
                record = rig.record()
                assert record.change is None
                assert {path.name for path in rig.machines.records.home(NAME).glob(".*var-*")} == set()
                if record.current.var != "var-1":
                    assert rig.written(record.current.var)[-1] == NEW
        copy.unlink()
    switch = seen.index(AFTER[operation]) if AFTER[operation] in seen else len(seen)
    assert seen == [BEFORE[operation]] * switch + [AFTER[operation]] * (len(seen) - switch), "it went back and forth"
    different = AFTER[operation] != BEFORE[operation]
    outcomes = ["after" if different and version == AFTER[operation] else "before" for version in seen]
    made = [Row(name, outcome) for (name, _), outcome in zip(cuts, outcomes, strict=True)]
    compare("machines-cut", operation, lines(operation, made))
