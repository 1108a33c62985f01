"""The files side by side, and the one rename that switches between two sets of them.

    generations/7/{passwd,group,shadow,root_keys}   a set, complete and on the disk before anything points to it
    current -> generations/7                        what is in force: replaced by one rename(2)

/var/lib/extrausers, where libnss-extrausers looks, has links through `current` (tmpfiles.d/backline-identity.conf), and
so have sshd's. Who dies in between, by a kill or a power cut, leaves the old set or the new one. The set before stays,
for those who have just opened a file of it and want the next.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from services.common.errors import HostError
from services.identity.accounts import FILES, SHADOW

_MODES = {SHADOW: 0o640}
_KEPT = 2


class Folder:
    """The service's folder of state; `shadow` is the number of the group that may read shadow."""

    def __init__(self, path: Path, *, shadow: int | None = None) -> None:
        self.path = path
        self.sets = path / "generations"
        self.current = path / "current"
        self.shadow = shadow

    def number(self) -> int | None:
        """The set in force; None when there is none."""
        try:
            name = Path(os.readlink(self.current)).name
        except OSError:
            return None
        return int(name) if name.isdecimal() and (self.sets / name).is_dir() else None

    def read(self) -> dict[str, str] | None:
        """The files in force; None when there are none."""
        if self.number() is None:
            return None
        try:
            return {name: (self.current / name).read_text() for name in FILES}
        except (OSError, UnicodeDecodeError):
            return None  # made anew

    def put(self, files: Mapping[str, str]) -> bool:
        """Bring files into force; returns whether they were not. Raises HostError("identity.folder")."""
        with self._named():
            if self.read() == files:
                return False
            self._folder(self.path)
            self._folder(self.sets)
            aside = self.sets / ".new"
            if aside.exists():
                shutil.rmtree(aside)
            self._folder(aside)
            for name in FILES:
                self._write(aside / name, files[name])
            _synchronise(aside)
            number = max((each for each in self._numbers()), default=0) + 1
            aside.rename(self.sets / str(number))
            _synchronise(self.sets)
            self._point(number)
            for old in sorted(self._numbers())[:-_KEPT]:
                shutil.rmtree(self.sets / str(old))
            _synchronise(self.sets)
        return True

    def _numbers(self) -> list[int]:
        return [int(each.name) for each in self.sets.iterdir() if each.name.isdecimal()]

    def _point(self, number: int) -> None:
        aside = self.path / "current.new"
        aside.unlink(missing_ok=True)
        aside.symlink_to(f"generations/{number}")
        aside.rename(self.current)
        _synchronise(self.path)

    def _write(self, path: Path, text: str) -> None:
        with path.open("w") as file:
            file.write(text)
            file.flush()
            if path.name in _MODES and self.shadow is not None:
                os.fchown(file.fileno(), -1, self.shadow)
            os.fchmod(file.fileno(), _MODES.get(path.name, 0o644))
            os.fsync(file.fileno())

    def _folder(self, path: Path) -> None:
        if not path.is_dir():
            path.mkdir()
            path.chmod(0o755)  # whatever the umask: everybody looks names up
            _synchronise(path.parent)

    @contextlib.contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            where = str(error.filename or self.path)
            raise HostError("identity.folder", f"{error.strerror}", where=where) from error


def _synchronise(folder: Path) -> None:
    number = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(number)
    finally:
        os.close(number)
