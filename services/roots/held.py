"""The folder of a root file server: versions as a whole or not at all, whatever dies when.

    images/ROLE/VERSION/   what is exported: manifest.json, its files, held.json; comes by one rename, never changes
    staging/ROLE/VERSION/  what is being pulled; survives a restart, so that a pull goes on where it was
    trash/                 what was renamed away and is being deleted
    state.json             sequences that were accepted (`services.roots.plan`)

Promises: a version in images/ was verified in full before it came there, and is on disk when `place` returns; taking
one away is one rename, needs no room, and leaves readers of open files alone (their bytes live until they close them).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from services.common import manifest as manifests
from services.common import statement as statements
from services.common.codec import decode_json, encode_json
from services.common.errors import HostError, IntegrityError, MissingError
from services.common.manifest import Artefact, Manifest
from services.common.signing import Signer
from services.common.versions import Ref, valid_role, valid_version
from services.roots.schema import Memory, Record

SERVED = ("root.erofs", "root.verity", "vmlinuz", "initrd")
"""The files of a version that seats read. What else the builder made is not for root file servers."""
NEEDED = ("root.erofs", "root.verity")
RECORD = "held.json"
STATE = "state.json"

Hook = Callable[[str], None]
"""Called with a name before each step that changes the disk; tests die in it."""


def no_hook(step: str, /) -> None:
    """The hook of every day: nothing happens."""


@contextlib.contextmanager
def disk_errors(where: Path) -> Iterator[None]:
    """Turn what a disk can do to a block into HostError("roots.full" or "roots.disk")."""
    try:
        yield
    except OSError as error:
        path = str(error.filename or where)
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            hint = "`backline root gc` removes versions that nobody uses"
            raise HostError("roots.full", "no space left on the disk", where=path, hint=hint) from error
        raise HostError("roots.disk", error.strerror or str(error), where=path) from error


def sync(path: Path) -> None:
    """Put a file's or folder's content on the disk (fsync(2))."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def served(manifest: Manifest) -> dict[str, Artefact]:
    """The files that a root file server holds of a version. Raises IntegrityError("roots.manifest")."""
    found = {name: manifest.artefacts[name] for name in SERVED if name in manifest.artefacts}
    if missing := [name for name in NEEDED if name not in found]:
        raise IntegrityError("roots.manifest", f"{manifest.role}/{manifest.version} has no {', '.join(missing)}")
    return found


def is_open(path: Path) -> bool:
    """Whether anybody else has a file open: a server on behalf of its clients, whoever they are.

    A write lease (fcntl(2), F_SETLEASE) is given only where nobody else has the file open; it is given back at once.
    Taking one on another user's file needs CAP_LEASE. A file system without leases says that it is open.
    """
    with path.open("rb") as file:
        try:
            fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EACCES, errno.EINVAL, errno.ENOLCK):
                return True
            raise
        fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_UNLCK)
        return False


