"""Small versions for tests: as real as a store can tell."""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from builder import tree
from services.common import manifest as manifests
from services.common.manifest import Artefact, Manifest, Package, Wheel
from services.common.versions import Ref

Recipe = Mapping[str, Mapping[str, str]]


def package(name: str, version: str = "1.0-1", *, architecture: str = "amd64", source: str | None = None) -> Package:
    """A package whose hash follows from its name and version."""
    sha256 = hashlib.sha256(f"{name} {version}".encode()).hexdigest()
    return Package(name, version, architecture, sha256, source or name, version)


def stage(
    folder: Path,
    *,
    role: str = "gw",
    date: str = "20260131",
    recipe: Recipe | None = None,
    root: bytes = b"erofs" * 1000,
    packages: Sequence[Package] = (),
    wheels: Sequence[Wheel] = (),
    entries: Sequence[tree.Entry] = (),
    kernel: str | None = None,
) -> Ref:
    """Write a whole version into `folder` (made when missing), and return its name."""
    folder.mkdir(parents=True, exist_ok=True)
    recipe_bytes = json.dumps({"settings": {"role": role}} if recipe is None else recipe, sort_keys=True).encode()
    tree_bytes = tree.render(entries)
    files = {"root.erofs": root, "root.verity": b"verity", "sbom.cdx.json": b"{}\n"}
    files["tree.zst"] = subprocess.run(["zstd", "-q"], input=tree_bytes, stdout=subprocess.PIPE, check=True).stdout
    if kernel is not None:
        files |= {"vmlinuz": b"MZ", "initrd": b"cpio"}
    for name, data in files.items():
        (folder / name).write_bytes(data)
    (folder / "recipe.json").write_bytes(recipe_bytes)
    recipe_id = hashlib.sha256(recipe_bytes).hexdigest()
    manifest = Manifest(
        role=role,
        version=f"{date}.{recipe_id[:12]}",
        recipe_id=recipe_id,
        tree_id=tree.tree_id(tree_bytes),
        root_hash="0" * 64,
        epoch=1_769_817_600,
        kernel=kernel,
        artefacts={name: Artefact(len(data), hashlib.sha256(data).hexdigest()) for name, data in files.items()},
        packages=sorted(packages),
        wheels=sorted(wheels),
    )
    (folder / manifests.NAME).write_bytes(manifests.encode(manifest))
    return Ref(role, manifest.version)
