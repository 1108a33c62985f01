"""Records of machines on the iron's disk, and the folders beside them.

    /var/lib/backline-machines/images/ROLE/VERSION/     versions that can run here: root.erofs, manifest.json...
    /var/lib/backline-machines/machines/NAME/record.json    the truth about a machine, replaced in one step
    /var/lib/backline-machines/machines/NAME/var-3/         what is /var in it; also the one before, and what was kept
    /var/lib/backline-machines/machines/NAME/lock           held by whoever changes it
    /var/lib/backline-machines/removed/NAME-1/          what `rm` set aside
    /var/lib/backline-machines/.reserve             room that a record may take when the disk is full

What is written is on disk when a function returns: a file is synchronised, renamed, and its folder synchronised; a copy
of /var is made under another name (`.var-3`), its file system synchronised, and renamed. So a name is a whole thing.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import msgspec

from services.common.codec import decode_json
from services.common.errors import BusyError, HostError, IntegrityError, MissingError, UsageError, nearest
from services.common.names import label_problem
from services.common.process import ProcessFailed, run
from services.hostd import durable
from services.hostd.durable import synchronise
from services.hostd.machines_schema import Record

logger = logging.getLogger(__name__)

_VAR = re.compile(r"\.?var-([0-9]{1,9})")
_RECORD = "record.json"
_FICLONE = 0x40049409
"""ioctl_ficlone(2)."""
_RESERVE = 1 << 20
"""Bytes held back: a machine whose /var filled the disk can still be taken back, since its record can be written."""
_ROOM = 8 << 20
"""Bytes that stay free when a /var is copied."""
_HINT = "`backline machine forget` throws away a /var that was kept, `backline machine drop-image` a version"


class Records:
    """The machines below a folder."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.machines = base / "machines"

    def names(self) -> list[str]:
        """Every machine."""
        with contextlib.suppress(FileNotFoundError):
            return sorted(path.parent.name for path in self.machines.glob("[a-z0-9]*/record.json"))
        return []

    def home(self, name: str) -> Path:
        """A machine's own folder. Raises UsageError("machine.name")."""
        if problem := label_problem(name):
            raise UsageError("machine.name", problem)
        return self.machines / name

    def load(self, name: str) -> Record:
        """Raises MissingError("machine.unknown"), IntegrityError("machine.record")."""
        path = self.home(name) / "record.json"
        try:
            return decode_json(path.read_bytes(), Record)
        except FileNotFoundError as error:
            known = self.names()
            hint = nearest(name, known) or (f"there are: {', '.join(known)}" if known else "`backline machine create`")
            raise MissingError("machine.unknown", f"there is no machine {name} on this host", hint=hint) from error
        except msgspec.DecodeError as error:
            raise IntegrityError("machine.record", f"cannot be read: {error}", where=str(path)) from error

    def save(self, record: Record) -> None:
        """Replace a machine's record: wholly the old one or wholly the new one, whatever happens.

        On a full disk it takes the room of the reserve. Raises HostError("machine.full").
        """
        path = self.home(record.machine.name) / _RECORD
        data = msgspec.json.format(msgspec.json.encode(record), indent=2) + b"\n"
        try:
            try:
                durable.write(path, data)
            except OSError as error:
                if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                    raise
                self._reserve.unlink(missing_ok=True)
                durable.write(path, data)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise HostError("machine.full", "no space left on the disk", where=str(path), hint=_HINT) from error

    @property
    def _reserve(self) -> Path:
        return self.base / ".reserve"

    def hold_reserve(self) -> None:
        """Take the reserve's room when there is some; a disk without any is no error."""
        reserve = self._reserve
        if reserve.exists() or not self.base.is_dir() or self._free() < _RESERVE + _ROOM:
            return
        aside = reserve.with_name(".reserve.new")
        try:
            with aside.open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, _RESERVE)
            aside.rename(reserve)
        except OSError as error:
            aside.unlink(missing_ok=True)
            logger.warning("no room could be held back in %s: %s", self.base, error.strerror)

    def _free(self) -> int:
        info = os.statvfs(self.base)
        return info.f_bavail * info.f_frsize

    def check_room(self, name: str, var: str) -> None:
        """See that a copy of a /var has room. Raises HostError("machine.space")."""
        source = self.home(name) / var
        if _shares_blocks(self.home(name)):
            return
        need, free = _size(source), self._free()
        if free < need + _ROOM:
            said = f"an upgrade of {name} copies its /var: it needs {need >> 20} MB, and {free >> 20} MB are free"
            raise HostError("machine.space", said, where=str(source), hint=_HINT)

    @contextlib.contextmanager
    def lock(self, name: str, *, wait: bool = False) -> Iterator[None]:
        """Keep others from changing a machine. Raises MissingError("machine.unknown"), BusyError("machine.busy")."""
        folder = self.home(name)
        if not folder.is_dir():
            self.load(name)
        with (folder / "lock").open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError as error:
                raise BusyError(
                    "machine.busy", f"{name} is being changed", hint=f"see `backline machine show {name}`"
                ) from error
            yield

    @contextlib.contextmanager
    def lock_all(self, *, wait: bool = False) -> Iterator[None]:
        """Keep others from making machines and removing versions. Raises BusyError("machine.busy")."""
        make_folder(self.machines)
        with (self.base / "lock").open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError as error:
                raise BusyError("machine.busy", "the machines of this host are being changed") from error
            yield

    # Folders that are /var

    def next_var(self, name: str) -> str:
        """A name that no folder has had, as far as can be seen."""
        found = [int(match[1]) for path in self.home(name).iterdir() if (match := _VAR.fullmatch(path.name))]
        return f"var-{max(found, default=0) + 1}"

    def new_var(self, name: str, var: str, *, source: Path, image: Path) -> None:
        """Make the folder `var` from `source`, with what `image` has at /var and `source` has not.

        Shares blocks with the source where the file system can (reflink). Raises HostError("machine.space").
        """
        target = self.home(name) / var
        if target.exists():
            return
        aside = target.with_name(f".{var}")
        remove(aside)
        try:
            run(["cp", "--archive", "--reflink=auto", "--", source, aside])
            if source != image:
                # -n: what is there stays as it is; folders are gone into.
                run(["cp", "--archive", "--no-clobber", "--", f"{image}/.", aside])
            run(["sync", "--file-system", aside])
        except ProcessFailed as error:
            remove(aside)
            raise HostError("machine.copy", f"/var of {name} could not be copied: {error.message}") from error
        aside.rename(target)
        synchronise(target.parent)

    def tidy(self, record: Record) -> list[str]:
        """Remove what no record names: half copies, and folders of versions that cannot be gone back to."""
        folder = self.home(record.machine.name)
        wanted = record.vars()
        gone = [path for path in folder.iterdir() if _VAR.fullmatch(path.name) and path.name not in wanted]
        for path in gone:
            remove(path)
        (folder / f".{_RECORD}{durable.ASIDE}").unlink(missing_ok=True)
        return sorted(path.name for path in gone)

    # Whole machines

    def begin(self, name: str) -> Path:
        """An empty folder for a machine that is being made: it has no record, so it is none yet.

        Raises BusyError("machine.exists").
        """
        folder = self.home(name)
        if (folder / "record.json").exists():
            raise BusyError("machine.exists", f"there is a machine {name} already")
        remove(folder)
        make_folder(folder)
        folder.chmod(0o700)
        return folder

    def aside(self) -> dict[str, tuple[Path, Record]]:
        """Machines that were set aside and whose name no machine has, with their folders; of each name the newest."""
        found: dict[str, tuple[int, Path, Record]] = {}
        for path in (self.base / "removed").glob("*/record.json"):
            number = path.parent.name.rpartition("-")[2]
            with contextlib.suppress(OSError, msgspec.DecodeError):
                record = decode_json(path.read_bytes(), Record)
                name = record.machine.name
                if number.isdecimal() and int(number) > found.get(name, (0,))[0]:
                    found[name] = (int(number), path.parent, record)
        here = self.names()
        return {name: (path, record) for name, (_, path, record) in found.items() if name not in here}

    def take_back(self, name: str, folder: Path) -> None:
        """Make what was set aside a machine again, in one step."""
        target = self.home(name)
        if not (target / "record.json").exists():
            remove(target)  # half a machine that somebody had begun to make
        folder.rename(target)
        synchronise(self.machines)
        synchronise(folder.parent)

    def put_away(self, name: str) -> Path:
        """Take a machine's folder out, in one step; returns where it is now."""
        place = self.base / "removed"
        make_folder(place)
        place.chmod(0o700)
        number = 1
        while (target := place / f"{name}-{number}").exists():
            number += 1
        self.home(name).rename(target)
        synchronise(self.machines)
        synchronise(place)
        return target


def _size(folder: Path) -> int:
    """Bytes that a tree takes on its disk."""
    found = 0
    for root, _, names in os.walk(folder):
        for path in (root, *(os.path.join(root, name) for name in names)):
            with contextlib.suppress(FileNotFoundError):  # the machine writes meanwhile
                found += os.lstat(path).st_blocks * 512
    return found


def _shares_blocks(folder: Path) -> bool:
    """Whether copies on this file system cost nothing (reflink)."""
    with tempfile.TemporaryFile(dir=folder) as source, tempfile.TemporaryFile(dir=folder) as target:
        source.write(b"x" * 4096)
        source.flush()
        try:
            fcntl.ioctl(target.fileno(), _FICLONE, source.fileno())
        except OSError:
            return False
    return True


def make_folder(path: Path) -> None:
    """Make a folder and those above it, on disk when this returns."""
    if not path.is_dir():
        make_folder(path.parent)
        path.mkdir(exist_ok=True)
        synchronise(path.parent)


def remove(path: Path) -> None:
    """Remove a folder with all that is in it; one that is not there is no error."""
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(path)