class Folder:
    """One such folder. Methods that change it are to be called by one thread at a time."""

    def __init__(self, root: Path, *, hook: Hook = no_hook) -> None:
        self.root = root
        self.hook = hook
        self.images = root / "images"
        self.staging = root / "staging"
        self.trash = root / "trash"

    def prepare(self) -> None:
        """Make what is missing, and finish what a dead process was removing."""
        with disk_errors(self.root):
            for folder in (self.images, self.staging, self.trash):
                folder.mkdir(parents=True, exist_ok=True)
            self.empty_trash()

    # Reading

    def place_of(self, ref: Ref) -> Path:
        """Where a version is, or would be."""
        return self.images / ref.role / ref.version

    def aside_of(self, ref: Ref) -> Path:
        """Where a version is while it is pulled."""
        return self.staging / ref.role / ref.version

    def refs(self) -> list[Ref]:
        """Every version in images/, verified or not, the newest first."""
        return sorted(_refs(self.images), key=lambda ref: (self._taken(ref), ref), reverse=True)

    def _taken(self, ref: Ref) -> float:
        try:
            return self.record(ref).taken
        except (MissingError, IntegrityError):
            return 0.0

    def have(self, ref: Ref) -> bool:
        """Whether a version is in images/."""
        return self.place_of(ref).is_dir()

    def record(self, ref: Ref, *, folder: Path | None = None) -> Record:
        """Why a version is here. Raises MissingError or IntegrityError("roots.record")."""
        path = (folder or self.place_of(ref)) / RECORD
        try:
            return decode_json(path.read_bytes(), Record)
        except OSError as error:
            raise MissingError("roots.record", f"cannot be read: {error.strerror}", where=str(path)) from error
        except msgspec.DecodeError as error:
            raise IntegrityError("roots.record", f"is broken: {error}", where=str(path)) from error

    def manifest(self, ref: Ref) -> Manifest:
        """What a version says of itself. Raises MissingError, IntegrityError("manifest.*")."""
        path = self.place_of(ref) / manifests.NAME
        try:
            return manifests.decode(path.read_bytes(), where=str(path))
        except OSError as error:
            raise MissingError("roots.manifest", f"cannot be read: {error.strerror}", where=str(path)) from error

    def verify(self, ref: Ref, signers: Sequence[Signer], *, folder: Path | None = None) -> Manifest:
        """Read all of a version, and compare it with what was signed.

        A signer whose key has ended since counts, one who is not among `signers` any more does not. Raises
        IntegrityError: those of `services.common.statement`, "roots.record", "roots.hash"; MissingError for files.
        """
        place = folder or self.place_of(ref)
        record = self.record(ref, folder=place)
        at = datetime.fromtimestamp(record.taken, UTC)
        statements.signers_of(record.publication, signers, at=at)
        statement = statements.decode(record.publication.statement)
        if (statement.role, statement.version) != (ref.role, ref.version):
            raise IntegrityError("roots.record", f"is of {statement.role}/{statement.version}", where=str(place))
        try:
            manifest = statements.check_manifest(statement, (place / manifests.NAME).read_bytes())
            for name, wanted in served(manifest).items():
                check_file(place / name, wanted)
        except OSError as error:
            raise MissingError("roots.file", error.strerror or str(error), where=error.filename) from error
        return manifest

    def size(self, ref: Ref) -> int:
        """Bytes of a version's files."""
        with contextlib.suppress(OSError):
            return sum(entry.stat().st_size for entry in os.scandir(self.place_of(ref)))
        return 0

    def free(self) -> int:
        """Bytes that can be written."""
        info = os.statvfs(self.root)
        return info.f_bavail * info.f_frsize

    def is_open(self, ref: Ref) -> bool:
        """Whether somebody reads the version now: of an NFS client, ganesha; of a seat's iPXE, nginx."""
        place = self.place_of(ref)
        return any(is_open(place / name) for name in SERVED if (place / name).exists())

    # Changing

    def place(self, ref: Ref) -> None:
        """Let a verified version of staging/ appear in images/: one rename, and it is on disk.

        What was there under its name, damaged, goes.
        """
        aside, place = self.aside_of(ref), self.place_of(ref)
        with disk_errors(place):
            self.hook("sync staging")
            sync(aside)
            place.parent.mkdir(exist_ok=True)
            if place.exists():
                self._throw(ref)
            self.hook("rename")
            aside.rename(place)
            self.hook("sync images")
            for folder in (place.parent, self.images, aside.parent):
                sync(folder)
            self.hook("placed")
            self.empty_trash()

    def remove(self, ref: Ref) -> None:
        """Take a version out of images/ and delete it; one that is not there is removed."""
        with disk_errors(self.place_of(ref)):
            if self.have(ref):
                self._throw(ref)
            self.empty_trash()

    def _throw(self, ref: Ref) -> None:
        place = self.place_of(ref)
        gone = self.trash / f"{ref.role}-{ref.version}-{secrets.token_hex(4)}"
        self.hook("throw")
        place.rename(gone)
        self.hook("sync thrown")
        sync(place.parent)

    def empty_trash(self) -> None:
        """Delete what was renamed away; what cannot be deleted is left for the next time."""
        for entry in self.trash.iterdir():
            self.hook("delete")
            shutil.rmtree(entry, ignore_errors=True)

    def sweep(self, wanted: set[Ref]) -> None:
        """Delete pulls that nobody wants to go on with."""
        for ref in _refs(self.staging):
            if ref not in wanted:
                self.hook("sweep")
                shutil.rmtree(self.aside_of(ref), ignore_errors=True)

    # Memory

    def recall(self) -> Memory:
        """What was accepted so far; nothing when it was lost or is unreadable."""
        try:
            return decode_json((self.root / STATE).read_bytes(), Memory)
        except (OSError, msgspec.DecodeError):
            return Memory()

    def remember(self, memory: Memory) -> None:
        """Write down what was accepted. Raises HostError("roots.full", "roots.disk")."""
        self.write(self.root / STATE, encode_json(memory))

    def write(self, path: Path, data: bytes) -> None:
        """A small file in one step, on disk."""
        aside = path.with_name(f".{path.name}.new")
        with disk_errors(path):
            self.hook(f"write {path.name}")
            with aside.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            self.hook(f"rename {path.name}")
            aside.rename(path)
            sync(path.parent)


def check_file(path: Path, wanted: Artefact) -> None:
    """Raises IntegrityError("roots.hash") for a file that is not the one that was signed; OSError."""
    size = path.stat().st_size
    if size != wanted.size:
        raise IntegrityError("roots.hash", f"{size} bytes, and {wanted.size} were signed", where=str(path))
    found = manifests.hash_file(path)
    if found.sha256 != wanted.sha256:
        message = f"SHA-256 {found.sha256[:12]}..., and {wanted.sha256[:12]}... was signed"
        raise IntegrityError("roots.hash", message, where=str(path))


def _refs(folder: Path) -> list[Ref]:
    """The versions in a folder of ROLE/VERSION; what has another name is nobody's."""
    try:
        roles = [entry for entry in folder.iterdir() if valid_role(entry.name) and entry.is_dir()]
    except FileNotFoundError:
        return []
    return [Ref(role.name, entry.name) for role in roles for entry in role.iterdir() if valid_version(entry.name)]
