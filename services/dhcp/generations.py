"""Configurations side by side on disk, and the links that say which one counts. Survives a power cut at any step.

    generations/7/kea-dhcp4.json    a configuration, complete before it has its name
    generations/7/inputs.json       the machines and cards that it was made from
    current -> generations/7        what Kea is to have, and starts with: replaced by one rename(2)
    proved -> generations/6         the last one that a running Kea took

A file is on the disk before its folder gets its name, and that before a link leads to it: fsync(2), then rename(2),
then fsync(2) of the folder that holds the name. So a link never leads to half a configuration.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from services.common.codec import decode_json, encode_json
from services.common.errors import HostError
from services.dhcp.machines import Machine
from services.dhcp.schema import LeftOut

CONFIGURATION = "kea-dhcp4.json"
INPUTS = "inputs.json"
KEPT = 5
"""So many generations stay, to look at."""


class Inputs(msgspec.Struct, frozen=True, kw_only=True):
    """What a configuration was made from, besides the settings. `cards` names gw's cards by their place."""

    cards: dict[int, str]
    machines: list[Machine]
    left_out: list[LeftOut] = []
    position: str | None = None
    made: float = 0.0


@dataclass(frozen=True)
class Generation:
    """One configuration in its folder."""

    path: Path

    @property
    def number(self) -> int:
        return int(self.path.name)

    def configuration(self) -> bytes:
        """The bytes that Kea gets. Raises OSError."""
        return (self.path / CONFIGURATION).read_bytes()

    def inputs(self) -> Inputs | None:
        """None when they cannot be read: as good as none."""
        try:
            return decode_json((self.path / INPUTS).read_bytes(), Inputs)
        except (OSError, msgspec.DecodeError, msgspec.ValidationError):
            return None


class Generations:
    """Those of one gw, in its state folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.sets = folder / "generations"

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Wait until nobody else changes them: the service while Kea runs, and what prepares its start."""
        with _errors():
            self.folder.mkdir(parents=True, exist_ok=True)
            file = (self.folder / "lock").open("a")
        with file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def current(self) -> Generation | None:
        """What Kea is to have."""
        return self._pointed("current")

    def proved(self) -> Generation | None:
        """The last one that a running Kea took."""
        return self._pointed("proved")

    def stage(self, configuration: bytes, inputs: Inputs) -> Path:
        """Write one aside, down to the disk, where nothing looks. What a dead run left there goes."""
        with _errors():
            self.sets.mkdir(parents=True, exist_ok=True)
            aside = self.sets / ".new"
            if aside.exists():
                shutil.rmtree(aside)
            aside.mkdir()
            _write(aside / CONFIGURATION, configuration)
            _write(aside / INPUTS, encode_json(inputs))
            _sync(aside)
            return aside

    def adopt(self, staged: Path) -> Generation:
        """Give a staged one its number. No link leads to it yet."""
        with _errors():
            numbers = [generation.number for generation in self._all()]
            generation = Generation(self.sets / str(max(numbers, default=0) + 1))
            staged.rename(generation.path)
            _sync(self.sets)
            return generation

    def point(self, generation: Generation) -> None:
        """Make it the one that Kea is to have, and starts with."""
        self._link("current", generation)

    def prove(self, generation: Generation) -> None:
        """Note that a running Kea took it."""
        self._link("proved", generation)

    def drop(self, generation: Generation) -> None:
        """Remove one that no link leads to."""
        with _errors():
            shutil.rmtree(generation.path, ignore_errors=True)

    def tidy(self) -> None:
        """Remove what nobody needs any more; harmless to repeat."""
        needed = {each.path for each in (self.current(), self.proved()) if each is not None}
        with _errors():
            for generation in self._all()[:-KEPT]:
                if generation.path not in needed:
                    shutil.rmtree(generation.path, ignore_errors=True)

    def _all(self) -> list[Generation]:
        if not self.sets.is_dir():
            return []
        found = [Generation(path) for path in self.sets.iterdir() if path.name.isdigit()]
        return sorted(found, key=lambda generation: generation.number)

    def _pointed(self, name: str) -> Generation | None:
        try:
            path = self.folder / (self.folder / name).readlink()
        except OSError:
            return None
        return Generation(path) if (path / CONFIGURATION).is_file() else None

    def _link(self, name: str, generation: Generation) -> None:
        with _errors():
            aside = self.folder / f".{name}.new"
            aside.unlink(missing_ok=True)
            aside.symlink_to(generation.path.relative_to(self.folder))
            aside.rename(self.folder / name)
            _sync(self.folder)


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fchmod(file.fileno(), 0o644)  # Kea is another user
        os.fsync(file.fileno())


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _errors() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        where = str(error.filename) if error.filename is not None else None
        raise HostError("dhcp.files", f"a configuration cannot be kept: {error.strerror}", where=where) from error
