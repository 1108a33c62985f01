"""Versions of nfsroot that differ from this checkout's in a few files, and stores to publish them from."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from builder import image
from builder.image import Shop
from builder.store import Store
from services.common.progress import Progress
from services.common.versions import Ref

FILE = "etc/backline/new"
GOOD = {FILE: "the new version\n"}
"""What a good version has more; the same for everybody, so that it is built once."""
_ROOT = "images/nfsroot/mkosi.extra"


def build(shop: Shop, root: Path, files: dict[str, str]) -> Ref:
    """A version of nfsroot: this checkout, copied to `root`, with some files more."""
    ignored = shutil.ignore_patterns(".git", ".venv", ".*_cache", "__pycache__", "*.egg-info", ".hypothesis")
    shutil.copytree(shop.root, root, symlinks=True, ignore=ignored)
    for name, text in files.items():
        file = root / _ROOT / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    before = shop.store.current("nfsroot")
    built = image.build(Shop.open(shop.settings, Progress(quiet=True), root=root), "nfsroot")
    if before is not None:
        shop.store.set_current(before)
    return built.ref


def store(of: Store, refs: Iterable[Ref], target: Path) -> Store:
    """A store in `target` with just these versions, the current ones of their roles, as hard links."""
    target.mkdir(mode=0o755, exist_ok=True)
    made = Store(target)
    for ref in refs:
        add(of, ref, made)
        made.set_current(ref)
    return made


def add(of: Store, ref: Ref, to: Store) -> None:
    """Have another store hold a version too, without making it the current one."""
    place = of.find(ref.role, ref.version).relative_to(of.root)
    shutil.copytree(of.root / place, to.root / place, copy_function=_link)


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system
        shutil.copy2(source, target)
