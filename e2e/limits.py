"""The one limit of the host that many systemds on one kernel run into, and what is done about it.

Every systemd, journald, networkd and resolved waits on inotify instances, about ten a node, and the kernel allows a
user 128 in all (fs.inotify.max_user_instances). The node that gets none boots with failed mount units ("Mount process
finished, but there is no mount") or without a network ("Too many open files"). The limit is the host's, so it is
raised and never lowered again: another lab may need it by then.
"""

from __future__ import annotations

from pathlib import Path

from services.common.errors import HostError

INSTANCES = Path("/proc/sys/fs/inotify/max_user_instances")
A_NODE = 16
BESIDE = 512
"""What programs of the host and another lab may need."""


def raise_for(nodes: int, *, file: Path = INSTANCES) -> str:
    """Make room for so many nodes; returns what was done, or "" when there was room.

    Raises HostError("lan.inotify") with the command to run when the host does not let us.
    """
    wanted = BESIDE + nodes * A_NODE
    have = int(file.read_text())
    if have >= wanted:
        return ""
    try:
        file.write_text(str(wanted))
    except OSError as error:
        raise HostError(
            "lan.inotify",
            f"{nodes} systemds need {wanted} inotify instances, this host allows {have}: {error.strerror}",
            hint=f"sysctl fs.inotify.max_user_instances={wanted}",
        ) from error
    return f"fs.inotify.max_user_instances raised from {have} to {wanted}: {nodes} systemds on one kernel need that"
