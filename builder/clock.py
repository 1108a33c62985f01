"""A wall clock that is wrong by days, for the programs of a build: a small library that is preloaded (ld.so(8)).

It stands at one path, in the tools tree and in the tree that is built, so that a program finds it wherever it runs.
"""

from __future__ import annotations

from pathlib import Path

from services.common import process

LIBRARY = "usr/lib/backline-clock.so"
_SOURCE = Path(__file__).with_name("clock.c")
_DAY = 86_400


def compile_library(folder: Path, days: int) -> Path:
    """A new library in `folder` that puts the clock `days` ahead. Raises HostError("process.missing") without gcc."""
    target = folder / Path(LIBRARY).name
    command = ["gcc", "-O2", "-Wall", "-Werror", "-ffreestanding", "-fPIC", "-nostdlib", "-shared"]
    command += [f"-DOFFSET={days * _DAY}L", "-o", str(target), str(_SOURCE)]
    process.run(command)
    target.chmod(0o755)
    return target
