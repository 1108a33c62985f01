"""Rendered sets of files, side by side under /run/backline/hall, and the one rename that switches between them.

    generations/7/files/run/systemd/network/10-....network   a set, complete before anything points to it
    generations/7/hall.toml, identity.json                   what it was made from
    current -> generations/7                                 what is in force: replaced by one rename(2)
    told -> generations/7                                    the set that the daemons were told of
    /run/systemd/network/10-....network -> .../current/files/run/systemd/network/10-....network

Daemons read through `current`, so all files change together. Links for new targets are made before the switch (they
dangle until then) and those of vanished targets removed after it. Whoever dies in between leaves one complete set in
force; the next run cleans up. /run is memory: nothing is synchronised to disk, and nothing survives the machine.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath

from services.common.errors import BusyError, HostError
from services.hall.render import IMAGE_LINKS, File, Identity

BASE = PurePosixPath("/run/backline/hall")
_NEW = ".backline-new"


@dataclass(frozen=True)
class Generation:
    """One set in its folder."""

    path: Path

    @property
    def number(self) -> int:
        """Its place in the order of sets since this machine's start."""
        return int(self.path.name)

    @property
    def source(self) -> str:
        """The hall.toml that it was made from."""
        return (self.path / "hall.toml").read_text()

    @property
    def identity(self) -> Identity:
        """The machine that it was made for."""
        return Identity(**json.loads((self.path / "identity.json").read_text()))

    def files(self) -> dict[str, File]:
        """The set, by absolute target path."""
        found = {}
        top = self.path / "files"
        for folder, _, names in os.walk(top):
            for name in names:
                path = Path(folder, name)
                target = f"/{path.relative_to(top)}"
                if path.is_symlink():
                    found[target] = File(str(path.readlink()), link=True)
                else:
                    found[target] = File(path.read_text(), path.stat().st_mode & 0o7777)
        return found


def inside(root: Path, target: str | PurePosixPath) -> Path:
    """Where an absolute path of the machine is when its root is `root`."""
    return root / str(target).lstrip("/")


class Generations:
    """The sets of one machine, whose root folder is `root`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.base = inside(root, BASE)
        self.sets = self.base / "generations"

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Keep others from changing sets. Raises BusyError when someone is at it."""
        _folder(self.base)
        _folder(self.sets)
        with (self.base / "lock").open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise BusyError(
                    "hall.busy", "the hall is being applied by another process", where=str(self.base / "lock")
                ) from error
            yield

    def current(self) -> Generation | None:
        """The set in force."""
        return self._pointed(self.base / "current")

    def told(self) -> Generation | None:
        """The set that the daemons were last told of."""
        return self._pointed(self.base / "told")

    def _pointed(self, link: Path) -> Generation | None:
        try:
            path = self.base / link.readlink()
        except FileNotFoundError:
            return None
        return Generation(path) if path.is_dir() else None

    def _all(self) -> list[Generation]:
        found = [Generation(path) for path in self.sets.iterdir() if path.name.isdigit()]
        return sorted(found, key=lambda generation: generation.number)

    def stage(self, files: Mapping[str, File], *, source: str, identity: Identity) -> Path:
        """Write a set aside, where nothing looks, and return its folder. What a dead run left there is removed."""
        aside = self.sets / ".new"
        if aside.exists():
            shutil.rmtree(aside)
        _folder(aside)
        _folder(aside / "files")
        for target, file in files.items():
            path = inside(aside / "files", target)
            _folder(path.parent)
            if file.link:
                path.symlink_to(file.content)
            else:
                _write(path, file.content, file.mode)
        _write(aside / "hall.toml", source, 0o644)
        _write(aside / "identity.json", json.dumps(asdict(identity)), 0o644)
        return aside

    def adopt(self, staged: Path) -> Generation:
        """Put a staged set into force."""
        known = self._all()
        generation = Generation(self.sets / str(known[-1].number + 1 if known else 1))
        staged.rename(generation.path)
        self._link(generation)
        _point(self.base / "current", f"generations/{generation.path.name}")
        return generation

    def mark_told(self, generation: Generation) -> None:
        """Note that the daemons know this set."""
        _point(self.base / "told", f"generations/{generation.path.name}")

    def tidy(self) -> None:
        """Bring links in line with the set in force and remove sets that nobody needs; harmless to repeat."""
        current = self.current()
        if current is None:
            return
        self._link(current)
        wanted = set(current.files())
        for generation in self._all():
            for target in set(generation.files()) - wanted:
                link = inside(self.root, target)
                if link.is_symlink() and _into_current(link, target):
                    link.unlink(missing_ok=True)
        told = self.told()
        keep = {current.path, *(told.path for told in [told] if told is not None)}
        before = [generation for generation in self._all() if generation.path not in keep]
        for generation in before[:-1]:  # the one before stays, to look at
            shutil.rmtree(generation.path)
        if (self.sets / ".new").exists():
            shutil.rmtree(self.sets / ".new")

    def _link(self, generation: Generation) -> None:
        for target in generation.files():
            if target.startswith("/run/"):
                link = inside(self.root, target)
                if not (link.is_symlink() and _into_current(link, target)):
                    _folder(link.parent)
                    _point(link, _way(target))

    def unlinked(self) -> list[str]:
        """Targets in /etc that this image does not take from the set in force."""
        return [target for target in IMAGE_LINKS if not _into_current(inside(self.root, target), target)]


def differences(before: Generation | None, after: Generation) -> set[str]:
    """Targets that are not the same in two sets."""
    old, new = before.files() if before else {}, after.files()
    return {target for target in {*old, *new} if old.get(target) != new.get(target)}


def write_atomically(path: Path, content: bytes) -> None:
    """Replace a file in one step; readers see the old content or the new one."""
    _folder(path.parent)
    aside = path.with_name(f"{path.name}{_NEW}")
    aside.unlink(missing_ok=True)
    aside.write_bytes(content)
    aside.chmod(0o644)
    aside.rename(path)


def image_link(target: str) -> str:
    """Where an image's symbolic link for `target` points to."""
    return f"{BASE}/current/files{target}"


def _way(target: str) -> str:
    """From the folder of `target` to its file in the set in force; relative, so that it holds below any root."""
    return os.path.relpath(image_link(target), PurePosixPath(target).parent)


def _into_current(link: Path, target: str) -> bool:
    try:
        return str(link.readlink()) in (_way(target), image_link(target))
    except OSError:
        return False


def _point(link: Path, target: str) -> None:
    aside = link.with_name(f"{link.name}{_NEW}")
    aside.unlink(missing_ok=True)
    aside.symlink_to(target)
    try:
        aside.rename(link)
    except IsADirectoryError as error:
        raise HostError("hall.target", f"{link} is a folder, expected a file or nothing") from error


def _folder(path: Path) -> None:
    """Make a folder that every daemon may enter, whatever the umask."""
    if not path.is_dir():
        _folder(path.parent)
        path.mkdir(exist_ok=True)
        path.chmod(0o755)


def _write(path: Path, text: str, mode: int) -> None:
    path.write_text(text)
    path.chmod(mode)
