"""Where a build works: on the cache's disk, or in memory, on a file system of the build's own.

dpkg waits for the disk thousands of times in a build; in memory nobody waits. `build check` builds on another kind of
file system than a build does, because each lists a folder in an order of its own, and an image must not show it.
"""

from __future__ import annotations

import contextlib
import ctypes
import enum
import os
from collections.abc import Iterator
from pathlib import Path

from builder.lock import Lock
from services.common.errors import HostError
from services.common.process import run

_FACTOR = 8


class Place(enum.Enum):
    """Where the working folder of a build is: a file system lists a folder in an order of its own."""

    DISK = "the cache's disk"
    MEMORY = "memory"
    EXT4 = "ext4 in memory"


def memory_needed(lock: Lock, role: str) -> int:
    """Bytes that a build of `role` may take: packages unpack to four times their size, twice."""
    return sum(package.size for package in lock.of(role)) * _FACTOR


def memory_fits(size: int) -> bool:
    """Whether the machine has that much memory free: no disk is waited for there, and packages come in a rush."""
    with Path("/proc/meminfo").open() as file:
        fields = dict(line.split(":", 1) for line in file)
    return int(fields["MemAvailable"].split()[0]) * 1024 > size


@contextlib.contextmanager
def in_place(folder: Path, place: Place, *, size: int) -> Iterator[None]:
    """Have memory on `folder` for a block, in a mount namespace that only this thread and its children have.

    `size` bounds it, in bytes. Afterwards the thread is back in its own namespace (setns(2): its root and folder
    are set again). Raises HostError("host.namespace") where the kernel refuses one of the steps.
    """
    if place is Place.DISK:
        yield
        return
    libc = ctypes.CDLL(None, use_errno=True)
    clone_newns, ms_private, mnt_detach = 0x00020000, 0x4000 | 1 << 18, 2

    def must(result: int, what: str) -> None:
        if result:
            raise HostError("host.namespace", f"{what}: {os.strerror(ctypes.get_errno())}")

    name = os.fsencode(folder)
    options = f"mode=0755,size={size}".encode()
    home, here = os.open("/proc/thread-self/ns/mnt", os.O_RDONLY), os.open(".", os.O_RDONLY | os.O_DIRECTORY)
    try:
        must(libc.unshare(clone_newns), "no mount namespace of our own")
        try:
            must(libc.mount(None, b"/", None, ms_private, None), "mounts cannot be made private")
            must(libc.mount(b"backline-build", name, b"tmpfs", 0, options), "no tmpfs")
            try:
                if place is Place.EXT4:
                    _mount_ext4(folder, size)
                yield
            finally:
                for _ in range(2 if place is Place.EXT4 else 1):
                    libc.umount2(name, mnt_detach)
        finally:
            must(libc.setns(home, clone_newns), "no way back to the mount namespace")
            os.fchdir(here)
    finally:
        os.close(home)
        os.close(here)


def _mount_ext4(folder: Path, size: int) -> None:
    """A new ext4, with a hash seed of its own, in a file of `folder`, mounted over it; the file goes with its mount."""
    file = folder / "ext4"
    file.touch()
    os.truncate(file, size * 9 // 10)
    run(
        [
            "mkfs.ext4",
            "-q",
            "-m0",
            "-i8192",
            "-Elazy_itable_init=1,lazy_journal_init=1,nodiscard",
            "-O^has_journal",
            file,
        ]
    )
    run(["mount", "-o", "loop,noatime", file, folder])
    (folder / "lost+found").rmdir()
