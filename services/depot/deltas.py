"""Deltas between versions: `zstd --patch-from`, made once on gw, so that receivers pull what is new and nothing else.

A delta lies in files/deltas/ROLE/VERSION/FROM/: NAME.zst, and NAME.json (`schema.Delta`), which is there when the delta
is, or when it is known not to be worth it. Promises: what is served has been applied here once, and gave the very file;
one is made at a time; a process that is killed leaves nothing but work for the next start. Why zstd, what it takes in
memory and what it cannot do: docs/decisions/deltas-by-zstd.md.
"""

from __future__ import annotations

import hashlib
import logging
import secrets
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from services.common import patching
from services.common.errors import BacklineError, IntegrityError
from services.common.process import explain_exit, running, spawn
from services.common.versions import Ref
from services.depot.files import Files, Whole, disk_errors, make_folders, names_in, sync, write_whole
from services.depot.schema import Delta

logger = logging.getLogger(__name__)

WORTH = 0.7
"""A delta that is larger than this part of the file is not kept."""
SECONDS = 1800.0


class Stopped(Exception):
    """The service is about to end."""


@dataclass(frozen=True)
class Job:
    """One delta to be made."""

    old: Ref
    new: Ref
    name: str


class Deltas:
    """Makes deltas between the versions of `files`; `count` older ones for each, of files up to `limit` bytes."""

    def __init__(self, files: Files, *, count: int, limit: int) -> None:
        self.files = files
        self.count = count
        self.limit = limit
        self._stopping = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None

    def folder(self, new: Ref, old: str) -> Path:
        """Where the deltas from one version to another are."""
        return self.files.deltas / new.role / new.version / old

    def of(self, ref: Ref) -> list[Delta]:
        """The deltas that there are to a version; also those that are known not to be worth it (`bytes` is None)."""
        found = []
        for old in names_in(self.folder(ref, ".")):
            for name in names_in(self.folder(ref, old)):
                if name.endswith(".json"):
                    found.append(msgspec.json.decode((self.folder(ref, old) / name).read_bytes(), type=Delta))
        return found

    def missing(self, whole: Whole) -> list[Job]:
        """The deltas that are to be made for a version: to each file that is another one, from those before it."""
        before = [other for other in self.files.versions(whole.ref.role) if other.added < whole.added]
        return [
            Job(other.ref, whole.ref, name)
            for other in before[: self.count]
            for name, artefact in whole.files.items()
            if name in other.files
            and other.files[name] != artefact
            and max(artefact.size, other.files[name].size) <= self.limit
            and not (self.folder(whole.ref, other.ref.version) / f"{name}.json").exists()
        ]

    def all_missing(self) -> Iterator[Job]:
        """What is left to do of the newest version of each role: at a start."""
        seen = set()
        for whole in self.files.versions():
            if whole.ref.role not in seen:
                seen.add(whole.ref.role)
                yield from self.missing(whole)

    def stop(self) -> None:
        """End what is running; `make` raises Stopped from now on. From another thread."""
        self._stopping.set()
        if (process := self._process) is not None:
            process.kill()

    def make(self, job: Job) -> Delta:
        """Make a delta, try it, and put it in its place: a second or two, whose memory is the page cache's.

        Raises Stopped, BacklineError: "depot.delta" (it cannot be made), "depot.full".
        """
        old, new = self.files.need(job.old), self.files.need(job.new)
        target = self.folder(job.new, job.old.version)
        work = self.files.work / f"delta-{secrets.token_hex(6)}"
        result = new.files[job.name]
        began = time.monotonic()
        with disk_errors(self.files.root):
            work.mkdir(mode=0o700)
            try:
                base, wanted = self.files.path(job.old, job.name), self.files.path(job.new, job.name)
                delta, tried = work / "delta", work / "tried"
                self._patch("make", base, wanted, delta)
                size: int | None = delta.stat().st_size
                digest: str | None = None
                if size is not None and size > result.size * WORTH:
                    size = None
                if size is not None:
                    self._patch("apply", base, delta, str(result.size), tried)
                    if _sha256(tried) != result.sha256:
                        raise IntegrityError("depot.delta", f"a delta to {job.name} of {job.new} gives something else")
                    tried.unlink()
                    digest = _sha256(delta)
                made = Delta(
                    role=job.new.role,
                    version=job.new.version,
                    from_version=job.old.version,
                    name=job.name,
                    bytes=size,
                    sha256=digest,
                    result_bytes=result.size,
                    result_sha256=result.sha256,
                    from_sha256=old.files[job.name].sha256,
                )
                make_folders(target)
                if size is not None:
                    delta.chmod(0o444)
                    sync(delta)
                    delta.rename(target / f"{job.name}.zst")
                write_whole(
                    target / f"{job.name}.json", msgspec.json.format(msgspec.json.encode(made), indent=2) + b"\n"
                )
            finally:
                shutil.rmtree(work, ignore_errors=True)
        logger.info(
            "delta to %s of %s from %s: %s of %s bytes, %.1f s",
            job.name,
            job.new,
            job.old.version,
            "not worth it," if size is None else size,
            result.size,
            time.monotonic() - began,
        )
        return made

    def _patch(self, *words: str | Path) -> None:
        with self.files.work.joinpath("patch.log").open("w+b") as errors:
            if self._stopping.is_set():
                raise Stopped
            with running(spawn(patching.command(*words), stdout=errors, stderr=errors)) as process:
                self._process = process
                if self._stopping.is_set():
                    process.kill()
                try:
                    code = process.wait(timeout=SECONDS)
                except subprocess.TimeoutExpired:
                    raise BacklineError("depot.delta", f"it took longer than {SECONDS:.0f} s") from None
                finally:
                    self._process = None
            if self._stopping.is_set():
                raise Stopped
            if code != 0:
                errors.seek(0)
                said = errors.read(2000).decode(errors="replace").strip()
                raise BacklineError("depot.delta", f"{explain_exit(code)}: {said}")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
