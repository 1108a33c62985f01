"""What a root file server keeps for gw: copies of archives, a folder a host, bounded in number and bytes.

Copies are sealed, and there is no key here: to this server they are bytes with a name. A copy is there as a whole,
hashed and on the disk, or not at all. What is let go follows the rule of gw; nobody can delete one from outside.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from services.common.errors import BusyError, HostError, InputError, IntegrityError, MissingError
from services.state import durable, retention
from services.state.schema import Copy, Settings, parse_name
from services.state.seal import is_sealed

LINES = 4
"""How many lives of a host have copies kept: who makes up new ones pushes out the oldest of them."""
_PIECE = 1024 * 1024
_NEW = ".new"


class Kept:
    """The copies in `settings.kept`. One copy at a time comes in; reading goes on beside it."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.folder = settings.kept
        self._receiving = False
        self._hashes: dict[tuple[str, int, float], str] = {}

    def copies(self, host: str | None = None) -> list[Copy]:
        """Copies of a host, or all; the one that was received last first."""
        found = [self.copy(path) for path in self._paths(host)]
        return sorted((copy for copy in found if copy is not None), key=lambda each: -each.received)

    def path(self, host: str, name: str) -> Path:
        """Where a copy is. Raises MissingError("state.copy")."""
        parsed = parse_name(name)
        path = self.folder / host / name
        if parsed is None or parsed.host != host or not path.is_file():
            raise MissingError(
                "state.copy", f"there is no copy {name} of {host} here", hint="backline state list --from"
            )
        return path

    @contextlib.contextmanager
    def receive(self, host: str, name: str, sha256: str) -> Iterator[Incoming]:
        """Take a copy. What was written and not finished at the end of the block is gone.

        Raises InputError("state.name"), BusyError("state.busy"), HostError("state.full").
        """
        parsed = parse_name(name)
        if parsed is None or parsed.host != host:
            raise InputError("state.name", f"{name!r} is no name of an archive of {host}")
        if self._receiving:
            raise BusyError("state.busy", "another copy is being received")
        self._receiving = True
        try:
            with durable.disk_errors("cannot keep a copy"):
                folder = self.folder / host
                if not folder.is_dir():
                    folder.mkdir(mode=0o700)
                    durable.synchronise(self.folder)
                for stale in folder.glob(f".*{_NEW}"):
                    stale.unlink()
                incoming = Incoming(self, folder / name, sha256)
                try:
                    yield incoming
                finally:
                    incoming.close()
        finally:
            self._receiving = False

    def free(self) -> int:
        """Bytes that a copy may still take on this disk."""
        return shutil.disk_usage(self.folder).free - self.settings.reserve_bytes

    def let_go(self, host: str) -> None:
        """Delete copies of a host that need not stay; of too many bytes, the oldest, but never the newest of a life."""
        copies = [(parse_name(copy.name), copy) for copy in self.copies(host)]
        known = {name: copy for name, copy in copies if name is not None}
        lines = list(dict.fromkeys(name.line for name in known))[:LINES]  # by when they were heard last
        stay = retention.staying(
            [name for name in known if name.line in lines], hourly=self.settings.hourly, daily=self.settings.daily
        )
        newest = {line: next(name for name in known if name.line == line) for line in lines}
        stay |= set(newest.values())
        size = 0
        for name in sorted(stay, key=lambda each: -known[each].received):
            size += known[name].size
            if size > self.settings.kept_bytes and name != newest[name.line]:
                stay.discard(name)
        for name in known.keys() - stay:
            (self.folder / host / str(name)).unlink(missing_ok=True)

    def _paths(self, host: str | None) -> Iterator[Path]:
        if self.folder.is_dir():
            yield from self.folder.glob(f"{host}/*.state" if host is not None else "*/*.state")

    def copy(self, path: Path) -> Copy | None:
        """What there is of a copy; None for what is none."""
        if parse_name(path.name) is None:
            return None
        try:
            info = path.stat()
            known = (str(path), info.st_size, info.st_mtime)
            if known not in self._hashes:
                with path.open("rb") as file:
                    self._hashes[known] = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError:  # let go meanwhile, or a disk that fails: it is no copy
            return None
        host = path.parent.name
        sha256 = self._hashes[known]
        return Copy(host=host, name=path.name, size=info.st_size, sha256=sha256, received=info.st_mtime)


class Incoming:
    """A copy on its way in."""

    def __init__(self, kept: Kept, target: Path, sha256: str) -> None:
        self.kept = kept
        self.target = target
        self.sha256 = sha256
        self.size = 0
        self._aside = target.with_name(f".{target.name}{_NEW}")
        self._hash = hashlib.sha256()
        number = os.open(self._aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        self._file = os.fdopen(number, "wb")

    def write(self, piece: bytes) -> None:
        """Raises InputError("request.size"), HostError("state.full")."""
        self.size += len(piece)
        if self.size > self.kept.settings.archive_bytes:
            raise InputError("request.size", f"a copy has at most {self.kept.settings.archive_bytes} bytes")
        if self.kept.free() < len(piece):
            raise HostError("state.full", "there is no room for another copy on this server")
        self._hash.update(piece)
        self._file.write(piece)

    def finish(self) -> Copy:
        """Put it under its name. Raises IntegrityError: "state.damaged", "state.plain" for one that is not sealed."""
        if self._hash.hexdigest() != self.sha256:
            raise IntegrityError("state.damaged", "what came is not what was sent")
        self._file.flush()
        os.fsync(self._file.fileno())
        if not is_sealed(self._aside):
            raise IntegrityError(
                "state.plain", "only sealed archives are kept here: anybody with this disk could read it"
            )
        self._aside.rename(self.target)
        durable.synchronise(self.target.parent)
        self.kept.let_go(self.target.parent.name)
        copy = self.kept.copy(self.target)
        if copy is None:
            raise HostError("state.full", f"{self.target.name} is older than what is kept")
        return copy

    def close(self) -> None:
        """What was not finished goes. Idempotent."""
        self._file.close()
        self._aside.unlink(missing_ok=True)


def newest(copies: list[Copy], *, not_of: str) -> Copy | None:
    """What to restore: the copy that was received last from another life than this gw's own, if there is one.

    A new gw that has saved itself already must not restore its own emptiness.
    """
    of_others = [copy for copy in copies if (name := parse_name(copy.name)) and name.line != not_of]
    return next(iter([*of_others, *copies]), None)
