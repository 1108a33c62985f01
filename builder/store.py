"""The store: finished versions, ROOT/images/<role>/<version>/, side by side and immutable.

A version's folder holds manifest.json, recipe.json, the artefacts that the manifest names, and beside them its sources
(`builder.sources`) and signatures over the manifest, `manifest.json.<signer>.sig`, which may be added later. Promises:
a version is there as a whole or not at all, after a kill -9 or a full disk at any moment; its bytes never change; what
else lies around in the store is reported and never read. ROOT/pins, ROOT/current and ROOT/published say which versions
are wanted (`builder.gc`).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import stat
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path

import msgspec

from builder.aside import Aside, Hook, disk_errors, make_folders, no_hook, sync
from builder.wanted import Wanted
from services.common import manifest as manifests
from services.common import signing
from services.common.errors import BacklineError, IntegrityError, MissingError, UsageError, nearest
from services.common.manifest import Manifest
from services.common.versions import Ref, date_of, digits_of, make_ref, valid_role, valid_version

RECIPE = "recipe.json"
SOURCE = "source.tar.zst"
_ARTEFACT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,127}")
_SIGNATURE = re.compile(rf"{re.escape(manifests.NAME)}\.(.+)\.sig")


class Stored(msgspec.Struct, frozen=True, kw_only=True):
    """A version as a list shows it: `added` in seconds since 1970, `size` of the artefacts in bytes."""

    role: str
    version: str
    recipe_id: str
    tree_id: str
    kernel: str | None
    added: float
    size: int
    signatures: list[str]
    path: str

    @property
    def ref(self) -> Ref:
        """Its name."""
        return Ref(self.role, self.version)


class Problem(msgspec.Struct, frozen=True):
    """Something in the store that is no version, and why."""

    path: str
    message: str


class Listing(msgspec.Struct, frozen=True):
    """What is in the store: versions by role, then lock date, then time of adding; and what is not a version."""

    versions: list[Stored]
    problems: list[Problem]


class Store:
    """The store at `root`; made on the first write. `hook` is for tests."""

    def __init__(self, root: Path, *, hook: Hook = no_hook) -> None:
        self.root = root
        self.images = root / "images"
        self.aside = Aside(root / "incoming", hook=hook)
        self.wanted = Wanted(root, self.aside)
        self.hook = hook

    # Names

    def path(self, role: str, version: str) -> Path:
        """Where a version is or would be. Raises UsageError("store.name") when these name none."""
        ref = make_ref(role, version)
        return self.images / ref.role / ref.version

    def have(self, role: str, version: str) -> bool:
        """Whether the version is there; says nothing of its bytes."""
        path = self.path(role, version)
        return (path / manifests.NAME).is_file() and not path.is_symlink()

    def find(self, role: str, version: str) -> Path:
        """The folder of a version. Raises MissingError("store.unknown") with near names."""
        path = self.path(role, version)
        if not self.have(role, version):
            raise self._unknown(f"{role}/{version}")
        return path

    def find_recipe(self, role: str, recipe_id: str) -> Ref | None:
        """The version of this role that was made from this recipe, or None. Reads one manifest, checks sizes.

        Raises IntegrityError("store.tampered") when it is damaged.
        """
        for version in self._names(self.images / role):
            near = valid_version(version) and digits_of(version) == recipe_id[:12] and self.have(role, version)
            if near and self.check(role, version).recipe_id == recipe_id:
                return Ref(role, version)
        return None

    def resolve(self, text: str, *, role: str | None = None) -> Ref:
        """The one version that `text` names: ROLE/VERSION, a version, the beginning of one (or of its hex digits), or
        ROLE alone for its current one. With `role`, only among its versions.

        Raises MissingError("store.unknown") with near names, or UsageError("store.ambiguous") with all candidates.
        """
        wanted_role, slash, wanted = text.rpartition("/")
        role = wanted_role if slash else role
        if not slash and role is None and valid_role(text) and (current := self.current(text)):
            return current
        refs = [ref for ref in self.refs() if role is None or ref.role == role]
        exact = [ref for ref in refs if ref.version == wanted]
        near = [
            ref
            for ref in refs
            if wanted and any(part.startswith(wanted) for part in (ref.version, digits_of(ref.version)))
        ]
        found = exact or near
        if not found:
            raise self._unknown(text)
        if len(found) > 1:
            names = ", ".join(map(str, found))
            raise UsageError(
                "store.ambiguous", f"{text} could be {names}", hint="give more of its digits, or ROLE/VERSION"
            )
        return found[0]

    def refs(self) -> list[Ref]:
        """Every version by name, sorted; folders that hold no manifest are left out."""
        return sorted(
            Ref(role, version)
            for role in self._names(self.images)
            if valid_role(role)
            for version in self._names(self.images / role)
            if valid_version(version) and self.have(role, version)
        )

    def _names(self, folder: Path) -> list[str]:
        try:
            return os.listdir(folder)  # noqa: PTH208
        except (FileNotFoundError, NotADirectoryError):
            return []

    def _unknown(self, text: str) -> MissingError:
        refs = self.refs()
        names = [str(ref) for ref in refs] if "/" in text else [ref.version for ref in refs]
        hint = nearest(text, names) or ("`build list` shows what is there" if refs else "the store is empty")
        return MissingError("store.unknown", f"no version {text}", where=str(self.root), hint=hint)

    # Reading

    def manifest(self, role: str, version: str) -> Manifest:
        """The manifest. Raises MissingError, or IntegrityError when it is broken or of another version."""
        return self._manifest(self.find(role, version), role, version)

    def _manifest(self, folder: Path, role: str, version: str) -> Manifest:
        path = folder / manifests.NAME
        manifest = manifests.decode(_regular(path).read_bytes(), where=str(path))
        if (manifest.role, manifest.version) != (role, version):
            found = f"{manifest.role}/{manifest.version}"
            raise IntegrityError("store.tampered", f"it is the manifest of {found}", where=str(path))
        if manifest.recipe_id[:12] != digits_of(version):
            raise IntegrityError(
                "store.tampered", f"recipe id {manifest.recipe_id} makes another version", where=str(path)
            )
        for name in manifest.artefacts:
            if not _ARTEFACT.fullmatch(name) or name in (manifests.NAME, SOURCE) or _SIGNATURE.fullmatch(name):
                raise IntegrityError("store.tampered", f"{name!r} cannot name an artefact", where=str(path))
        return manifest

    def check(self, role: str, version: str) -> Manifest:
        """The quick check, in a few milliseconds: the manifest can be read, every file is there in its size.

        Raises MissingError("store.unknown") or IntegrityError("store.tampered") that names the file.
        """
        folder = self.find(role, version)
        manifest = self._manifest(folder, role, version)
        self._check_sizes(folder, manifest)
        return manifest

    def _check_sizes(self, folder: Path, manifest: Manifest) -> None:
        for name, artefact in manifest.artefacts.items():
            size = _regular(folder / name).stat().st_size
            if size != artefact.size:
                message = f"{size} bytes, the manifest says {artefact.size}"
                raise IntegrityError("store.tampered", message, where=str(folder / name), hint=_REPAIR)
        _regular(folder / RECIPE)

    def verify(self, role: str, version: str) -> Manifest:
        """The full check: sizes, hashes, and that nothing else lies in the folder.

        Raises MissingError("store.unknown") or IntegrityError("store.tampered") that names the first bad file.
        """
        folder = self.find(role, version)
        manifest = self._manifest(folder, role, version)
        self._verify(folder, manifest)
        return manifest

    def _verify(self, folder: Path, manifest: Manifest) -> None:
        self._check_sizes(folder, manifest)
        expected = {name: artefact.sha256 for name, artefact in manifest.artefacts.items()}
        expected[RECIPE] = manifest.recipe_id
        with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
            found = dict(
                zip(expected, pool.map(lambda name: manifests.hash_file(folder / name), expected), strict=True)
            )
        for name, sha256 in expected.items():
            if found[name].sha256 != sha256:
                message = f"sha256 is {found[name].sha256}, the manifest says {sha256}"
                raise IntegrityError("store.tampered", message, where=str(folder / name), hint=_REPAIR)
        for name in sorted(self._names(folder)):
            if name not in expected and name not in (manifests.NAME, SOURCE) and not _SIGNATURE.fullmatch(name):
                message = "a file that the manifest does not name"
                raise IntegrityError("store.tampered", message, where=str(folder / name), hint=_REPAIR)

    def listing(self) -> Listing:
        """Everything in the store; what is no whole version is a problem of the listing, never an error."""
        versions: list[Stored] = []
        problems: list[Problem] = []
        for role in self._names(self.images):
            folder = self.images / role
            if not valid_role(role) or not folder.is_dir():
                problems.append(Problem(str(folder), "not a folder of a role"))
                continue
            for version in self._names(folder):
                try:
                    if not valid_version(version):
                        raise IntegrityError("store.foreign", "not a folder of a version")
                    versions.append(self._stored(role, version))
                except BacklineError as error:
                    problems.append(Problem(error.where or str(folder / version), error.message))
                except OSError as error:
                    problems.append(Problem(str(folder / version), error.strerror or str(error)))
        versions.sort(key=lambda one: (one.role, date_of(one.version), one.added, one.version))
        return Listing(versions, sorted(problems, key=lambda problem: problem.path))

    def _stored(self, role: str, version: str) -> Stored:
        folder = self.images / role / version
        if not (folder / manifests.NAME).is_file():
            raise IntegrityError("store.tampered", "holds no manifest.json", where=str(folder))
        manifest = self.check(role, version)
        return Stored(
            role=role,
            version=version,
            recipe_id=manifest.recipe_id,
            tree_id=manifest.tree_id,
            kernel=manifest.kernel,
            added=(folder / manifests.NAME).stat().st_mtime,
            size=sum(artefact.size for artefact in manifest.artefacts.values()),
            signatures=sorted(self._signature_files(folder)),
            path=str(folder),
        )

    # Adding

    @contextlib.contextmanager
    def staging(self) -> Iterator[Path]:
        """A folder on the store's disk to build in, for a block: what `add` gets from it is renamed, not copied."""
        with disk_errors(self.root):
            self.aside.clean()
            with self.aside.folder() as folder:
                yield folder

    def add(self, role: str, version: str, staged: Path) -> Path:
        """Put the version in folder `staged` into the store, checked and on disk, in one rename; returns its place.

        A folder from `staging` is used up, any other is copied. When the version is there already, with the same
        manifest, that one is it. Raises IntegrityError: "store.tampered" when the staged files are not those of their
        manifest, "store.conflict" when another manifest has this version; HostError("store.full").
        """
        target = self.path(role, version)
        with disk_errors(self.root):
            self.aside.clean()
            manifest = self._manifest(staged, role, version)
            data = (staged / manifests.NAME).read_bytes()
            if not self._is_there(target, data):
                make_folders(target.parent)
                if staged.resolve().is_relative_to(self.aside.root.resolve()):
                    self._enter(staged, target, manifest, data)
                else:
                    with self.aside.folder() as folder:
                        self._copy(staged, folder, manifest)
                        self._enter(folder, target, manifest, data)
            self.hook("seal")
            _chmod(target, 0o555)
        return target

    def _copy(self, staged: Path, folder: Path, manifest: Manifest) -> None:
        beside = [SOURCE] * (staged / SOURCE).exists() + [*map(_signature_name, self._signature_files(staged))]
        for name in [*manifest.artefacts, RECIPE, manifests.NAME, *beside]:
            self.hook(f"copy {name}")
            shutil.copyfile(_regular(staged / name), folder / name)

    def _enter(self, folder: Path, target: Path, manifest: Manifest, data: bytes) -> None:
        self._verify(folder, manifest)
        os.utime(folder / manifests.NAME)  # the time of adding
        for name in sorted(self._names(folder)):
            self.hook(f"sync {name}")
            (folder / name).chmod(0o444)
            sync(folder / name)
        self.hook("sync folder")
        sync(folder)
        self.hook("rename")
        try:
            folder.rename(target)
        except OSError:
            if not self._is_there(target, data):  # else another process was faster
                raise
        self.aside.release(folder)
        self.hook("sync role")
        sync(target.parent)

    def _is_there(self, target: Path, data: bytes) -> bool:
        try:
            there = (target / manifests.NAME).read_bytes()
        except FileNotFoundError:
            if self._names(target):
                raise IntegrityError(
                    "store.tampered", "holds no manifest.json", where=str(target), hint="`build gc` clears it away"
                ) from None
            return False
        if there != data:
            raise IntegrityError(
                "store.conflict",
                "this version is in the store with another manifest: the same inputs gave other bytes",
                where=str(target),
                hint="`build check ROLE` names what differs",
            )
        return True

    # Signatures

    def _signature_files(self, folder: Path) -> list[str]:
        matches = (_SIGNATURE.fullmatch(name) for name in self._names(folder))
        return sorted(match[1] for match in matches if match and signing.valid_name(match[1]))

    def signatures(self, role: str, version: str) -> dict[str, bytes]:
        """The signatures of a version by the name that each is filed under, which proves nothing."""
        folder = self.find(role, version)
        return {name: (folder / _signature_name(name)).read_bytes() for name in self._signature_files(folder)}

    def add_signature(self, role: str, version: str, name: str, signature: bytes) -> Path:
        """File a signature over the manifest under a signer's name; replaces the one under that name.

        Raises IntegrityError("signature.bad") when it is none for images. Whether it is good is `require_signed`'s.
        """
        signing.check_name(name, what="signer")
        with self.use(role, version) as folder, disk_errors(self.root):
            path = folder / _signature_name(name)
            _, namespace = signing.signed_by(signature, where=path.name)
            if namespace != manifests.SIGNATURE_NAMESPACE:
                message = f"made for {namespace!r}, not {manifests.SIGNATURE_NAMESPACE!r}"
                raise IntegrityError("signature.bad", message, where=path.name)
            try:
                self.aside.write(path, signature, mode=0o444)
            except PermissionError:  # the folder is read-only, and we are its owner but not root
                _chmod(folder, 0o755)
                self.aside.write(path, signature, mode=0o444)
            finally:
                _chmod(folder, 0o555)
        return path

    def require_signed(
        self, role: str, version: str, signers: list[signing.Signer], *, needed: int = 1, at: datetime | None = None
    ) -> list[str]:
        """The names of the trusted signers of a version, sorted, when there are at least `needed`.

        Raises IntegrityError otherwise: "signature.missing" without any signature, "signature.bad" or
        "signature.untrusted" with none that counts, "signature.few" with too few.
        """
        data = (self.find(role, version) / manifests.NAME).read_bytes()
        good: set[str] = set()
        refused: list[IntegrityError] = []
        for name, signature in self.signatures(role, version).items():
            try:
                good.add(signing.verify(data, signature, signers, manifests.SIGNATURE_NAMESPACE, at=at, where=name))
            except IntegrityError as error:
                refused.append(error)
        if len(good) >= needed:
            return sorted(good)
        codes = {error.code for error in refused}
        code = "signature.bad" if "signature.bad" in codes else "signature.untrusted"
        code = "signature.few" if good else code if refused else "signature.missing"
        message = f"{len(good)} of {needed} needed signatures" if refused or good else "is not signed"
        reasons = "".join(f"; signature {error}" for error in refused)
        hint = refused[0].hint if refused else "`build sign` signs it with your key"
        raise IntegrityError(code, message + reasons, where=f"{role}/{version}", hint=hint)

    # What is wanted

    @contextlib.contextmanager
    def use(self, role: str, version: str) -> Iterator[Path]:
        """Hold a version for a block: it is not deleted meanwhile. Raises MissingError("store.unknown")."""
        folder = self.find(role, version)
        try:
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise self._unknown(f"{role}/{version}") from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH)
            if not folder.exists() or not os.path.samestat(os.fstat(descriptor), folder.stat()):
                raise self._unknown(f"{role}/{version}")
            yield folder
        finally:
            os.close(descriptor)

    def pin(self, name: str, ref: Ref) -> None:
        """Keep a version under a name, until `unpin`; a name that is taken moves to this version."""
        with self.use(ref.role, ref.version):
            self.wanted.pin(name, ref)

    def unpin(self, name: str) -> Ref:
        """Take a pin away, and return what it held. Raises MissingError("store.pin") with near names."""
        return self.wanted.unpin(name)

    def pins(self) -> dict[str, Ref]:
        """Pins by name, sorted."""
        return self.wanted.pins()

    def set_current(self, ref: Ref) -> None:
        """Note that this is the last version that was built, or found built, of its role. Writes only a change."""
        if self.wanted.current(ref.role) != ref.version:
            with self.use(ref.role, ref.version):
                self.wanted.set_current(ref)

    def current(self, role: str) -> Ref | None:
        """The version noted by `set_current`, if it is still there."""
        version = self.wanted.current(role)
        return Ref(role, version) if version is not None and self.have(role, version) else None


_REPAIR = "its bytes are no longer what was signed: move the folder away, and build or fetch it again"


def _signature_name(name: str) -> str:
    return f"{manifests.NAME}.{name}.sig"


def _regular(path: Path) -> Path:
    """`path`, which must be a regular file: a symbolic link could point at bytes that nobody checked."""
    try:
        kind = path.lstat().st_mode
    except FileNotFoundError:
        raise IntegrityError("store.tampered", "is missing", where=str(path), hint=_REPAIR) from None
    if not stat.S_ISREG(kind):
        raise IntegrityError("store.tampered", "is not a regular file", where=str(path), hint=_REPAIR)
    return path


def _chmod(folder: Path, mode: int) -> None:
    if stat.S_IMODE(folder.stat().st_mode) != mode:
        folder.chmod(mode)
