"""Zone files and named.conf on disk: each replaced in one step, and whole again after a power cut.

    named.conf                    what named reads at its start
    zones/hall/prolo.zone         a zone of a view
    feed.json                     mdb's machines as they were last told (`services.common.feed.client`)
    lock                          held by who writes

A file is written aside as NAME.new, synchronised, checked by BIND's own program, and renamed; then the folder is
synchronised. Who dies in between leaves the old file or the new one, and at most a NAME.new that the next one replaces.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
from collections.abc import Collection, Iterator
from pathlib import Path

from services.common.errors import HostError
from services.dns.named import zone_file

CONF = "named.conf"
MEMORY = "feed.json"
_NEW = ".new"
_SOA = re.compile(r"^@ SOA \S+ \S+ (\d{1,10}) ", re.MULTILINE)
# named loads a zone again only when its file is younger than named's own clock was at the last load, which says nothing
# on a gateway whose clock was set back meanwhile. A file from the year 2100 always is (lib/dns/zone.c, zone_load).
_YOUNG = 4_102_444_800_000_000_000


def serial_of(text: str | None) -> int | None:
    """The serial in a zone file of ours, or None."""
    found = _SOA.search(text) if text else None
    return int(found[1]) if found else None


class Folder:
    """The service's folder of state."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.conf = path / CONF
        self.memory = path / MEMORY

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Be the only one who writes. Raises HostError("dns.folder")."""
        with self._named(), (self.path / "lock").open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    @contextlib.contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise HostError("dns.folder", f"{error.strerror}", where=str(error.filename or self.path)) from error

    def zone(self, view: str, zone: str) -> Path:
        """Where a zone's file is."""
        return zone_file(self.path, view, zone)

    def read(self, path: Path) -> str | None:
        """The text of a file; None when there is none, and for one that is no text."""
        try:
            return path.read_text()
        except (FileNotFoundError, UnicodeDecodeError):
            return None

    def stage(self, path: Path, text: str) -> Path:
        """Write a file aside, where nobody looks, onto the disk."""
        _folder(path.parent)
        aside = path.with_name(f"{path.name}{_NEW}")
        with aside.open("w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        aside.chmod(0o644)
        return aside

    def commit(self, aside: Path) -> None:
        """Put a file that was written aside into its place."""
        os.utime(aside, ns=(_YOUNG, _YOUNG))
        aside.rename(aside.with_name(aside.name.removesuffix(_NEW)))
        _synchronise(aside.parent)

    def tidy(self, wanted: Collection[Path]) -> None:
        """Remove the files of zones that are no more, and what dead ones left."""
        for path in sorted((self.path / "zones").rglob("*")):
            if path.is_file() and path not in wanted:
                path.unlink(missing_ok=True)


def _folder(path: Path) -> None:
    if not path.is_dir():
        _folder(path.parent)
        path.mkdir(exist_ok=True)
        path.chmod(0o755)  # named is another user
        _synchronise(path.parent)


def _synchronise(folder: Path) -> None:
    number = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(number)
    finally:
        os.close(number)
