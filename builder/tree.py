"""The tree manifest: one line per entry of a root tree, sorted bytewise by path, and the tree id over it.

A line is nine fields separated by tabs: path, type (f d l c b p s), mode (octal), uid, gid, mtime (seconds), size
(bytes; 0 unless a file), content (SHA-256 of a file, target of a link, major:minor of a device, "-" otherwise) and
extended attributes (name=hex, comma separated, or "-"). Every byte of a name outside printable ASCII, and "%", is
written %XX. Nothing here depends on readdir order, inode numbers, atime or ctime.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote, unquote_to_bytes

_SAFE = "/!\"#$&'()*+,:;<=>?@[]^`{|}\\ "
_KINDS = {
    stat.S_IFREG: "f",
    stat.S_IFDIR: "d",
    stat.S_IFLNK: "l",
    stat.S_IFCHR: "c",
    stat.S_IFBLK: "b",
    stat.S_IFIFO: "p",
    stat.S_IFSOCK: "s",
}
_CHUNK = 1 << 20

OVERLAP = 256
"""Bytes of a file that an inspector sees again at the start of the next chunk: longer than what it looks for."""

Inspector = Callable[[bytes, bytes], None]
"""Called with (path, chunk) for each chunk of each regular file while it is hashed, from several threads.

A chunk begins with the last OVERLAP bytes of the one before, so that nothing hides across a border.
"""


class Entry(NamedTuple):
    """One entry of a tree; `path` is relative, "." the root itself."""

    path: bytes
    kind: str
    mode: int
    uid: int
    gid: int
    mtime: int
    size: int
    content: str
    xattrs: str

    def line(self) -> str:
        """The entry as a line of the tree manifest, without its newline."""
        head = f"{quote(self.path, safe=_SAFE)}\t{self.kind}\t{self.mode:04o}\t{self.uid}\t{self.gid}"
        return f"{head}\t{self.mtime}\t{self.size}\t{self.content}\t{self.xattrs}"

    @classmethod
    def parse(cls, line: str) -> Entry:
        """The reverse of `line`. Raises ValueError on anything else."""
        path, kind, mode, uid, gid, mtime, size, content, xattrs = line.rstrip("\n").split("\t")
        return cls(
            unquote_to_bytes(path), kind, int(mode, 8), int(uid), int(gid), int(mtime), int(size), content, xattrs
        )


def _xattrs(path: bytes) -> str:
    names = sorted(os.listxattr(path, follow_symlinks=False))
    if not names:
        return "-"
    values = ((os.fsencode(name), os.getxattr(path, name, follow_symlinks=False)) for name in names)
    return ",".join(f"{quote(name, safe='.')}={value.hex()}" for name, value in values)


def _digest(path: bytes, name: bytes, inspect: Inspector | None) -> str:
    digest = hashlib.sha256()
    seen = b""
    with open(path, "rb", buffering=0) as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
            if inspect is not None:
                seen += chunk
                inspect(name, seen)
                seen = seen[-OVERLAP:]
    return digest.hexdigest()


def _entry(root: bytes, name: bytes, inspect: Inspector | None) -> Entry:
    path = os.path.join(root, name)
    info = os.lstat(path)
    kind = _KINDS[stat.S_IFMT(info.st_mode)]
    content = "-"
    if kind == "f":
        content = _digest(path, name, inspect)
    elif kind == "l":
        content = quote(os.readlink(path), safe=_SAFE)
    elif kind in "cb":
        content = f"{os.major(info.st_rdev)}:{os.minor(info.st_rdev)}"
    size = info.st_size if kind == "f" else 0
    mode = stat.S_IMODE(info.st_mode)
    seconds = info.st_mtime_ns // 10**9  # st_mtime is a float, which rounds up
    return Entry(name, kind, mode, info.st_uid, info.st_gid, seconds, size, content, _xattrs(path))


def names(root: Path) -> list[bytes]:
    """Every path below `root`, relative, bytewise sorted, "." first."""
    top = os.fsencode(root)
    found = [b"."]
    stack = [b""]
    while stack:
        folder = stack.pop()
        with os.scandir(os.path.join(top, folder)) as entries:
            for entry in entries:
                name = os.path.join(folder, entry.name)
                found.append(name)
                if entry.is_dir(follow_symlinks=False):
                    stack.append(name)
    found.sort()
    return found


def scan(root: Path, *, inspect: Inspector | None = None) -> Iterator[Entry]:
    """Every entry of the tree at `root`, in manifest order; files are hashed on all CPUs."""
    top = os.fsencode(root)
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        yield from pool.map(lambda name: _entry(top, name, inspect), names(root), chunksize=64)


def render(entries: Iterable[Entry]) -> bytes:
    """The tree manifest's bytes."""
    return "".join(f"{entry.line()}\n" for entry in entries).encode()


def parse(data: bytes) -> dict[bytes, Entry]:
    """A tree manifest's entries by path. Raises ValueError when it is none."""
    return {entry.path: entry for entry in map(Entry.parse, data.decode().splitlines())}


def tree_id(manifest: bytes) -> str:
    """The tree id: SHA-256 over the tree manifest, 64 hex digits."""
    return hashlib.sha256(manifest).hexdigest()
