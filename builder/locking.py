"""One at a time: locks between processes that the kernel releases when their holder dies.

Promises: flock(2) on a file or folder, so a kill -9 or a power cut leaves no stale lock; who has to wait is told who
holds it. Nothing is written into the lock, so locking works on a full disk once the file is there.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from services.common.errors import BusyError

Notify = Callable[[str], None]
"""Called once, with a sentence, when a lock has to be waited for."""

_LOCKS = Path("/proc/locks")


def holders(descriptor: int) -> list[int]:
    """The processes that hold a flock on the file open at `descriptor` (proc_locks(5)).

    Those of other PID namespaces are not seen. The device is compared only when it helps: on overlayfs and btrfs the
    kernel lists another one than stat(2).
    """
    info = os.fstat(descriptor)
    device = f"{os.major(info.st_dev):02x}:{os.minor(info.st_dev):02x}"
    found: dict[bool, set[int]] = {True: set(), False: set()}
    with contextlib.suppress(OSError):
        for line in _LOCKS.read_text().splitlines():
            words = line.split()
            # 1: FLOCK ADVISORY WRITE 1234 fd:01:5678 0 EOF; a waiter has "->" in front of FLOCK.
            if len(words) >= 6 and words[1] == "FLOCK":
                where, _, inode = words[5].rpartition(":")
                if inode == str(info.st_ino) and words[4].isdigit():
                    found[where == device].add(int(words[4]))
    return sorted(found[True] or found[False])


def describe(pids: list[int]) -> str:
    """Holders as words: "process 12 (build)"."""
    names = []
    for pid in pids:
        with contextlib.suppress(OSError):
            names.append(f"process {pid} ({Path(f'/proc/{pid}/comm').read_text().strip()})")
    return ", ".join(names) or "another process"


def open_lock(path: Path) -> int:
    """A descriptor to lock: of the folder `path`, or of the file, made (0644) where it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir():
        return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except PermissionError:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)


def try_lock(descriptor: int, *, shared: bool = False) -> bool:
    """Lock without waiting; False when someone else holds it."""
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextlib.contextmanager
def exclusive(
    path: Path, *, what: str, wait: bool = True, deadline: float | None = None, notify: Notify | None = None
) -> Iterator[None]:
    """Hold the lock `path` for a block; `what` is the work that it guards, as in "a build of gw".

    Whoever comes second is told by `notify`, and waits; with `deadline` (a `time.monotonic()` value) not longer than
    that. Raises BusyError("lock.held") when it may not wait, or waited long enough. Children do not inherit the lock.
    """
    descriptor = open_lock(path)
    try:
        if not try_lock(descriptor):
            sentence = f"{what} is going on in {describe(holders(descriptor))}"
            if not wait:
                raise BusyError("lock.held", sentence, where=str(path), hint="wait for it to end, or stop it")
            if notify is not None:
                notify(f"waiting: {sentence}")
            _wait(descriptor, what=what, path=path, deadline=deadline)
        yield
    finally:
        os.close(descriptor)


def _wait(descriptor: int, *, what: str, path: Path, deadline: float | None) -> None:
    if deadline is None:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        return
    # flock(2) has no timeout and a signal would reach the wrong thread: look again, at growing distances.
    pause = 0.005
    while not try_lock(descriptor):
        left = deadline - time.monotonic()
        if left <= 0:
            sentence = f"{what} is still going on in {describe(holders(descriptor))}"
            raise BusyError("lock.held", sentence, where=str(path), hint="wait for it to end, or stop it")
        time.sleep(min(pause, left))
        pause = min(pause * 2, 0.2)
