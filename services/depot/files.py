"""The depot's folder: uploads aside, whole versions in their place. What is served is whole, verified, never changed.

    incoming/ROLE/VERSION/      what is being brought: manifest.json, its signatures, files as far as they are here
    files/images/ROLE/VERSION/  whole versions: put there by one rename, after hashes and fsync
    files/deltas/               `services.depot.deltas`
    work/                       what is in the making; emptied at every start

Promises: whoever is killed, between any two steps, leaves whole versions and uploads that can be resumed; a file that
is not what the manifest says is thrown away, not served.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import secrets
import shutil
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from services.common import manifest as manifests
from services.common.errors import BusyError, HostError, InputError, IntegrityError, MissingError, UsageError
from services.common.manifest import Artefact, Manifest
from services.common.versions import Ref, human, make_ref
from services.depot.schema import SERVED

_ROOM = "`backline depot gc --plan` says what is kept and why; `backline depot rm ROLE/VERSION` deletes one version"


@dataclass(frozen=True)
class Whole:
    """A version in its place."""

    ref: Ref
    manifest: Manifest
    manifest_sha256: str
    added: float

    @property
    def files(self) -> dict[str, Artefact]:
        """What is served of it, beside the manifest."""
        return served(self.manifest)

    @property
    def size(self) -> int:
        """Bytes of its files."""
        return sum(file.size for file in self.files.values())


def served(manifest: Manifest) -> dict[str, Artefact]:
    """The files of a version that machines boot and run from."""
    return {name: manifest.artefacts[name] for name in SERVED if name in manifest.artefacts}


def ref_of(role: str, version: str) -> Ref:
    """The checked name of a version. Raises MissingError("depot.unknown") for what can name none."""
    try:
        return make_ref(role, version)
    except UsageError as error:
        raise MissingError("depot.unknown", f"there is no version {role}/{version}", hint=error.hint) from error


class Files:
    """The folder at `root`. Safe to use from several threads of one process; one process at a time."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.images = root / "files/images"
        self.deltas = root / "files/deltas"
        self.work = root / "work"
        self._incoming = root / "incoming"
        self._lock = threading.Lock()
        self._receiving: set[Path] = set()
        self._read: dict[Ref, Whole] = {}

    def prepare(self) -> None:
        """Make the folders, and clear away what a dead process was making."""
        with disk_errors(self.root):
            shutil.rmtree(self.work, ignore_errors=True)
            for folder in (self.root / "files", self.images, self.deltas):
                make_folders(folder)
            for folder in (self._incoming, self.work):
                folder.mkdir(mode=0o700, exist_ok=True)
            for role in names_in(self.deltas):
                for version in names_in(self.deltas / role):
                    if not (self.images / role / version).is_dir():  # it died while it deleted that version
                        self._throw(self.deltas / role / version)

    # Reading

    def find(self, ref: Ref) -> Whole | None:
        """A version that is whole."""
        folder = self.images / ref.role / ref.version
        try:
            added = (folder / manifests.NAME).stat().st_mtime
        except FileNotFoundError:
            self._read.pop(ref, None)
            return None
        known = self._read.get(ref)
        if known is None or known.added != added:
            data = (folder / manifests.NAME).read_bytes()
            manifest = manifests.decode(data, where=str(ref))
            known = self._read[ref] = Whole(ref, manifest, hashlib.sha256(data).hexdigest(), added)
        return known

    def need(self, ref: Ref) -> Whole:
        """As `find`. Raises MissingError("depot.unknown")."""
        whole = self.find(ref)
        if whole is None:
            raise MissingError("depot.unknown", f"the depot has no version {ref}", hint="`backline depot versions`")
        return whole

    def versions(self, role: str | None = None) -> list[Whole]:
        """Every whole version, by role, the newest arrival first."""
        roles = [role] if role is not None else names_in(self.images)
        found = [self.find(Ref(each, version)) for each in roles for version in names_in(self.images / each)]
        whole = [each for each in found if each is not None]
        return sorted(whole, key=lambda each: (each.ref.role, -each.added, each.ref.version))

    def path(self, ref: Ref, name: str) -> Path:
        """A file of a whole version."""
        return self.images / ref.role / ref.version / name

    # Bringing a version

    def begin(self, ref: Ref, data: bytes, signatures: Mapping[str, bytes]) -> dict[str, int] | None:
        """Announce a version by its manifest and signatures by signer; the caller has verified these.

        Returns how much of each file is here that is not whole; None when the version is. The same version with another
        manifest starts anew. Raises IntegrityError("manifest.broken"), InputError("depot.manifest"),
        BusyError("conflict.version") for a version that is here as a whole and has another manifest.
        """
        manifest = manifests.decode(data, where=str(ref))
        if (manifest.role, manifest.version) != (ref.role, ref.version):
            raise InputError(
                "depot.manifest", f"this is the manifest of {manifest.role}/{manifest.version}, not of {ref}"
            )
        if "root.erofs" not in manifest.artefacts:
            raise InputError("depot.manifest", f"{ref} has no root.erofs", hint="only images can be published")
        with self._lock, disk_errors(self.root):
            whole = self.find(ref)
            if whole is not None:
                if whole.manifest_sha256 != hashlib.sha256(data).hexdigest():
                    message = f"{ref} is here with another manifest: the same inputs gave other bytes"
                    raise BusyError("conflict.version", message, hint="`build check ROLE` names what differs")
                self._add_signatures(self.images / ref.role / ref.version, signatures)
                return None
            return self._missing(ref, manifest, data, signatures)

    def _missing(self, ref: Ref, manifest: Manifest, data: bytes, signatures: Mapping[str, bytes]) -> dict[str, int]:
        folder = self._incoming / ref.role / ref.version
        if folder.is_dir() and _content(folder / manifests.NAME) != data:
            shutil.rmtree(folder)
        if not folder.is_dir():
            folder.parent.mkdir(mode=0o700, exist_ok=True)
            folder.mkdir(mode=0o700)
        write_whole(folder / manifests.NAME, data)
        self._add_signatures(folder, signatures)
        for name, artefact in served(manifest).items():
            if not (folder / name).exists() and (same := self._same(ref.role, artefact)) is not None:
                os.link(same, folder / name)
        sizes = {name: size_of(folder / name) for name in served(manifest)}
        missing = {name: size for name, size in sizes.items() if size != manifest.artefacts[name].size}
        self._require_room(sum(manifest.artefacts[name].size - size for name, size in missing.items()))
        return missing

    def free(self) -> int:
        """Bytes that the disk has room for."""
        disk = os.statvfs(self.root)
        return disk.f_bavail * disk.f_frsize

    def _require_room(self, needed: int) -> None:
        """Say before the first byte that it will not fit. Raises HostError("depot.full")."""
        if needed > (free := self.free()):
            message = f"{human(needed)} are to be brought, and the disk has room for {human(free)}"
            raise HostError("depot.full", message, where=str(self.root), hint=_ROOM)

    def _same(self, role: str, artefact: Artefact) -> Path | None:
        """A file of another version of the role with these bytes: a kernel is the same in many."""
        for other in self.versions(role):
            for name, known in other.files.items():
                if known == artefact:
                    return self.path(other.ref, name)
        return None

    def _add_signatures(self, folder: Path, signatures: Mapping[str, bytes]) -> None:
        for signer, signature in signatures.items():
            path = folder / f"{manifests.NAME}.{signer}.sig"
            if _content(path) != signature:
                write_whole(path, signature)

    @contextlib.contextmanager
    def receive(self, ref: Ref, name: str, offset: int) -> Iterator[Sink]:
        """Where the bytes of a file go from `offset` on, which is how much of it is here.

        Raises MissingError("depot.upload") for a file that nobody announced, BusyError: "depot.receiving" (another
        request is bringing it), "depot.offset" (so much is not here, or more).
        """
        folder = self._incoming / ref.role / ref.version
        path = folder / name
        with self._lock:
            data = _content(folder / manifests.NAME)
            files = served(manifests.decode(data, where=str(ref))) if data is not None else {}
            if name not in files:
                hint = "announce the version first, with its manifest"
                raise MissingError("depot.upload", f"nobody is bringing {name} of {ref}", hint=hint)
            if path in self._receiving:
                raise BusyError("depot.receiving", f"{name} of {ref} is being brought by somebody else")
            here = size_of(path)
            if offset != here:
                hint = "announce the version again: the answer says where to go on"
                raise BusyError("depot.offset", f"{here} bytes of {name} are here, not {offset}", hint=hint)
            self._receiving.add(path)
        try:
            with disk_errors(self.root), path.open("ab", buffering=0) as file:
                yield Sink(file.fileno(), here, files[name].size)
        finally:
            self._receiving.discard(path)

    def complete(self, ref: Ref) -> Whole:
        """Verify what was brought, and put it in its place. A version that is there is left as it is.

        Raises MissingError("depot.upload"), BusyError("depot.receiving"), InputError("depot.incomplete"), and
        IntegrityError("depot.hash") when a file is not the manifest's: it is thrown away, the others stay.
        """
        folder = self._incoming / ref.role / ref.version
        with self._lock, disk_errors(self.root):
            if (whole := self.find(ref)) is not None:
                return whole
            data = _content(folder / manifests.NAME)
            if data is None:
                raise MissingError("depot.upload", f"nobody is bringing {ref}")
            if any(path.parent == folder for path in self._receiving):
                raise BusyError("depot.receiving", f"a file of {ref} is being brought")
            files = served(manifests.decode(data, where=str(ref)))
            lacking = [name for name, artefact in files.items() if size_of(folder / name) != artefact.size]
            if lacking:
                raise InputError("depot.incomplete", f"not all of {ref} is here yet: {', '.join(lacking)}")
            for name, artefact in files.items():
                self._check(folder / name, artefact, ref)
            self._enter(ref, folder)
            return self.need(ref)

    def _check(self, path: Path, artefact: Artefact, ref: Ref) -> None:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            os.fsync(file.fileno())
        if digest != artefact.sha256:
            path.unlink()
            message = f"{path.name} of {ref} is not what its manifest says: SHA-256 {digest[:12]}..."
            raise IntegrityError("depot.hash", message, hint="it was thrown away; bring it again")

    def _enter(self, ref: Ref, folder: Path) -> None:
        target = self.images / ref.role / ref.version
        make_folders(target.parent)
        for path in folder.iterdir():
            if path.name not in SERVED and not path.name.startswith(manifests.NAME):
                path.unlink()  # what a killed process was writing aside
            elif path.stat().st_nlink == 1:
                path.chmod(0o444)
        folder.chmod(0o755)
        os.utime(folder / manifests.NAME)  # when it came here
        sync(folder)
        folder.rename(target)
        sync(target.parent)
        sync(folder.parent)

    # Clearing up

    def remove(self, ref: Ref) -> None:
        """Delete a whole version and the deltas to it: out of sight in one step, then gone. Raises MissingError.

        Deltas from it to others stay: who holds it can use them.
        """
        with self._lock, disk_errors(self.root):
            self.need(ref)
            for kind in (self.images, self.deltas):
                with contextlib.suppress(FileNotFoundError):
                    self._throw(kind / ref.role / ref.version)

    def _throw(self, folder: Path) -> None:
        gone = self.work / f"gone-{secrets.token_hex(6)}"
        folder.rename(gone)
        sync(folder.parent)
        shutil.rmtree(gone)

    def forget_uploads(self, *, older: float) -> list[Ref]:
        """Delete uploads that nobody has touched for `older` seconds."""
        forgotten = []
        for role in names_in(self._incoming):
            for version in names_in(self._incoming / role):
                folder = self._incoming / role / version
                with self._lock:
                    busy = any(path.parent == folder for path in self._receiving)
                    touched = max((each.stat().st_mtime for each in folder.iterdir()), default=folder.stat().st_mtime)
                    if not busy and touched < time.time() - older:
                        shutil.rmtree(folder)
                        forgotten.append(Ref(role, version))
        return forgotten


