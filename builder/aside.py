"""What is written aside before it is renamed into place: the folder ROOT/incoming of a store.

Promises: each piece of work has a folder of its own, locked (flock) while its process lives; what dead processes left
is removed by the next run; what goes wrong with the disk is one of three errors that say what to do.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import secrets
import shutil
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

from builder.locking import try_lock
from services.common.errors import BusyError, HostError

Hook = Callable[[str], None]
"""Called with a name before each step that changes the disk; tests die in it."""


def no_hook(step: str, /) -> None:
    """The hook of every day: nothing happens."""


@contextlib.contextmanager
def disk_errors(where: Path) -> Iterator[None]:
    """Turn what a disk can do to a block into HostError: "store.full", "store.denied" or "store.io"."""
    try:
        yield
    except OSError as error:
        path = str(error.filename or where)
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            hint = f"`build gc` deletes what nobody uses; `df {where}` shows the disk"
            raise HostError("store.full", "no space left on the disk", where=path, hint=hint) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            hint = "run it as the owner of the store (root)"
            raise HostError("store.denied", error.strerror or "not permitted", where=path, hint=hint) from error
        if error.errno == errno.EIO:
            hint = "the disk is failing: look at `dmesg`"
            raise HostError("store.io", error.strerror or str(error), where=path, hint=hint) from error
        raise


def sync(path: Path) -> None:
    """Put a file's or folder's content on the disk (fsync(2))."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folders(path: Path) -> None:
    """Make a folder and its missing parents, 0755 whatever the umask, each on disk in its parent."""
    if path.is_dir():
        return
    make_folders(path.parent)
    with contextlib.suppress(FileExistsError):
        path.mkdir()
        path.chmod(0o755)
        sync(path.parent)


def mounts_below(path: Path) -> list[str]:
    """Mount points inside a folder (proc_pid_mountinfo(5))."""
    real = os.path.realpath(path)
    found = []
    for line in Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines():
        point = re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), line.split()[4])
        if point == real or point.startswith(f"{real}/"):
            found.append(point)
    return found


def remove_tree(path: Path) -> None:
    """Delete a folder whatever its modes; one that is not there is deleted.

    Raises BusyError("store.mounted") when something is mounted in it: that would be deleted too.
    """
    if points := mounts_below(path):
        raise BusyError("store.mounted", f"{points[0]} is mounted in it", where=str(path), hint=f"umount {points[0]}")
    for folder, _, _ in os.walk(path):
        mode = os.lstat(folder).st_mode
        if mode & stat.S_IRWXU != stat.S_IRWXU:
            os.chmod(folder, stat.S_IMODE(mode) | stat.S_IRWXU)  # noqa: PTH101
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(path)


def disk_bytes(path: Path) -> int:
    """What a file or folder takes on disk, in bytes; hard links inside it count once."""
    seen: set[tuple[int, int]] = set()
    total = 0
    stack = [os.fspath(path)]
    while stack:
        name = stack.pop()
        try:
            info = os.lstat(name)
            if stat.S_ISDIR(info.st_mode):
                stack += [entry.path for entry in os.scandir(name)]
        except OSError:
            continue  # it went away meanwhile
        if (info.st_dev, info.st_ino) not in seen:
            seen.add((info.st_dev, info.st_ino))
            total += info.st_blocks * 512
    return total


class Aside:
    """The folder `root`, where each piece of work has a folder of its own."""

    def __init__(self, root: Path, *, hook: Hook = no_hook) -> None:
        self.root = root
        self.hook = hook
        self._held: dict[Path, int] = {}

    @contextlib.contextmanager
    def folder(self) -> Iterator[Path]:
        """A new folder for a block, locked; what is left of it afterwards is deleted."""
        make_folders(self.root)
        path, descriptor = self._make()
        self._held[path] = descriptor
        try:
            yield path
        finally:
            try:
                remove_tree(path)
            finally:
                os.close(self._held.pop(path))

    def release(self, path: Path) -> None:
        """Unlock one of our folders that was renamed away: it belongs to whoever has it now."""
        if path in self._held:
            fcntl.flock(self._held[path], fcntl.LOCK_UN)

    def _make(self) -> tuple[Path, int]:
        while True:
            path = self.root / f"{os.getpid()}-{secrets.token_hex(6)}"
            self.hook(f"make {path.name}")
            path.mkdir(mode=0o755)
            self.hook(f"lock {path.name}")
            with contextlib.suppress(FileNotFoundError):  # a cleaner was faster than our lock: take another
                path.chmod(0o755)
                descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                if try_lock(descriptor) and path.exists():
                    return path, descriptor
                os.close(descriptor)
                path.rmdir()

    def leftovers(self) -> list[Path]:
        """Folders and files of processes that are dead."""
        found = []
        for path in self._entries():
            with _dead(path) as dead:
                if dead:
                    found.append(path)
        return found

    def clean(self) -> list[str]:
        """Delete the leftovers, and return their names. Those that cannot be deleted are left for the next run."""
        cleaned = []
        for path in self._entries():
            with _dead(path) as dead:
                if dead:
                    self.hook(f"clean {path.name}")
                    with contextlib.suppress(OSError, BusyError):
                        if path.is_dir() and not path.is_symlink():
                            remove_tree(path)
                        else:
                            path.unlink()
                        cleaned.append(path.name)
        return cleaned

    def _entries(self) -> list[Path]:
        try:
            return sorted(self.root.iterdir())
        except FileNotFoundError:
            return []

    def write(self, target: Path, data: bytes, *, mode: int = 0o644) -> None:
        """Put a small file at `target` in one step, replacing what was there; on disk when this returns."""
        with self.folder() as folder:
            aside = folder / "file"
            self.hook(f"write {target.name}")
            aside.write_bytes(data)
            aside.chmod(mode)
            sync(aside)
            self.hook(f"rename {target.name}")
            aside.rename(target)
            self.hook(f"sync {target.name}")
            sync(target.parent)


@contextlib.contextmanager
def _dead(path: Path) -> Iterator[bool]:
    """Whether nobody holds `path`; held by us for the block when so."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        yield False
        return
    except OSError:  # a symbolic link or the like: we make none
        yield True
        return
    try:
        yield try_lock(descriptor)
    finally:
        os.close(descriptor)
