"""Two updates of a role, built for real: from the Debian point update before, and a line of configuration.

`older.json` has the packages of images.lock as they stood in the lock before Debian's point update of November 2026,
with that lock's date: all that it changed in a role but the kernel, so far as this project's pool has the older files
(the browser's it has not). The two versions are built by the builder from this checkout, with and without them; the
third one from a copy of the checkout with another line in chrony.conf.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import msgspec

from builder import image, resolve
from builder.image import Shop
from builder.lock import Lock, LockedPackage
from builder.pool import Pool
from services.common.versions import Ref

OLDER = Path(__file__).with_name("older.json")
EDITED = "images/base/mkosi.extra/etc/chrony/chrony.conf"


class Older(msgspec.Struct, frozen=True):
    """Locked packages as they were, and the date of that lock."""

    epoch: int
    packages: list[LockedPackage]


@dataclass(frozen=True)
class Updates:
    """Versions of one role: what machines run, what its packages make of it, and what a line makes of that."""

    older: Ref
    newer: Ref
    edited: Ref
    changed: list[str]
    """Names of the packages that `newer` has in another version than `older`."""


def older() -> Older:
    """The packages of the lock before."""
    return msgspec.json.decode(OLDER.read_bytes(), type=Older)


def older_lock(lock: Lock) -> Lock:
    """`lock` with the packages, and the date, of the one before; its tools tree has still to be made."""
    before = older()
    names = {package.name: package for package in before.packages}
    packages = [
        msgspec.structs.replace(names[package.name], roles=package.roles) if package.name in names else package
        for package in lock.packages
    ]
    return msgspec.structs.replace(lock, epoch=before.epoch, packages=packages)


def changed(lock: Lock, role: str) -> list[str]:
    """The packages of a role that differ."""
    before = {package.name: package.version for package in older_lock(lock).of(role)}
    return [package.name for package in lock.of(role) if before[package.name] != package.version]


def build(shop: Shop, role: str, scratch: Path) -> Updates:
    """Have all three in the shop's store; minutes for a role whose layers are not in the cache.

    Raises `builder.fetch.Gone` where neither pool nor mirror has an older package, with what to set.
    """
    cache = shop.settings.cache_path
    lock = older_lock(shop.lock)
    before = Shop(shop.settings, shop.root, shop.lock_path, shop.progress, lock)
    image.fetch(before, [role])
    lock = msgspec.structs.replace(lock, tools_tree=resolve.tools_tree_id(Pool(cache / "pool"), lock, cache))
    before = Shop(shop.settings, shop.root, shop.lock_path, shop.progress, lock)
    copy = scratch / "checkout"
    if not copy.exists():
        ignored = shutil.ignore_patterns(".venv", ".git", "*_cache", "__pycache__")
        shutil.copytree(shop.root, copy, symlinks=True, ignore=ignored)
        with (copy / EDITED).open("a") as file:
            file.write("# A line more.\n")
    edited = Shop(shop.settings, copy, shop.lock_path, shop.progress, shop.lock)
    return Updates(
        older=image.build(before, role).ref,
        edited=image.build(edited, role).ref,
        newer=image.build(shop, role).ref,
        changed=changed(shop.lock, role),
    )
