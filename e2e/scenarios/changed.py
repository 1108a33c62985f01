"""Versions of nfsroot that differ from this checkout's in a few files, and stores to publish them from."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path

import msgspec

from builder import artefacts, image, recipe, tools
from builder.diff import read_recipe
from builder.image import Shop
from builder.pool import Pool
from builder.recipe import Recipe
from builder.sandbox import Environment
from builder.store import RECIPE, Store
from e2e.iron import overlay
from services.common import manifest as manifests
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


def variant(shop: Shop, ref: Ref, to: Store, work: Path, files: dict[str, str]) -> Ref:
    """A version for `to` alone that no checkout describes: another one's tree with some files more, within seconds.

    Its root and root hash are made as the builder makes them, its kernel and initrd are the other's.
    """
    place, out = shop.store.find(ref.role, ref.version), work / "out"
    out.mkdir(parents=True)
    made = Recipe(role=ref.role, sections={**read_recipe(shop.store, ref), "variant": files})
    epoch, tree = (
        shop.lock.epoch,
        tools.ensure(Pool(shop.settings.cache_path / "pool"), shop.lock, shop.settings.cache_path),
    )
    with overlay(place / "root.erofs", work / "tree") as merged:
        for name, text in files.items():
            file = merged / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        artefacts.make_erofs(tree, merged, out, made, seat=False, epoch=epoch, environment=Environment())
    root_hash = artefacts.make_verity(tree, out, made, epoch=epoch, environment=Environment())
    for name in ("vmlinuz", "initrd"):
        _link(str(place / name), str(out / name))
    manifest = msgspec.structs.replace(
        shop.store.manifest(ref.role, ref.version),
        version=recipe.version(made, shop.lock),
        recipe_id=made.identity,
        root_hash=root_hash,
        artefacts={path.name: manifests.hash_file(path) for path in sorted(out.iterdir())},
    )
    (out / RECIPE).write_bytes(made.data)
    (out / manifests.NAME).write_bytes(manifests.encode(manifest))
    to.add(ref.role, manifest.version, out)
    return Ref(ref.role, manifest.version)


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
