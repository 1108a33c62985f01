"""The administrator of a lab's hall, at this machine, with its store and tools, as in a hall at a machine of his own.

He has the key whose signatures the hall trusts, and gw's services by their sockets, as root on gw has them; behind each
socket is whatever gw runs now. All of it lies in the lab's own folder and goes with it. What he publishes first is what
the lab begins with, so that the next version comes as a delta.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from builder.publish import Outcome, Publisher, Wanted
from e2e import published
from e2e.forward import Forwarder
from netboot.client import Netboot
from services.common import process
from services.common.errors import HostError
from services.common.progress import Progress
from services.depot.client import Depot

if TYPE_CHECKING:
    from e2e.lab import Lab

SERVICES = ("depot", "dhcp", "dns", "mdb", "netboot", "rollout", "udb")
FOLDER = "administrator"
SECONDS = 120.0
# In mounts of its own, /run/backline is gw's as he has it, beside the lab's records. They are found by a descriptor,
# since the new folder hides the way to them.
_ENTER = r"""
folder=$1 bin=$2
shift 2
mkdir -p /run/backline/labs
exec 9</run/backline/labs
mount -t tmpfs -o mode=0755 tmpfs /run/backline
mkdir /run/backline/labs
mount --no-canonicalize --bind /proc/self/fd/9 /run/backline/labs
exec 9<&-
for socket in "$folder"/*.sock; do ln -s "$socket" /run/backline/; done
PATH=$bin:$PATH exec "$@"
"""


class Administrator:
    """The administrator of `lab`, made before it is started: gw's depot gets a disk with what the lab begins with."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.gateway = next((node for node in lab.nodes.values() if node.spec.role == "gw" and node.spec.hall), None)
        self.folder = lab.sandbox.lab / FOLDER
        self.folder.mkdir(mode=0o700, parents=True)
        self.key: Path | None = lab.hall.signer_in(self.folder) if lab.hall.signer else None
        if self.publishes and self.gateway is not None and lab.netboot is not None:
            self.gateway.binds[published.DEPOT] = str(lab.depot(lab.netboot.ref))

    @property
    def publishes(self) -> bool:
        """Whether anything can be published here: root file servers have their certificates from the hall's CA."""
        return self.lab.netboot is not None and self.lab.hall.authority is not None

    def open(self) -> None:
        """Open the doors to gw's services, once the lab is started."""
        if self.gateway is None:
            return
        for name in SERVICES:
            door = self.lab.reactor.call(Forwarder.open(self.gateway, name, path=self.folder / f"{name}.sock"))
            self.lab.at_end(partial(self._close, door))

    def _close(self, door: Forwarder) -> None:
        self.lab.reactor.call(door.close())

    def begin(self) -> Outcome | None:
        """Publish what the lab begins with, which is there already: the first number of its channel."""
        if not self.publishes or self.gateway is None or self.key is None or self.lab.netboot is None:
            return None
        ref, netboot = self.lab.netboot.ref, self.gateway.service("netboot")
        ask: Callable[[], Netboot] = lambda: Netboot(netboot)  # noqa: E731
        wanted = Wanted(ref=ref, channel=published.CHANNEL, why="the lab begins with it", switch=False)
        with (
            self.lab.progress.step(f"publishing {ref}, which is there already"),
            Depot(self.gateway.service("depot"), seconds=SECONDS) as depot,
        ):
            publisher = Publisher(self.lab.roots.store, depot, ask, key=self.key, progress=Progress(quiet=True))
            return publisher.publish(wanted, deadline=time.monotonic() + SECONDS)

    def argv(self, words: Sequence[str]) -> list[str]:
        """The command line of this machine that runs a program as him."""
        if self.gateway is None:
            raise HostError("lan.admin", "there is no gw with a hall in this lab")
        settings = self.lab.roots.settings
        environment = [f"BACKLINE_BUILD_STORE={settings.store}", f"BACKLINE_BUILD_CACHE={settings.cache}"]
        if self.key is not None:
            environment.append(f"BACKLINE_PUBLISH_KEY={self.key}")
        mounts = ["unshare", "--mount", "--propagation=private", "--", "sh", "-ec", _ENTER, "sh"]
        return [*mounts, str(self.folder), os.path.dirname(sys.executable), "env", *environment, *words]  # noqa: PTH120

    def run(self, *words: str, seconds: float = SECONDS, check: bool = True) -> process.Completed:
        """Run a program as him, to its end. Raises ProcessFailed."""
        return process.run(self.argv(words), deadline=time.monotonic() + seconds, check=check)
