"""What a user has left on a seat outside of his home: files where everybody may write. The next one reads none of them.

Called when none of his processes is there any more, so nothing changes under it. What nobody but root or he could have
made is looked at: entries of these folders, and of those in them that everybody may write to as well.
"""

from __future__ import annotations

import logging
import os
import shutil
import stat
from collections.abc import Iterable
from pathlib import Path

logger = logging.getLogger(__name__)

PLACES = (Path("/tmp"), Path("/var/tmp"), Path("/dev/shm"), Path("/run/lock"))


def sweep(uid: int, places: Iterable[Path] = PLACES) -> None:
    """Remove what belongs to a user there. What does not go is named in the journal, and stays."""
    for place in places:
        _sweep(uid, place)


def _sweep(uid: int, folder: Path) -> None:
    try:
        with os.scandir(folder) as entries:
            found = [(Path(entry.path), entry.stat(follow_symlinks=False)) for entry in entries]
    except OSError:
        return
    for path, status in found:
        is_folder = stat.S_ISDIR(status.st_mode)
        try:
            if status.st_uid == uid and is_folder:
                shutil.rmtree(path)
            elif status.st_uid == uid:
                path.unlink()
            elif is_folder and status.st_mode & stat.S_IWOTH:
                _sweep(uid, path)
        except OSError as error:
            logger.warning("%s stays: %s", ascii(str(path)), error.strerror)
