"""Save: every part copied by its owner's right, a manifest with hashes, one archive, one rename.

Promises: an archive is there as a whole or not at all, whoever dies and however full the disk is; databases are
consistent snapshots taken while their services write; nothing else is changed.
"""

from __future__ import annotations

import contextlib
import grp
import hashlib
import os
import shutil
import stat
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

from services.common.codec import encode_json
from services.common.errors import BusyError, HostError
from services.common.identity import ImageIdentity
from services.state import databases, durable, retention
from services.state.owners import Owner, acting_as, owner_of
from services.state.parts import PARTS, TOKEN_KEY, Part
from services.state.schema import (
    FORMAT,
    Entry,
    Kind,
    Manifest,
    Name,
    PartContent,
    Save,
    Settings,
)
from services.state.seal import Key, seal
from services.state.shelf import JOURNAL, let_go, locked, sweep

MANIFEST = "manifest.json"
READERS = "backline-state"
"""The group that brings sealed archives to root file servers."""
_TRIES = 5
_PIECE = 1024 * 1024
_SCRATCH = Path("/var/tmp")

Step = Callable[[str], None]


def nothing(name: str) -> None:
    """What is called at each step when nobody cares."""


def save(
    settings: Settings,
    *,
    why: str,
    key: Key | None,
    identity: ImageIdentity,
    parts: Sequence[Part] = PARTS,
    root: Path = Path("/"),
    hall_toml: str = "",
    clock: Callable[[], float] = time.time,
    step: Step = nothing,
) -> Save:
    """Save everything into a new archive, and let go of those that need not stay.

    Raises BusyError: "state.restoring", "state.busy" for what changes faster than it can be read; HostError:
    "state.empty" where there is nothing of a gw, "state.full", "state.disk", "state.database".
    """
    with locked(settings.folder), durable.disk_errors("cannot save"):
        if (settings.folder / JOURNAL).exists():
            hint = "`backline state restore` goes on with it"
            raise BusyError("state.restoring", "a restore is under way: what is here is half of two states", hint=hint)
        sweep(settings.folder)
        with tempfile.TemporaryDirectory(prefix=".work-", dir=settings.folder) as made:
            work = Path(made)
            copied = [(part, _copy(part, settings, work, root)) for part in parts]
            contents = [content for _, content in copied if content is not None]
            step("copied")
            if not any(part.of_gw and content is not None and content.entries for part, content in copied):
                raise HostError("state.empty", "there is nothing to save here", hint="on gw, once it has its hall.toml")
            now = clock()
            manifest = Manifest(
                format=FORMAT,
                hall=settings.hall,
                domain=settings.domain,
                host=settings.host,
                line=line_of(root),
                role=identity.role or "",
                version=identity.version or "",
                saved_at=now,
                why=why,
                parts=contents,
                hall_toml=hall_toml,
            )
            _pack(manifest, work)
            step("packed")
            saved = _place(settings, manifest, work / "archive", key, step)
        let_go(settings)
        step("old ones are gone")
        return saved


def line_of(root: Path = Path("/")) -> str:
    """The fingerprint of this gw's life: see `schema.Name`."""
    try:
        secret = (root / TOKEN_KEY.lstrip("/")).read_bytes()
    except FileNotFoundError:
        return "0" * 8
    return hashlib.sha256(b"backline state: line " + secret).hexdigest()[:8]


# Copying parts


def _copy(part: Part, settings: Settings, work: Path, root: Path) -> PartContent | None:
    """Copy what belongs to a part to `work`; None where it is not here.

    Services replace files while we read: when one is gone before it was read, all of the part is read again.
    """
    folder = root / part.folder.lstrip("/")
    try:
        owner = owner_of(folder)
        mode = stat.S_IMODE(folder.stat().st_mode)
    except FileNotFoundError:
        if not part.database or databases.dialect(_url(settings, part)) == databases.SQLITE:
            return None
        entries = _database(part, settings, work, root)
        return PartContent(name=part.name, folder=part.folder, owner="root", mode=0o755, entries=entries)
    for tries_left in range(_TRIES - 1, -1, -1):
        place = work / "parts" / part.name
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        try:
            with acting_as(owner):
                before = sorted(path.name for path in folder.iterdir() if part.owns(path.name))
            entries = [entry for name in before for entry in _walk(part, owner, folder, Path(name), place)]
            with acting_as(owner):
                after = sorted(path.name for path in folder.iterdir() if part.owns(path.name))
            _need_links(entries)
            if before != after:
                raise FileNotFoundError
            break
        except FileNotFoundError as error:
            if tries_left == 0:
                message = f"{part.name} changes faster than it can be read"
                raise BusyError("state.busy", message, where=str(folder)) from error
    entries += _database(part, settings, work, root)
    return PartContent(name=part.name, folder=part.folder, owner=owner.name, mode=mode, entries=entries)


