"""Logs out users whose sessions presence has ended, as backline-seat-heartbeat.service left word: a file for each, that
is called as the user's number. By root, which the heartbeat is not, and for nobody but people.
"""

from __future__ import annotations

import logging
import time
from pathlib import Path

from services.common import process
from services.seat.heartbeat import END

logger = logging.getLogger(__name__)

FIRST_UID, LAST_UID = 1000, 60000
"""Of people: no account of the system, and no dynamic user of systemd's."""
SECONDS = 20.0


def log_out(folder: Path = END) -> bool:
    """End all that those have whose files are there; the file goes first: who is still there is named by the next
    heartbeat again. Whether it went well for all of them.
    """
    well = True
    for file in sorted(folder.iterdir()):
        file.unlink()
        if not (file.name.isascii() and file.name.isdigit() and FIRST_UID <= int(file.name) <= LAST_UID):
            logger.error("%s is nobody who could be logged out", ascii(file.name))
            well = False
            continue
        argv = ["loginctl", "terminate-user", file.name]
        done = process.run(argv, check=False, deadline=time.monotonic() + SECONDS)
        if done.returncode == 0:
            logger.warning("uid %s has a session elsewhere, or none any more, and was logged out here", file.name)
        elif "not logged in" not in done.stderr:
            logger.error("uid %s could not be logged out: %s", file.name, done.stderr.strip())
            well = False
    return well
