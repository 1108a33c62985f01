"""What a version says of itself: `manifest.json`, the one signed file of a version's folder.

The manifest names every artefact with its size and SHA-256, so a signature over it covers them all. It holds nothing
that two builds of the same recipe could differ in: no date of building, no host, no path.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec

from services.common.errors import IntegrityError

FORMAT = 1
NAME = "manifest.json"
SBOM = "sbom.cdx.json"
SIGNATURE_NAMESPACE = "backline-image"


class Artefact(msgspec.Struct, frozen=True):
    """One file of a version: `size` in bytes, `sha256` as 64 hex digits."""

    size: int
    sha256: str


class Package(msgspec.Struct, frozen=True, order=True):
    """One Debian package inside the image."""

    name: str
    version: str
    architecture: str
    sha256: str
    source: str
    source_version: str


class Wheel(msgspec.Struct, frozen=True, order=True):
    """One Python wheel inside the image."""

    name: str
    version: str
    file: str
    sha256: str


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A version: identities, artefacts by file name, packages sorted by name.

    `recipe_id` is the SHA-256 of `recipe.json` (what was asked), `tree_id` the SHA-256 of the tree manifest (what came
    out); `root_hash` is dm-verity's, over root.erofs and root.verity; `epoch` is in seconds since 1970; `kernel` is a
    release as `uname -r` prints it, None where the role has none.
    """

    format: int = FORMAT
    role: str
    version: str
    recipe_id: str
    tree_id: str
    root_hash: str
    epoch: int
    kernel: str | None = None
    artefacts: dict[str, Artefact]
    packages: list[Package]
    wheels: list[Wheel]


def encode(manifest: Manifest) -> bytes:
    """Canonical JSON: sorted keys, two-space indent, one newline at the end. The bytes that are signed."""
    return msgspec.json.format(msgspec.json.encode(manifest, order="sorted"), indent=2) + b"\n"


def decode(data: bytes, *, where: str) -> Manifest:
    """Parse a manifest; raises IntegrityError("manifest.broken") when it is none, or of another format."""
    try:
        manifest = msgspec.json.decode(data, type=Manifest)
    except msgspec.DecodeError as error:
        raise IntegrityError("manifest.broken", f"not a manifest: {error}", where=where) from error
    if manifest.format != FORMAT:
        raise IntegrityError("manifest.format", f"format {manifest.format}, this program reads {FORMAT}", where=where)
    return manifest


def hash_file(path: Path) -> Artefact:
    """Size and SHA-256 of a file."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return Artefact(size=path.stat().st_size, sha256=digest)
