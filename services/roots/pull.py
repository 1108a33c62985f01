"""Pull one version: what is missing, in the cheapest way there is, until it is verified and in its place.

Each file comes from a version that is held and has the same one (a hard link), else as a delta against the newest held
version that the depot has one for (zstd --patch-from), else as a whole. What came of an interrupted pull is kept and
gone on with, also by another process. Nothing is in its place before every byte was compared with what was signed.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from services.common import manifest as manifests
from services.common import patching
from services.common import statement as statements
from services.common.codec import encode_json
from services.common.depot import delta_path, image_path
from services.common.errors import BacklineError, HostError, IntegrityError, MissingError
from services.common.manifest import Artefact, Manifest
from services.common.process import ProcessFailed, run
from services.common.signing import Signer
from services.common.statement import Publication
from services.common.versions import Ref
from services.roots.held import RECORD, Folder, check_file, disk_errors, served, sync
from services.roots.remote import Depot
from services.roots.schema import Record

logger = logging.getLogger(__name__)

BASES = 4
"""How many held versions are asked for as the base of a delta, the newest first."""
DELTA_SECONDS = 1800.0


@dataclass
class Moving:
    """How far a pull is: bytes that came of those that have to, and all bytes of the version."""

    moved: int = 0
    total: int = 0
    full: int = 0
    state: str = "pulling"


Tell = Callable[[Moving], None]


@dataclass(frozen=True)
class _Source:
    """How a file comes here: linked from `link`, or `bytes` to be moved, made from `base` where that is a delta."""

    link: Path | None
    base: Path | None
    path: str
    bytes: int
    sha256: str


class Pull:
    """One pull of the version that `publication` vouches for. `run` does it, in the thread that calls it."""

    def __init__(
        self,
        folder: Folder,
        depot: Depot,
        publication: Publication,
        *,
        signers: Sequence[Signer],
        bases: Sequence[Ref],
        reserve: int = 0,
        delta_bytes: int = 1 << 30,
        tell: Tell = lambda _: None,
        clock: Callable[[], float] = time.time,
        pause: Callable[[float], None] = time.sleep,
        lock: contextlib.AbstractContextManager[object] | None = None,
    ) -> None:
        self.folder = folder
        self.depot = depot
        self.publication = publication
        self.statement = statements.decode(publication.statement)
        self.ref = Ref(self.statement.role, self.statement.version)
        self.aside = folder.aside_of(self.ref)
        self.signers = signers
        self.bases = [base for base in bases if base.role == self.ref.role and base != self.ref]
        self.reserve = reserve
        self.delta_bytes = delta_bytes
        self.moving = Moving()
        self._tell = tell
        self._clock = clock
        self._pause = pause
        self._lock = lock or contextlib.nullcontext()

    def run(self) -> Manifest:
        """Have the version in images/ afterwards; when it is there already, nothing happens but a look.

        Raises IntegrityError (what came is not what was signed: "publish.*", "roots.hash", "depot.size"),
        MissingError("depot.*") and RemoteError (the depot), HostError("roots.full", "roots.disk").
        """
        with disk_errors(self.aside):
            self.folder.hook("make staging")
            self.aside.mkdir(parents=True, exist_ok=True)
            manifest = self._manifest()
            files = served(manifest)
            self._forget_others(files)
            sources = {
                name: self._source(name, wanted) for name, wanted in files.items() if not self._have(name, wanted)
            }
            self.moving.full = sum(wanted.size for wanted in files.values())
            self.moving.total = sum(source.bytes for source in sources.values() if source.link is None)
            self.moving.moved = sum(_size(self._part(name)) for name in sources)
            self._need_room(files, sources)
            self._tell(self.moving)
            for name, source in sources.items():
                self._get(name, files[name], source)
            self.moving.state = "staging"
            self._tell(self.moving)
            self.folder.write(
                self.aside / RECORD, encode_json(Record(publication=self.publication, taken=self._clock()))
            )
            for name in files:
                (self.aside / name).chmod(0o444)
        with self._lock:
            self.folder.place(self.ref)
        return manifest

    def _manifest(self) -> Manifest:
        """The signed manifest, from staging/ or the depot."""
        statements.signers_of(self.publication, self.signers)
        path = self.aside / manifests.NAME
        with contextlib.suppress(FileNotFoundError, IntegrityError):
            return statements.check_manifest(self.statement, path.read_bytes())
        data = self.depot.files.small(image_path(self.ref, manifests.NAME))
        if data is None:
            raise MissingError("depot.file", f"the depot has no {self.ref}")
        manifest = statements.check_manifest(self.statement, data)
        self.folder.write(path, data)
        return manifest

    def _forget_others(self, files: dict[str, Artefact]) -> None:
        """Delete what a pull of other circumstances left: it would be in the version."""
        kept = {manifests.NAME, *files, *(f"{name}.{ending}" for name in files for ending in ("part", "zst"))}
        for entry in self.aside.iterdir():
            if entry.name not in kept:
                entry.unlink()

    def _have(self, name: str, wanted: Artefact) -> bool:
        """Whether a file is in staging/ as a whole; what has its name and is something else goes."""
        path = self.aside / name
        try:
            check_file(path, wanted)
        except FileNotFoundError:
            return False
        except IntegrityError:
            path.unlink()
            return False
        return True

    def _source(self, name: str, wanted: Artefact) -> _Source:
        for base in self.bases:
            with contextlib.suppress(BacklineError):
                if served(self.folder.manifest(base)).get(name) == wanted:
                    return _Source(self.folder.place_of(base) / name, None, "", 0, wanted.sha256)
        whole = _Source(None, None, image_path(self.ref, name), wanted.size, wanted.sha256)
        if wanted.size > self.delta_bytes or self._part(name).exists():
            return whole
        for base in self.bases[:BASES]:
            with contextlib.suppress(BacklineError):
                delta = self.depot.files.delta(self.ref, base.version, name)
                held = served(self.folder.manifest(base)).get(name)
                if delta is None or held is None or held.sha256 != delta.from_sha256:
                    continue
                if delta.bytes is not None and delta.sha256 is not None and delta.bytes < wanted.size:
                    path = delta_path(self.ref, base.version, f"{name}.zst")
                    return _Source(None, self.folder.place_of(base) / name, path, delta.bytes, delta.sha256)
        return whole

    def _part(self, name: str) -> Path:
        return self.aside / f"{name}.part"

    def _need_room(self, files: dict[str, Artefact], sources: dict[str, _Source]) -> None:
        """Raises HostError("roots.full") before the disk is full for everybody."""
        need = sum(
            files[name].size + (source.bytes if source.base else 0) - _size(self._part(name))
            for name, source in sources.items()
            if source.link is None
        )
        if self.folder.free() < need + self.reserve:
            message = f"{self.ref} needs {need} bytes, and {self.reserve} stay free"
            hint = "`backline root gc` removes versions that nobody uses"
            raise HostError("roots.full", message, where=str(self.folder.root), hint=hint)

    def _get(self, name: str, wanted: Artefact, source: _Source) -> None:
        path, part = self.aside / name, self._part(name)
        if source.link is not None:
            self.folder.hook(f"link {name}")
            with contextlib.suppress(OSError):
                os.link(source.link, path)
                check_file(path, wanted)
                return
            path.unlink(missing_ok=True)
            source = _Source(None, None, image_path(self.ref, name), wanted.size, wanted.sha256)
            self.moving.total += wanted.size
        if source.base is not None:
            delta = self.aside / f"{name}.zst"
            try:
                self._download(source, delta)
                check_file(delta, Artefact(size=source.bytes, sha256=source.sha256))
                self._patch(source, delta, wanted, part)
            except (IntegrityError, MissingError, ProcessFailed) as error:
                logger.warning(
                    "%s of %s cannot be made from a delta, and is fetched as a whole: %s", name, self.ref, error
                )
                for made in (delta, part):
                    made.unlink(missing_ok=True)
                source = _Source(None, None, image_path(self.ref, name), wanted.size, wanted.sha256)
                self.moving.total += wanted.size
                self._tell(self.moving)
                self._download(source, part)
            delta.unlink(missing_ok=True)
        else:
            resumed = part.exists()
            self._download(source, part)
            if resumed and not _is(
                part, wanted
            ):  # what an earlier pull had left was no good: once more, from its start
                self.moving.total += wanted.size
                part.unlink()
                self._download(source, part)
        try:
            check_file(part, wanted)
        except IntegrityError:
            part.unlink()
            raise
        self.folder.hook(f"rename {name}")
        part.rename(path)

    def _download(self, source: _Source, target: Path) -> None:
        """Fetch a file, going on after cuts. Raises what the depot's last cut was."""
        self.depot.files.fetch(
            source.path,
            target,
            source.bytes,
            self._moved,
            pause=self._pause,
            began=lambda: self.folder.hook(f"fetch {target.name}"),
        )

    def _moved(self, count: int) -> None:
        self.moving.moved += count
        self._tell(self.moving)

    def _patch(self, source: _Source, delta: Path, wanted: Artefact, part: Path) -> None:
        """Make a file of its base and a delta: memory that it takes is the page cache's."""
        assert source.base is not None
        self.folder.hook(f"patch {part.name}")
        argv = patching.command("apply", source.base, delta, str(wanted.size), part)
        try:
            run(argv, deadline=time.monotonic() + DELTA_SECONDS)
        except ProcessFailed as error:
            if "No space left" in error.completed.stderr:
                part.unlink(missing_ok=True)
                raise HostError("roots.full", "no space left on the disk", where=str(part)) from error
            raise
        sync(part)


def _is(path: Path, wanted: Artefact) -> bool:
    try:
        check_file(path, wanted)
    except IntegrityError:
        return False
    return True


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