class Sink:
    """The end of a file that is being brought: `size` bytes are here of `wanted`."""

    def __init__(self, descriptor: int, size: int, wanted: int) -> None:
        self._descriptor = descriptor
        self.size = size
        self.wanted = wanted

    def write(self, piece: bytes) -> None:
        """Append. Raises UsageError("depot.size") when there would be more than the manifest says."""
        if self.size + len(piece) > self.wanted:
            raise UsageError("depot.size", f"the file has {self.wanted} bytes, and more were sent")
        view = memoryview(piece)
        while view:
            written = os.write(self._descriptor, view)
            self.size += written
            view = view[written:]


# The disk


@contextlib.contextmanager
def disk_errors(where: Path) -> Iterator[None]:
    """Turn what a disk can do to a block into HostError: "depot.full" or "depot.disk"."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise HostError("depot.full", "no space left on the depot's disk", where=str(where), hint=_ROOM) from error
        raise HostError("depot.disk", f"the depot's disk: {error.strerror or error}", where=str(where)) from error


def names_in(folder: Path) -> Sequence[str]:
    """The names in a folder, sorted; none where there is no folder."""
    try:
        return sorted(path.name for path in folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []


def size_of(path: Path) -> int:
    """Bytes of a file; 0 for one that is not there."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def sync(path: Path) -> None:
    """Put a file's or folder's content on the disk (fsync(2))."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folders(path: Path) -> None:
    """Make a folder and its missing parents, 0755 whatever the umask: nginx, another user, reads in them."""
    if not path.is_dir():
        make_folders(path.parent)
        path.mkdir(exist_ok=True)
        path.chmod(0o755)
        sync(path.parent)


def write_whole(path: Path, data: bytes) -> None:
    """Write a small file that everybody may read: it is there whole or not at all."""
    aside = path.with_name(f".{path.name}.new")
    with aside.open("wb") as file:
        file.write(data)
        file.flush()
        os.fchmod(file.fileno(), 0o444)
        os.fsync(file.fileno())
    aside.rename(path)
    sync(path.parent)


def _content(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
