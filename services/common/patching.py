"""Deltas between files: what `zstd --patch-from` makes and applies, by libzstd, in memory that the files lend.

Run as a program of its own, which may be killed at any time and takes its memory with it:

    make OLD NEW DELTA           as `zstd -3 --single-thread --patch-from=OLD NEW -o DELTA`
    apply OLD DELTA SIZE NEW     as `zstd -d --long=31 --patch-from=OLD DELTA -o NEW`; SIZE is what NEW has to have

The format is that of zstd(1), RFC 8878: either side may be done by hand with it. zstd(1) reads the older file into
memory and keeps as much again for its window; here both are pages of the files, which the kernel may take back. Its own
is an index of the older file, and the delta, while one is made. A window has 2 GiB at most: that is the largest file.
Of the standard library alone, and libzstd.so.1 (zstd.h, stable since 1.4).
"""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

LARGEST = 2**31 - 1
"""Bytes of the largest file."""
LEVEL = 3
"""Higher ones take twenty times as long for a few percent: what is left is new content."""
# zstd.h: ZSTD_cParameter.
_LEVEL, _WINDOW, _LONG, _CHECKSUM = 100, 101, 160, 201
_UNKNOWN = 2**64 - 2
"""ZSTD_CONTENTSIZE_UNKNOWN and, above it, ZSTD_CONTENTSIZE_ERROR."""


class Failed(Exception):
    """It could not be done, and this is why."""


def command(*words: str | Path) -> list[str | Path]:
    """The argv that does this in a process of its own."""
    return [sys.executable, "-I", "-S", __file__, *words]


def _library() -> ctypes.CDLL:
    found = ctypes.CDLL("libzstd.so.1")
    pointer, size = ctypes.c_void_p, ctypes.c_size_t
    for name, result, arguments in (
        ("ZSTD_createCCtx", pointer, []),
        ("ZSTD_CCtx_setParameter", size, [pointer, ctypes.c_int, ctypes.c_int]),
        ("ZSTD_CCtx_refPrefix", size, [pointer, pointer, size]),
        ("ZSTD_compress2", size, [pointer, pointer, size, pointer, size]),
        ("ZSTD_compressBound", size, [size]),
        ("ZSTD_createDCtx", pointer, []),
        ("ZSTD_DCtx_refPrefix", size, [pointer, pointer, size]),
        ("ZSTD_decompressDCtx", size, [pointer, pointer, size, pointer, size]),
        ("ZSTD_getFrameContentSize", ctypes.c_ulonglong, [pointer, size]),
        ("ZSTD_isError", ctypes.c_uint, [size]),
        ("ZSTD_getErrorName", ctypes.c_char_p, [size]),
    ):
        function = getattr(found, name)
        function.restype, function.argtypes = result, arguments
    return found


class _Pages:
    """Memory and how much of it counts; an empty file has a page too, of which nothing counts."""

    def __init__(self, memory: mmap.mmap, size: int) -> None:
        self.memory = memory
        self.size = size
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(memory))


def _read(path: str) -> _Pages:
    """A file's content; a private mapping, because ctypes takes no address of one that cannot be written."""
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size > LARGEST:
            raise Failed(f"{path} has {size} bytes, more than {LARGEST}")
        if size == 0:
            return _Pages(mmap.mmap(-1, 1), 0)
        flags = mmap.MAP_PRIVATE | _NORESERVE
        return _Pages(mmap.mmap(file.fileno(), size, flags, mmap.PROT_READ | mmap.PROT_WRITE), size)


_NORESERVE = 0x4000
"""mmap(2), MAP_NORESERVE: no page of it is ever written, so none has to be there."""


def make(old: str, new: str, delta: str) -> None:
    """Write what makes `new` of `old`."""
    zstd, before, after = _library(), _read(old), _read(new)
    context = zstd.ZSTD_createCCtx()
    window = min(31, max(10, max(before.size, after.size).bit_length()))  # as zstd(1): both fit in it
    for parameter, value in ((_LEVEL, LEVEL), (_WINDOW, window), (_LONG, 1), (_CHECKSUM, 1)):
        _check(zstd, zstd.ZSTD_CCtx_setParameter(context, parameter, value))
    _check(zstd, zstd.ZSTD_CCtx_refPrefix(context, before.address, before.size))
    bound = zstd.ZSTD_compressBound(after.size)
    room = _Pages(mmap.mmap(-1, bound, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _NORESERVE), bound)
    size = _check(zstd, zstd.ZSTD_compress2(context, room.address, bound, after.address, after.size))
    with open(delta, "wb") as file:
        file.write(memoryview(room.memory)[:size])


def apply(old: str, delta: str, size: int, new: str) -> None:
    """Write `new`, of `size` bytes, from `old` and what `make` wrote. Not on the disk yet when it returns."""
    zstd, before, change = _library(), _read(old), _read(delta)
    found = zstd.ZSTD_getFrameContentSize(change.address, change.size)
    if found > _UNKNOWN - 1 or found != size:
        raise Failed(f"{delta} is no delta to a file of {size} bytes")
    with open(new, "w+b") as file:
        if size == 0:
            return
        os.posix_fallocate(file.fileno(), 0, size)  # a full disk is told now, and not by SIGBUS
        after = _Pages(mmap.mmap(file.fileno(), size), size)
        context = zstd.ZSTD_createDCtx()
        _check(zstd, zstd.ZSTD_DCtx_refPrefix(context, before.address, before.size))
        made = _check(zstd, zstd.ZSTD_decompressDCtx(context, after.address, size, change.address, change.size))
        if made != size:
            raise Failed(f"{delta} gives {made} bytes, not {size}")


def _check(zstd: ctypes.CDLL, result: int) -> int:
    if zstd.ZSTD_isError(result):
        raise Failed(f"libzstd: {zstd.ZSTD_getErrorName(result).decode()}")
    return result


def main(argv: Sequence[str]) -> int:
    """Do what the first word says."""
    try:
        if argv[0] == "make":
            make(*argv[1:])
        else:
            apply(argv[1], argv[2], int(argv[3]), argv[4])
    except Failed as error:
        print(error, file=sys.stderr)
        return 1
    except OSError as error:
        print(
            f"{error.filename or ''}: {error.strerror}", file=sys.stderr
        )  # "No space left on device", as zstd(1) says
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
