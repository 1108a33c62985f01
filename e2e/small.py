"""Versions of a few megabytes, for what does not care whether they boot: publishing, serving, removing."""

from __future__ import annotations

import hashlib
from pathlib import Path

from services.common import manifest as manifests
from services.common.manifest import Artefact, Manifest
from services.common.versions import Ref


def noise(seed: int, size: int) -> bytes:
    """Bytes that do not compress, the same for the same seed."""
    return hashlib.shake_256(str(seed).encode()).digest(size)


def version(folder: Path, root: bytes, *, role: str = "nfsroot", date: str = "20260131") -> Ref:
    """Write a version with that root into `folder`/VERSION, and return its name, which follows from the root."""
    files = {"root.erofs": root, "root.verity": b"verity", "vmlinuz": b"MZ", "initrd": b"cpio"}
    about = f'{{"root": "{hashlib.sha256(root).hexdigest()}"}}'.encode()
    recipe = hashlib.sha256(about).hexdigest()
    made = Manifest(
        role=role,
        version=f"{date}.{recipe[:12]}",
        recipe_id=recipe,
        tree_id=recipe,
        root_hash=recipe,
        epoch=1_769_817_600,
        kernel="6.12",
        artefacts={name: Artefact(len(data), hashlib.sha256(data).hexdigest()) for name, data in files.items()},
        packages=[],
        wheels=[],
    )
    place = folder / made.version
    place.mkdir(parents=True)
    for name, data in files.items():
        (place / name).write_bytes(data)
    (place / manifests.NAME).write_bytes(manifests.encode(made))
    (place / "recipe.json").write_bytes(about)
    return Ref(role, made.version)
