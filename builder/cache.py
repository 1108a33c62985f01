"""Finished trees in the cache: layers, tools trees, wheels. There as a whole or not at all, also after a power cut.

A tree is made aside and renamed into place. A rename is in the journal before the bytes of ten thousand files are on
the disk, so until they are, a stamp beside the tree names the boot that made it: after another boot the tree is not
trusted and made again. Waiting for the disk is put off to the end of a build, beside other work.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
from pathlib import Path

from builder.gc import touch_used
from builder.later import Later
from services.common.process import run

FOLDERS = ("layers", "tools", "wheels")
_BOOT = Path("/proc/sys/kernel/random/boot_id")
_UNSYNCED = ".unsynced"


def _stamp(target: Path) -> Path:
    return target.with_name(f"{target.name}{_UNSYNCED}")


def usable(target: Path) -> bool:
    """Whether the tree `target` is there and can be trusted; noted as used. One that cannot be is removed."""
    if not target.is_dir():
        return False
    with contextlib.suppress(FileNotFoundError):
        if _stamp(target).read_text() != _BOOT.read_text():
            aside = target.with_name(f".{target.name}.{os.getpid()}")
            target.rename(aside)
            shutil.rmtree(aside)
            _stamp(target).unlink(missing_ok=True)
            return False
    touch_used(target)
    return True


def keep(tree: Path, target: Path, *, later: Later | None = None) -> Path:
    """Move a finished tree into the cache as `target`; where another build was faster, drop it.

    Returns where the tree can be read from now on. On another file system it is copied; with `later` that is done
    there, and the answer is `tree` itself, which its owner removes.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    if not _stamp(target).exists() and not target.is_dir():
        _stamp(target).write_text(_BOOT.read_text())
    try:
        tree.rename(target)
    except OSError:
        if later is not None and not target.is_dir():
            later.do(_copy, tree, target)
            return tree
        _copy(tree, target)
        shutil.rmtree(tree)
    touch_used(target)
    return target


def _copy(tree: Path, target: Path) -> None:
    """Copy aside, then rename: nothing half copied has the name."""
    if not target.is_dir():
        aside = target.with_name(f".{target.name}.{os.getpid()}")
        shutil.rmtree(aside, ignore_errors=True)
        run(["cp", "--archive", "--reflink=auto", tree, aside])
        aside.rename(target)
        touch_used(target)


def flush(cache: Path) -> None:
    """Wait until every tree of the cache is on the disk (syncfs(2)), and note so."""
    stamps = [stamp for folder in FOLDERS for stamp in (cache / folder).glob(f"*{_UNSYNCED}")]
    if not stamps:
        return
    descriptor = os.open(cache, os.O_RDONLY | os.O_DIRECTORY)
    try:
        if ctypes.CDLL(None, use_errno=True).syncfs(descriptor):
            return  # the stamps stay, so the trees are made again after the next boot
    finally:
        os.close(descriptor)
    for stamp in stamps:
        stamp.unlink(missing_ok=True)
