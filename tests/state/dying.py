"""Restores `FOLDER/archive` on the gw in `FOLDER/new`, or takes it back, and dies at a step (`tests.crash`)."""

from __future__ import annotations

from pathlib import Path

from tests import crash
from tests.state import rig


def do(folder: Path, what: str, step: crash.Dying) -> None:
    restore = rig.restore_of(folder / "new", step=step)
    if what == "restore":
        restore.begin(next(folder.glob("*.state")), rig.KEY, numbers={"stable": 7})
        restore.finish()
    elif what == "finish":
        restore.finish()
    else:
        restore.abandon()


if __name__ == "__main__":
    crash.serve(do)
