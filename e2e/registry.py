"""Which labs there are on this host: one small record a lab, so that other terminals find it and leftovers are seen.

A record is alive while the process that made it is (its start time is part of the record: process ids come back). The
keeper removes it at the end; what a machine's crash or a kill left is found and removed by `clean`.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
import tempfile
from pathlib import Path

import msgspec

from builder.locking import try_lock
from e2e import cgroups, keeper
from services.common.errors import BusyError, HostError, MissingError, UsageError, nearest

FOLDER = Path("/run/backline/labs")
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,30}")
_JOURNAL = re.compile(r"backline-lan-([a-z0-9][a-z0-9-]{0,30})-[a-z0-9_]{8}\.journal")


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """A lab: the process that owns it, the keeper's PID 1 as the host sees it, and what it runs."""

    name: str
    owner: int
    owner_started: int
    keeper: int = 0
    topology: str = ""

    @property
    def alive(self) -> bool:
        """Whether its owner still is."""
        return started(self.owner) == self.owner_started

    @property
    def socket(self) -> Path:
        """Where its owner answers (`e2e.control`)."""
        return FOLDER / f"{self.name}.json.sock"


def started(pid: int) -> int | None:
    """When a process began, in clock ticks since the host's start (proc(5), stat field 22); None when it is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (OSError, ProcessLookupError):
        return None
    return int(text.rpartition(")")[2].split()[19])


def check_name(name: str) -> str:
    """`name`, which can name a lab. Raises UsageError("lan.name")."""
    if not _NAME.fullmatch(name):
        raise UsageError(
            "lan.name", f"{name!r} cannot name a lab", hint="lower-case letters, digits and dashes, 31 at most"
        )
    return name


def claim(name: str) -> Path:
    """Take a name; returns the record's path. Raises UsageError("lan.name"), BusyError("lan.exists")."""
    check_name(name)
    path = FOLDER / f"{name}.json"
    own = Record(name=name, owner=os.getpid(), owner_started=started(os.getpid()) or 0)
    for _ in range(3):
        FOLDER.mkdir(parents=True, exist_ok=True, mode=0o755)  # the last lab that ends removes it
        try:
            with path.open("xb") as file:
                file.write(msgspec.json.encode(own))
            return path
        except FileExistsError:
            record = _read(path)
            if record is not None and record.alive:
                hint = f"another name (--name), or `backline lan down {name}`"
                raise BusyError(
                    "lan.exists", f"there is a lab {name} already (process {record.owner})", hint=hint
                ) from None
            clean_one(name)
        except FileNotFoundError:  # removed since
            continue
    raise BusyError("lan.exists", f"another process is making the lab {name}")


def write(path: Path, *, keeper: int, topology: str = "") -> None:
    """Complete the record."""
    record = _read(path)
    if record is not None:
        aside = path.with_suffix(".new")
        aside.write_bytes(msgspec.json.encode(msgspec.structs.replace(record, keeper=keeper, topology=topology)))
        aside.rename(path)


def release(path: Path) -> None:
    """Remove what is ours of it; the keeper has usually done so."""
    for left in (path, Path(f"{path}.sock")):
        left.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        FOLDER.rmdir()


def labs() -> dict[str, Record]:
    """Every record, of labs alive and dead."""
    found = {}
    for path in sorted(FOLDER.glob("*.json")):
        record = _read(path)
        if record is not None:
            found[record.name] = record
    return found


def find(name: str | None) -> Record:
    """The lab of that name, or the only one. Raises MissingError("lan.none"), UsageError("lan.which")."""
    alive = {key: record for key, record in labs().items() if record.alive}
    if name is None:
        # A sandbox of something else than a lab (an engine of containers, a probe) has no topology.
        alive = {key: record for key, record in alive.items() if record.topology}
        # Nor do labs of tests take commands, while another one does.
        alive = {key: record for key, record in alive.items() if record.socket.exists()} or alive
        if len(alive) > 1:
            raise UsageError("lan.which", f"which lab: {', '.join(alive)}?", hint="--lab NAME")
        if not alive:
            raise MissingError("lan.none", "no lab is running", hint="`backline lan up` starts one")
        return next(iter(alive.values()))
    if name not in alive:
        raise MissingError(
            "lan.none", f"no lab {name} is running", hint=nearest(name, list(alive)) or "`backline lan list`"
        )
    return alive[name]


def make_journal(name: str) -> tuple[int, Path]:
    """A file for a lab's journal: open, and locked while its process lives."""
    descriptor, path = tempfile.mkstemp(prefix=f"backline-lan-{name}-", suffix=".journal")
    try_lock(descriptor)
    return descriptor, Path(path)


def keep_journal(path: Path) -> Path:
    """Name a file of `make_journal` as one that somebody was told of; returns its path from now on."""
    match = _JOURNAL.fullmatch(path.name)
    return path if match is None or path.parent != Path(tempfile.gettempdir()) else path.rename(_kept(path))


def _kept(path: Path) -> Path:
    return path.with_suffix(".kept.journal")


def journals() -> dict[str, list[Path]]:
    """Journals that nobody kept, of processes that are gone, by lab: what a kill leaves to look at."""
    found: dict[str, list[Path]] = {}
    for path in sorted(Path(tempfile.gettempdir()).glob("backline-lan-*.journal")):
        match = _JOURNAL.fullmatch(path.name)
        if match is None:
            continue
        with contextlib.suppress(OSError), path.open("rb") as file:
            if try_lock(file.fileno()):
                found.setdefault(match[1], []).append(path)
    return found


def leftovers() -> list[str]:
    """Names of labs whose owner is gone and of which something is still there."""
    known = labs()
    dead = {name for name, record in known.items() if not record.alive}
    found = dead | {name for name in [*cgroups.left_behind(), *journals()] if name not in known}
    return sorted(found)


def clean_one(name: str) -> None:
    """Remove what is left of a dead lab: its processes, cgroup and record. The kernel takes the rest with them."""
    path = FOLDER / f"{name}.json"
    record = _read(path)
    if record is not None and record.alive:
        raise BusyError(
            "lan.exists", f"the lab {name} is alive (process {record.owner})", hint=f"`backline lan down {name}`"
        )
    group = cgroups.left_behind().get(name)
    if group is not None:
        keeper.remove_cgroup(str(group))
        cgroups.stop_scope(name)
    release(path)


def clean() -> list[str]:
    """Remove everything that dead labs have left, their journals too, but those that were kept; returns their names."""
    names = leftovers()
    for name in names:
        for path in journals().get(name, []):
            path.unlink(missing_ok=True)
        clean_one(name)
    return names


def end(record: Record) -> None:
    """Ask a lab's owner to take it down, as Ctrl-C does."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(record.owner, signal.SIGINT)


def wait_gone(record: Record, *, seconds: float = 30.0) -> None:
    """Wait until a lab's owner has ended. Raises HostError("lan.stuck")."""
    try:
        descriptor = os.pidfd_open(record.owner)
    except ProcessLookupError:
        return
    try:
        if started(record.owner) == record.owner_started and not select.select([descriptor], [], [], seconds)[0]:
            raise HostError("lan.stuck", f"process {record.owner} does not end", hint=f"kill -9 {record.owner}")
    finally:
        os.close(descriptor)


def _read(path: Path) -> Record | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=Record)
    except (OSError, msgspec.DecodeError):
        return None
