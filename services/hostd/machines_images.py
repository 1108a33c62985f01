"""Versions that machines can run: held on the iron as the store holds them, taken in only when they are what they say.

`take_in` copies a version's folder beside the others: every artefact has the size and SHA-256 of the manifest, and the
manifest a signature of a trusted signer of the hall. Under its own name a version is whole, and never changes.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from services.common import manifest as manifests
from services.common import signing
from services.common.errors import InputError, IntegrityError, MissingError, UsageError
from services.common.versions import valid_role, valid_version
from services.hostd.durable import synchronise
from services.hostd.machines_records import make_folder, remove
from services.hostd.machines_schema import Schema

STATE = "usr/lib/backline/state.toml"
_BLOCK = 1 << 20


class Images:
    """The versions below a folder: ROLE/VERSION/root.erofs."""

    def __init__(self, base: Path) -> None:
        self.base = base

    def versions(self, role: str) -> list[str]:
        """Versions of a role, oldest first."""
        folders = self.base.joinpath(role).glob("*/root.erofs") if valid_role(role) else ()
        found = [path.parent for path in folders if valid_version(path.parent.name)]
        return [path.name for path in sorted(found, key=lambda path: (path.name[:8], path.stat().st_mtime_ns))]

    def roles(self) -> list[str]:
        """Roles that have a version."""
        folders = self.base.iterdir() if self.base.is_dir() else ()
        return sorted(path.name for path in folders if valid_role(path.name) and self.versions(path.name))

    def find(self, role: str, version: str = "") -> str:
        """That version, or the newest one. Raises MissingError("machine.version")."""
        known = self.versions(role)
        if version and version in known:
            return version
        if version or not known:
            raise MissingError(
                "machine.version",
                f"this host does not hold {role} {version}".rstrip(),
                hint=f"it holds: {', '.join(known)}" if known else "`backline machine import FOLDER` takes one in",
            )
        return known[-1]

    def take_in(
        self, folder: Path, signers: Sequence[signing.Signer], *, unsigned: bool, told: Callable[[int], None]
    ) -> tuple[str, str]:
        """Copy a version's folder; returns role and version. `told` gets the number of bytes of each step forward.

        Raises InputError("machine.manifest"), IntegrityError: "manifest.*", "signature.*", "machine.artefact".
        """
        try:
            data = (folder / manifests.NAME).read_bytes()
        except OSError as error:
            raise InputError("machine.manifest", f"this is no version's folder: {error}", where=str(folder)) from error
        manifest = manifests.decode(data, where=str(folder / manifests.NAME))
        if not valid_role(manifest.role) or not valid_version(manifest.version):
            raise IntegrityError("manifest.broken", "it names no version", where=str(folder))
        signatures = sorted(folder.glob(f"{manifests.NAME}.*.sig"))
        if not unsigned:
            _require(data, signatures, signers, folder)
        target = self.base / manifest.role / manifest.version
        if target.exists():
            return manifest.role, manifest.version
        if "root.erofs" not in manifest.artefacts:
            raise InputError("machine.manifest", "this version has no root.erofs", where=str(folder))
        make_folder(target.parent)
        _sweep(target.parent)
        aside = target.with_name(f".{manifest.version}.new")
        aside.mkdir()
        try:
            for path in [folder / manifests.NAME, *signatures]:
                shutil.copyfile(path, aside / path.name)
            for name in ("root.erofs",):
                _copy(folder / name, aside / name, manifest.artefacts[name], told)
            for path in aside.iterdir():
                _synchronise_file(path)
            synchronise(aside)
            aside.rename(target)
        finally:
            remove(aside)
        synchronise(target.parent)
        return manifest.role, manifest.version

    def drop(self, role: str, version: str) -> None:
        """Remove a version that nothing uses; the caller knows that."""
        target = self.base / role / self.find(role, version)
        _sweep(target.parent)
        aside = target.with_name(f".{version}.gone")
        target.rename(aside)
        synchronise(target.parent)
        remove(aside)


def schema(tree: Path) -> Schema | None:
    """What the image in `tree` says of its state; None when it says nothing. Raises InputError("machine.state")."""
    path = tree / STATE
    try:
        return msgspec.convert(tomllib.loads(path.read_text()), Schema)
    except FileNotFoundError:
        return None
    except (tomllib.TOMLDecodeError, msgspec.ValidationError, UnicodeDecodeError) as error:
        raise InputError("machine.state", f"cannot be read: {error}", where=str(path)) from error


def runs_on_newer(old: Schema | None, new: Schema | None) -> bool:
    """Whether the old version declares that it runs on the state that the new one writes."""
    return old is not None and new is not None and new.writes in (old.writes, *old.runs_on)


def parse(text: str) -> tuple[str, str]:
    """`ROLE`, `ROLE@VERSION` or `ROLE/VERSION` as role and version. Raises UsageError("machine.version")."""
    role, _, version = text.replace("/", "@").partition("@")
    if not valid_role(role) or (version and not valid_version(version)):
        raise UsageError("machine.version", f"{text!r} is no version", hint="write it as rhfs@20260131.0123456789ab")
    return role, version


def _require(data: bytes, signatures: list[Path], signers: Sequence[signing.Signer], folder: Path) -> None:
    if not signatures:
        raise IntegrityError(
            "signature.missing",
            "nobody has signed this version",
            where=str(folder),
            hint="`build sign` signs it; --unsigned takes it as it is",
        )
    last: IntegrityError | None = None
    for path in signatures:
        try:
            signing.verify(data, path.read_bytes(), signers, manifests.SIGNATURE_NAMESPACE, where=str(path))
        except IntegrityError as error:
            last = error
        else:
            return
    assert last is not None
    raise last


def _copy(source: Path, target: Path, wanted: manifests.Artefact, told: Callable[[int], None]) -> None:
    digest, size = hashlib.sha256(), 0
    with source.open("rb") as reading, target.open("wb") as writing:
        while block := reading.read(_BLOCK):
            writing.write(block)
            digest.update(block)
            size += len(block)
            told(len(block))
    if size != wanted.size or digest.hexdigest() != wanted.sha256:
        raise IntegrityError(
            "machine.artefact",
            f"it is not what the manifest says: {size} bytes, SHA-256 {digest.hexdigest()[:12]}...",
            where=str(source),
            hint="copy the version again",
        )


def _sweep(folder: Path) -> None:
    """Remove what somebody who died had not finished, but pulls, which go on; callers hold the lock of all machines."""
    for path in folder.glob(".*"):
        if not path.name.startswith(".pull-"):
            remove(path)


def _synchronise_file(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
