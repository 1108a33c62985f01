"""Files that are whole or not there, and names that survive a power cut (rename(2), fsync(2))."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from services.common.errors import BacklineError, HostError


def synchronise(folder: Path) -> None:
    """Make the names in a folder survive a power cut."""
    number = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def write(path: Path, content: bytes, *, mode: int = 0o600) -> None:
    """Replace a file in one step. Raises OSError; then the old one is untouched."""
    aside = path.with_name(f".{path.name}.new")
    aside.unlink(missing_ok=True)
    number = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, mode)
    try:
        with open(number, "wb") as file:
            os.fchmod(number, mode)
            file.write(content)
            file.flush()
            os.fsync(number)
        aside.rename(path)
    except OSError:
        aside.unlink(missing_ok=True)
        raise
    synchronise(path.parent)


@contextmanager
def disk_errors(what: str) -> Iterator[None]:
    """OSErrors of a block as the house's. Raises HostError: "state.full", "state.disk"."""
    try:
        yield
    except BacklineError:
        raise
    except OSError as error:
        where = str(error.filename) if error.filename else None
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            hint = "make room; nothing that was there has been changed"
            raise HostError("state.full", f"{what}: no space is left on the disk", where=where, hint=hint) from error
        raise HostError("state.disk", f"{what}: {error.strerror}", where=where) from error
