"""Power cuts, in milliseconds: what of a node's state is on its disk at this moment, and what it makes of that
afterwards.

SIGKILL alone is no power cut: the kernel still writes what was in its memory. So the state lies on an ext4 of the
node's own, in a file of the lab; a copy of that file holds just what a disk would hold, and mounting the copy recovers
it as a restart would (ext4's journal). `Disk.cut` takes such a copy between two steps of anything; `look` shows it;
`put_back` gives it to the node, which then starts as after the cut.

    disk = Disk.of(lab["gw"], "/var/lib/backline", megabytes=64)
    ...
    for cut in disk.after_each(steps):
        with cut.look() as folder: ...
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from services.common.errors import UsageError

if TYPE_CHECKING:
    from e2e.node import Node

_numbers = itertools.count()


@dataclass(frozen=True)
class Cut:
    """What the disk held at one moment: `file` is a path inside the lab, `after` what had just been done."""

    disk: Disk
    file: str
    after: str

    @contextlib.contextmanager
    def look(self) -> Iterator[Path]:
        """The recovered state for a block, as a folder for the host's programs. What is changed there is lost."""
        sandbox = self.disk.node.lab.sandbox
        place = f"{self.file}.mounted"
        copy = f"{self.file}.copy"
        sandbox.run(["cp", "--sparse=always", self.file, copy])
        sandbox.run(["mkdir", "-p", place])
        sandbox.run(["mount", "-o", "loop", copy, place])
        try:
            yield sandbox.root / place.lstrip("/")
        finally:
            sandbox.run(["umount", place])
            sandbox.run(["rm", "-rf", copy, place])

    def drop(self) -> None:
        """Forget it."""
        self.disk.node.lab.sandbox.run(["rm", "-f", self.file])


class Disk:
    """A disk of a node's own, mounted there on `path`. Given before the node is started."""

    def __init__(self, node: Node, path: str, file: str, place: str) -> None:
        self.node = node
        self.path = path
        self.file = file
        self.place = place

    @classmethod
    def of(cls, node: Node, path: str, *, megabytes: int = 64) -> Disk:
        """Make one, with what the node's image has at `path`. Raises UsageError("lan.running") when the node is up."""
        if node.running:
            raise UsageError("lan.running", f"{node.name} runs: it gets a disk before it is started")
        lab, number = node.lab, next(_numbers)
        file, place = f"/run/lab/disk{number}", f"/run/lab/disk{number}.mounted"
        sandbox = lab.sandbox
        sandbox.run(["truncate", f"--size={megabytes}M", file])
        sandbox.run(["mkfs.ext4", "-q", "-m0", file])
        sandbox.run(["mkdir", "-p", place])
        sandbox.run(["mount", "-o", "loop", file, place])
        lower = lab.roots.mount(lab.roots.find(node.spec.role, node.version)).lower
        script = 'rmdir "$2/lost+found"; if [ -d "$1" ]; then cp --archive "$1/." "$2/"; fi; sync -f "$2"'
        sandbox.run(["sh", "-ec", script, "sh", lower + path, place])
        node.binds[path] = place
        return cls(node, path, file, place)

    def cut(self, after: str = "") -> Cut:
        """What the disk holds now; the node goes on and does not notice."""
        copy = f"{self.file}.cut{next(_numbers)}"
        self.node.lab.sandbox.run(["cp", "--sparse=always", self.file, copy])
        self.node.lab.journal.note("fault", f"power cut after {after or 'now'}: {self.path}", node=self.node.name)
        return Cut(self, copy, after)

    def after_each(self, steps: Iterable[tuple[str, Callable[[], object]]]) -> Iterator[Cut]:
        """Do each step, and give what a power cut right after it would leave; the first is before any step."""
        yield self.cut("the beginning")
        for name, step in steps:
            step()
            yield self.cut(name)

    def put_back(self, cut: Cut) -> None:
        """Give a node that is off what it had at a cut. Raises UsageError("lan.running") when it is up."""
        if self.node.running:
            raise UsageError("lan.running", f"{self.node.name} runs: crash it first")
        sandbox = self.node.lab.sandbox
        sandbox.run(["umount", self.place])
        sandbox.run(["cp", "--sparse=always", cut.file, self.file])
        sandbox.run(["mount", "-o", "loop", self.file, self.place])
