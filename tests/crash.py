"""A process that is killed at every step of what it does, one run for each: the rows of a crash table.

The code under test takes a function that it calls with the name of each step; `Dying` is one that notes the names in a
file and ends the process by SIGKILL at the one that its number says. `Victims` is a program that does it again and
again, each time in a process of its own that it forks, so that a run costs no start of Python; `python -m MODULE` calls
`serve`.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
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


class Victims:
    """The program of `module`. A context manager."""

    def __init__(self, module: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", module], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __enter__(self) -> Victims:
        return self

    def __exit__(self, *_: object) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait()

    def _run(self, folder: Path, number: int, what: str) -> int:
        """Exit code of one run, negative for a signal."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{number}\t{what}\t{folder}\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def steps(self, folder: Path, what: str) -> list[str]:
        """Do all of it; returns the names of its steps in order."""
        assert self._run(folder, -1, what) == 0, "it does not even work when nobody kills it"
        return (folder / LOG).read_text().splitlines()

    def kill(self, folder: Path, number: int, what: str) -> str:
        """Do it until it dies at step `number`; returns that step's name."""
        code = self._run(folder, number, what)
        assert code == -signal.SIGKILL, f"it ended with {code} before step {number}"
        return (folder / LOG).read_text().splitlines()[-1]


def serve(do: Callable[[Path, str, Dying], None]) -> None:
    """The other side: for each line, call `do` with folder, what to do, and what to call at each step."""
    for line in sys.stdin:
        number, what, folder = line.rstrip("\n").split("\t")
        child = os.fork()
        if child == 0:
            code = 1
            try:
                do(Path(folder), what, Dying(Path(folder), int(number)))
                code = 0
            finally:
                os._exit(code)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)