def _walk(part: Part, owner: Owner, folder: Path, path: Path, place: Path) -> Iterator[Entry]:
    """An entry and what is below it. Raises FileNotFoundError for what is gone meanwhile."""
    source = folder / path
    with acting_as(owner):
        info = source.lstat()
        names = sorted(path.name for path in source.iterdir()) if stat.S_ISDIR(info.st_mode) else []
        target = os.readlink(source) if stat.S_ISLNK(info.st_mode) else ""
    mode = stat.S_IMODE(info.st_mode)
    if stat.S_ISDIR(info.st_mode):
        yield Entry(path=str(path), kind=Kind.FOLDER, mode=mode)
        for name in names:
            if not name.endswith((".new", ".backline-new")):
                yield from _walk(part, owner, folder, path / name, place)
    elif stat.S_ISLNK(info.st_mode):
        yield Entry(path=str(path), kind=Kind.LINK, target=target)
    elif stat.S_ISREG(info.st_mode):
        with acting_as(owner):
            file = source.open("rb")
        with file:
            size, sha256 = _take(file, place / path, lines=part.lines)
        yield Entry(path=str(path), kind=Kind.FILE, mode=mode, size=size, sha256=sha256)


def _take(file: IO[bytes], target: Path, *, lines: bool) -> tuple[int, str]:
    """Copy an open file; with `lines`, up to its last whole line. Returns size and SHA-256."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("wb+") as out:
        shutil.copyfileobj(file, out, _PIECE)
        if lines:
            end = out.tell()
            out.seek(max(0, end - _PIECE))
            tail = out.read()
            out.truncate(end - len(tail) + tail.rfind(b"\n") + 1)
        out.flush()
        size = out.seek(0, os.SEEK_END)
        out.seek(0)
        return size, hashlib.file_digest(out, "sha256").hexdigest()


def _need_links(entries: list[Entry]) -> None:
    """Links of a part lead to what was read with it: else its owner has switched meanwhile."""
    paths = {entry.path for entry in entries}
    for entry in entries:
        if entry.kind is Kind.LINK:
            target = os.path.normpath(Path(entry.path).parent / entry.target)
            if target not in paths:
                raise FileNotFoundError(entry.path)


def _url(settings: Settings, part: Part) -> str:
    return str(getattr(settings.databases, part.database))


def _database(part: Part, settings: Settings, work: Path, root: Path) -> list[Entry]:
    """The snapshot of a part's database; nothing where there is none yet."""
    if not part.database:
        return []
    url, path = _url(settings, part), f"{part.database}.db"
    target = work / "parts" / part.name / path
    target.parent.mkdir(parents=True, exist_ok=True)
    kind = databases.dialect(url)
    mode = 0o600
    if kind == databases.SQLITE:
        source = root / str(databases.sqlite_path(url)).lstrip("/") if root != Path("/") else databases.sqlite_path(url)
        if not source.parent.is_dir():
            return []
        owner = owner_of(source.parent)
        with acting_as(owner):
            if not source.is_file():
                return []
            mode = stat.S_IMODE(source.stat().st_mode)
            with tempfile.NamedTemporaryFile(dir=_SCRATCH) as file:  # its owner's own
                revision = databases.copy_sqlite(source, Path(file.name))
                number = os.dup(file.fileno())
        with open(number, "rb") as copy:
            size, sha256 = _take(copy, target, lines=False)
    else:
        revision = databases.dump_postgresql(url, target)
        with target.open("rb") as file:
            size, sha256 = os.fstat(file.fileno()).st_size, hashlib.file_digest(file, "sha256").hexdigest()
    entry = Entry(path=path, kind=Kind.DATABASE, mode=mode, size=size, sha256=sha256, dialect=kind, revision=revision)
    return [entry]


# The archive


def _pack(manifest: Manifest, work: Path) -> None:
    """`work/archive`: a compressed tar of the manifest and, in its order, of files."""
    (work / MANIFEST).write_bytes(encode_json(manifest))
    with tarfile.open(work / "archive", "w:gz", compresslevel=6, format=tarfile.PAX_FORMAT) as archive:
        archive.add(work / MANIFEST, MANIFEST)
        for content in manifest.parts:
            for entry in content.entries:
                if entry.kind in (Kind.FILE, Kind.DATABASE):
                    name = f"{content.name}/{entry.path}"
                    archive.add(work / "parts" / name, name, recursive=False)


def _place(settings: Settings, manifest: Manifest, archive: Path, key: Key | None, step: Step) -> Save:
    """Put the archive under its name, on the disk. Two of one second are one second apart."""
    at = manifest.saved_at
    while True:
        moment = datetime.fromtimestamp(at, UTC).strftime(retention.FORM)
        name = Name(at=moment, host=manifest.host or "gw", line=manifest.line)
        target = settings.folder / str(name)
        if not target.exists():
            break
        at += 1
    aside = target.with_name(f".{target.name}.new")
    number = os.open(aside, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with open(number, "wb") as file:
            seal(archive, file, key)
            if key is not None:
                _let_read(file.fileno())
        step("written")
        aside.rename(target)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
    durable.synchronise(settings.folder)
    step("renamed")
    return Save(name=target.name, size=target.stat().st_size, at=manifest.saved_at, sealed=key is not None)


def _let_read(number: int) -> None:
    """Let who brings copies read a sealed archive, where he is."""
    try:
        group = grp.getgrnam(READERS).gr_gid
    except KeyError:
        return
    with contextlib.suppress(PermissionError):  # saved by hand in a place where we are not in that group
        os.fchown(number, -1, group)
        os.fchmod(number, 0o640)
