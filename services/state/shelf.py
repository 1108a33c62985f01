"""The folder of archives: who works there, what is in it, what stays.

It imports no driver of a database: servers that keep copies have none.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from services.state import retention
from services.state.schema import Save, Settings, parse_name
from services.state.seal import is_sealed

JOURNAL = "restore.json"
"""In the folder of archives, while a restore is under way (`services.state.restore`)."""


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Be the only one who saves or restores; another one is waited for."""
    folder.mkdir(mode=0o755, parents=True, exist_ok=True)
    with (folder / "lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def listing(folder: Path) -> list[Save]:
    """Archives in a folder, the newest first."""
    found = []
    for path in folder.glob("*.state") if folder.is_dir() else ():
        name = parse_name(path.name)
        if name is None:
            continue
        with contextlib.suppress(OSError):
            # Who must not read one is not told more than that it is there.
            sealed = is_sealed(path) if os.access(path, os.R_OK) else False
            at = retention.moment(name).timestamp()
            found.append(Save(name=path.name, size=path.stat().st_size, at=at, sealed=sealed))
    return sorted(found, key=lambda each: (each.at, each.name), reverse=True)


def let_go(settings: Settings) -> None:
    """Delete archives that need not stay."""
    names = [name for save in listing(settings.folder) if (name := parse_name(save.name)) is not None]
    for name in set(names) - retention.staying(names, hourly=settings.hourly, daily=settings.daily):
        (settings.folder / str(name)).unlink(missing_ok=True)


def sweep(folder: Path) -> None:
    """Remove what a dead process has left."""
    for path in folder.glob(".work-*"):
        shutil.rmtree(path, ignore_errors=True)
    for path in folder.glob(".*.state.new"):
        path.unlink(missing_ok=True)
