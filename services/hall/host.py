"""What the machine refuses to do, as an error with a place instead of a traceback."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from services.common.errors import HostError


@contextlib.contextmanager
def host_errors() -> Iterator[None]:
    """Turn OSError (no permission, disk full, not a folder) into HostError("hall.files")."""
    try:
        yield
    except BrokenPipeError:  # the reader of our output went away: the root program's business
        raise
    except OSError as error:
        hint = "run it as root" if isinstance(error, PermissionError) else None
        where = str(error.filename) if error.filename is not None else None
        raise HostError("hall.files", str(error.strerror or error), hint=hint, where=where) from error
