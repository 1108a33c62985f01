"""Readers of one file over NFS 4, each with a connection of its own, which compare what they read with a local copy.

    python -m benchmarks.nfs_reads SERVER PATH LOCAL READERS STOP

A read is open, 64 KiB from anywhere, close. Until the file STOP is there; a line of JSON every second, and at the end.
libnfs 4 by its C interface (nfsc/libnfs.h), because what stands around it in a shell would be most of the work.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import json
import os
import random
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

PIECE = 65536
NFS_V4 = 4


def library() -> ctypes.CDLL:
    """libnfs with the types of what is used of it."""
    found = ctypes.CDLL(ctypes.util.find_library("nfs") or "libnfs.so.13")
    pointer = ctypes.c_void_p
    for name, result, arguments in (
        ("nfs_init_context", pointer, []),
        ("nfs_set_version", ctypes.c_int, [pointer, ctypes.c_int]),
        ("nfs4_set_client_name", None, [pointer, ctypes.c_char_p]),
        ("nfs4_set_verifier", None, [pointer, ctypes.c_char_p]),
        ("nfs_mount", ctypes.c_int, [pointer, ctypes.c_char_p, ctypes.c_char_p]),
        ("nfs_open", ctypes.c_int, [pointer, ctypes.c_char_p, ctypes.c_int, ctypes.POINTER(pointer)]),
        ("nfs_pread", ctypes.c_int, [pointer, pointer, ctypes.c_uint64, ctypes.c_uint64, ctypes.c_char_p]),
        ("nfs_close", ctypes.c_int, [pointer, pointer]),
        ("nfs_get_error", ctypes.c_char_p, [pointer]),
        ("nfs_destroy_context", None, [pointer]),
    ):
        function = getattr(found, name)
        function.restype, function.argtypes = result, arguments
    return found


class Reader(threading.Thread):
    """One connection; `done` reads, of which `failed`."""

    def __init__(self, server: str, path: str, local: Path, stop: threading.Event) -> None:
        super().__init__()
        self.server, self.path, self.local = server, path, local
        self.stop = stop
        self.done = self.failed = 0
        self.problems: list[str] = []

    def run(self) -> None:
        nfs = library()
        context = nfs.nfs_init_context()
        nfs.nfs_set_version(context, NFS_V4)
        # By itself libnfs takes a process for one client, and a server ends what an earlier mount of it has open.
        nfs.nfs4_set_client_name(context, f"reader {os.getpid()} {self.name}".encode())
        nfs.nfs4_set_verifier(context, os.urandom(8).replace(b"\0", b"1"))
        if nfs.nfs_mount(context, self.server.encode(), b"/") != 0:
            self._note(f"mount: {nfs.nfs_get_error(context)!r}")
            return
        buffer = ctypes.create_string_buffer(PIECE)
        size = self.local.stat().st_size
        with self.local.open("rb") as file:
            while not self.stop.is_set():
                offset = random.randrange(max(1, size - PIECE))
                file.seek(offset)
                wanted = file.read(PIECE)
                self.done += 1
                handle = ctypes.c_void_p()
                if nfs.nfs_open(context, self.path.encode(), 0, ctypes.byref(handle)) != 0:
                    self._note(f"open: {nfs.nfs_get_error(context)!r}")
                    continue
                count = nfs.nfs_pread(context, handle, offset, len(wanted), buffer)
                if count != len(wanted) or buffer.raw[:count] != wanted:
                    self._note(f"read: {count} {nfs.nfs_get_error(context)!r}")
                if nfs.nfs_close(context, handle) != 0:
                    self._note(f"close: {nfs.nfs_get_error(context)!r}")
        nfs.nfs_destroy_context(context)

    def _note(self, problem: str) -> None:
        self.failed += 1
        self.problems.append(problem)


def main(argv: Sequence[str]) -> int:
    """Read until told to stop."""
    server, path, local, count, stop = argv
    over = threading.Event()
    readers = [Reader(server, path, Path(local), over) for _ in range(int(count))]
    for reader in readers:
        reader.start()
    while not over.is_set():
        time.sleep(0.5)
        if Path(stop).exists():
            over.set()
            for reader in readers:
                reader.join()
        problems = [problem for reader in readers for problem in reader.problems][:3]
        told = {"reads": sum(each.done for each in readers), "failed": sum(each.failed for each in readers)}
        print(json.dumps({**told, "problems": problems}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
