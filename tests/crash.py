"""A process that is killed at every step of what it does, one run for each: the rows of a crash table.

The code under test takes a function that it calls with the name of each step; `Dying` is one that notes the names in a
file and ends the process by SIGKILL at the one that its number says. `steps` runs the whole without dying and gives the
names; `kill` runs it up to one of them. The program is `python -m MODULE FOLDER NUMBER`, where NUMBER is -1 to live.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

LOG = "steps"


class Dying:
    """To be called with the name of each step; ends this process at step `number` (from 0)."""

    def __init__(self, folder: Path, number: int) -> None:
        self.log = folder / LOG
        self.number = number
        self.count = 0
        self.log.write_text("")

    def __call__(self, name: str) -> None:
        with self.log.open("a") as file:
            file.write(f"{name}\n")
        if self.count == self.number:
            os.kill(os.getpid(), signal.SIGKILL)
        self.count += 1


def steps(module: str, folder: Path, *words: str) -> list[str]:
    """Run `module` to its end; returns the names of its steps in order."""
    done = subprocess.run([sys.executable, "-m", module, str(folder), "-1", *words], check=False)
    assert done.returncode == 0, "it does not even work when nobody kills it"
    return (folder / LOG).read_text().splitlines()


def kill(module: str, folder: Path, number: int, *words: str) -> str:
    """Run `module` until it dies at step `number`; returns that step's name."""
    done = subprocess.run([sys.executable, "-m", module, str(folder), str(number), *words], check=False)
    assert done.returncode == -signal.SIGKILL, f"it ended with {done.returncode} before step {number}"
    return (folder / LOG).read_text().splitlines()[-1]
