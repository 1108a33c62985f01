"""Files that are whole or not there: written aside, synchronised, renamed, and their folder synchronised.

A power cut or a kill -9 between any two calls leaves the old file or the new one. What was written aside and never
renamed is named `.NAME.backline-new`; the next write of the same file replaces it, and `sweep` removes it.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

ASIDE = ".backline-new"


def write(path: Path, content: bytes, *, mode: int = 0o644) -> None:
    """Replace a file. Raises OSError; then the old one is untouched."""
    _folder(path.parent)
    aside = path.with_name(f".{path.name}{ASIDE}")
    with contextlib.suppress(FileNotFoundError):
        aside.unlink()
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, mode)
    try:
        with open(descriptor, "wb") as file:
            os.fchmod(file.fileno(), mode)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        aside.rename(path)
    except OSError:
        with contextlib.suppress(OSError):
            aside.unlink()
        raise
    synchronise(path.parent)


def remove(path: Path) -> None:
    """Remove a file; one that is not there is no error."""
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
        synchronise(path.parent)


def remove_empty(folder: Path) -> None:
    """Remove a folder when nothing is in it."""
    with contextlib.suppress(OSError):
        folder.rmdir()
        synchronise(folder.parent)


def sweep(folder: Path) -> None:
    """Remove what a dead process had written aside, in a folder and those directly in it."""
    for pattern in (f".*{ASIDE}", f"*/.*{ASIDE}"):
        for path in folder.glob(pattern):
            with contextlib.suppress(OSError):
                path.unlink()


def synchronise(folder: Path) -> None:
    """Make the names in a folder survive a power cut (fsync(2))."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _folder(path: Path) -> None:
    if not path.is_dir():
        path.mkdir(parents=True, exist_ok=True)
        synchronise(path.parent)
