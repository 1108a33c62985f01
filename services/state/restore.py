"""Restore: all is verified and laid ready first; then services stop, what is there is set aside, and the new comes.

    staged → stopped → emptied → placed → started

Each word is in the journal (`restore.json`), on the disk, before the next thing is done. Before the journal there is
nothing but folders `.backline-restore` that the next restore replaces; from the journal on, whoever dies is followed by
`finish`, which a unit runs: at once, and after a restart of the host before any service that reads this state. What was
there is kept in each part's folder as `.replaced-TIME`.

In a part's folder, all in one file system, so that each move is one rename(2):

    .backline-restore/new/   what comes
    .backline-restore/old/   what was there
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

import msgspec

from services.common.codec import decode_json, encode_json
from services.common.errors import BusyError, HostError, InputError, MissingError
from services.state import databases, durable
from services.state.archive import check_fits, open_archive
from services.state.owners import Owner, find_owner
from services.state.parts import NUMBERS, PARTS, STARTED, UNITS, Part
from services.state.retention import FORM
from services.state.save import Step, nothing
from services.state.schema import Kind, PartContent, Settings
from services.state.seal import Key
from services.state.shelf import JOURNAL, locked, sweep

AREA = ".backline-restore"
REPLACED = ".replaced-"
STAGED, STOPPED, EMPTIED, PLACED, STARTED_AGAIN = "staged", "stopped", "emptied", "placed", "started"
_SIDE_FILES = ("-wal", "-shm", "-journal")


class Units(Protocol):
    """systemd, as far as a restore needs it."""

    def stop(self, units: Sequence[str]) -> None:
        """Stop those that run, and wait until they do not."""

    def start(self, units: Sequence[str]) -> None:
        """Ask for those to run; not waited for."""


class Todo(msgspec.Struct, frozen=True, kw_only=True):
    """A part that is replaced: what belongs to it in its folder, and a database on a server, if it has one."""

    name: str
    folder: str
    entries: list[str]
    files: list[str] = []
    """Names beside the patterns: an SQLite database and what SQLite puts beside it."""
    url_of: str = ""
    """The setting of a database on a server."""


class Journal(msgspec.Struct, frozen=True, kw_only=True):
    """`restore.json`."""

    id: str
    archive: str
    phase: str
    saved_at: float
    todo: list[Todo]


class Restored(msgspec.Struct, frozen=True, kw_only=True):
    """What a restore did. `kept`: folders with what was there before."""

    archive: str
    saved_at: float
    kept: list[str]


class Restore:
    """The restore of one host. `root` is a folder that stands for /, in tests."""

    def __init__(
        self,
        settings: Settings,
        units: Units,
        *,
        parts: Sequence[Part] = PARTS,
        root: Path = Path("/"),
        step: Step = nothing,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        code: Path = databases.CODE,
    ) -> None:
        self.settings = settings
        self.units = units
        self.parts = {part.name: part for part in parts}
        self.root = root
        self.step = step
        self.now = now
        self.code = code
        self.journal = settings.folder / JOURNAL

    def under_way(self) -> Journal | None:
        """The restore that is not finished. Raises InputError("state.journal")."""
        try:
            return decode_json(self.journal.read_bytes(), Journal)
        except FileNotFoundError:
            return None
        except msgspec.DecodeError as error:
            raise InputError("state.journal", f"cannot be read: {error}", where=str(self.journal)) from error

    # Before anything is touched

    def begin(self, archive: Path, key: Key | None, *, numbers: Mapping[str, int]) -> Journal:
        """Verify an archive, lay what is in it ready, and write down that it is to be restored: `finish` does it.

        `numbers` are what channels may not fall behind. Raises what `archive` raises, BusyError("state.restoring"),
        HostError("state.full", "state.disk", "state.user"): then nothing has changed.
        """
        with locked(self.settings.folder), durable.disk_errors("cannot restore"):
            if (found := self.under_way()) is not None:
                hint = "`backline state restore` without an archive goes on with it"
                raise BusyError("state.restoring", f"{found.archive} is being restored", hint=hint)
            sweep(self.settings.folder)
            with tempfile.TemporaryDirectory(prefix=".work-", dir=self.settings.folder) as made:
                manifest = open_archive(archive, Path(made), key)
                check_fits(manifest, self.settings, archive, code=self.code)
                self.step("verified")
                todo = [self._todo(content) for content in manifest.parts if content.name in self.parts]
                contents = {content.name: content for content in manifest.parts}
                try:
                    for each in todo:
                        self._stage(each, contents[each.name], Path(made) / each.name, numbers)
                        self.step(f"{each.name} is ready")
                except BaseException:
                    self._sweep(todo)
                    raise
            journal = Journal(
                id=f"{self.now().strftime(FORM)}-{secrets.token_hex(2)}",
                archive=archive.name,
                phase=STAGED,
                saved_at=manifest.saved_at,
                todo=todo,
            )
            self._note(journal)
        return journal

    def _todo(self, content: PartContent) -> Todo:
        part = self.parts[content.name]
        files: list[str] = []
        url_of = ""
        if part.database:
            url = self._url(part.database)
            if databases.dialect(url) == databases.SQLITE:
                name = databases.sqlite_path(url).name
                files = [name, *(f"{name}{more}" for more in _SIDE_FILES)]
            else:
                url_of = part.database
        return Todo(name=part.name, folder=part.folder, entries=list(part.entries), files=files, url_of=url_of)

    def _stage(self, todo: Todo, content: PartContent, source: Path, numbers: Mapping[str, int]) -> None:
        """Lay a part ready in `new`, with its owner and modes, on the disk."""
        folder = self._folder(todo)
        owner = find_owner(content.owner)
        if not folder.is_dir():
            folder.mkdir(parents=True)
            folder.chmod(content.mode)
            _give(folder, owner)
            durable.synchronise(folder.parent)
        area = folder / AREA
        shutil.rmtree(area, ignore_errors=True)
        new = area / "new"
        new.mkdir(parents=True)
        area.chmod(0o700)
        for entry in content.entries:
            target = new / entry.path
            if entry.kind is Kind.FOLDER:
                target.mkdir()
                target.chmod(entry.mode)
            elif entry.kind is Kind.LINK:
                target.symlink_to(entry.target)
            elif entry.kind is Kind.DATABASE and not todo.files:
                shutil.copyfile(source / entry.path, area / entry.path)  # for its server, not for the folder
                _synchronise_file(area / entry.path)
                continue
            else:
                target = new / todo.files[0] if entry.kind is Kind.DATABASE else target
                shutil.copyfile(source / entry.path, target)
                target.chmod(entry.mode)
                if entry.kind is Kind.DATABASE:
                    databases.adjust_sqlite(target)
                _synchronise_file(target)
            _give(target, owner)
        if NUMBERS in todo.entries:
            _raise_numbers(new / NUMBERS, numbers, owner)
        for path, _, _ in os.walk(area):
            durable.synchronise(Path(path))
        durable.synchronise(folder)

    # From here on, again and again until it is done

    def finish(self) -> Restored:
        """Do what the journal says, to its end. Raises MissingError("state.nothing") when there is nothing to do."""
        with locked(self.settings.folder), durable.disk_errors("the restore stopped"):
            journal = self.under_way()
            if journal is None:
                raise MissingError("state.nothing", "no restore is under way", hint="backline state restore ARCHIVE")
            sweep(self.settings.folder)
            if journal.phase == STAGED:
                self.units.stop(UNITS)
                self.step("services are stopped")
                journal = self._phase(journal, STOPPED)
            if journal.phase == STOPPED:
                for todo in journal.todo:
                    self._empty(todo)
                    self.step(f"{todo.name} is set aside")
                journal = self._phase(journal, EMPTIED)
            if journal.phase == EMPTIED:
                for todo in journal.todo:
                    self._fill(todo)
                    self.step(f"{todo.name} is in its place")
                journal = self._phase(journal, PLACED)
            if journal.phase == PLACED:
                self.units.start(STARTED)
                self.step("services are asked to start")
                journal = self._phase(journal, STARTED_AGAIN)
            kept = [str(path) for todo in journal.todo if (path := self._keep(todo, journal.id)) is not None]
            self.step("what was there is kept")
            self.journal.unlink()
            durable.synchronise(self.journal.parent)
            self.step("over")
            return Restored(archive=journal.archive, saved_at=journal.saved_at, kept=kept)

    def abandon(self) -> None:
        """Take a restore back that cannot go on: what was there comes into its place again, and services start.

        Raises MissingError("state.nothing"), BusyError("state.late") once services may run on what was restored.
        """
        with locked(self.settings.folder), durable.disk_errors("the restore cannot be taken back"):
            journal = self.under_way()
            if journal is None:
                raise MissingError("state.nothing", "no restore is under way")
            if journal.phase in (PLACED, STARTED_AGAIN):
                raise BusyError("state.late", "it is done but for the end", hint="`backline state restore` ends it")
            if journal.phase == EMPTIED:
                # What is in its place is new, all of it: it goes where it came from, and then we are as before it came.
                for todo in journal.todo:
                    self._take_out(todo)
                    self.step(f"{todo.name} is taken out")
                journal = self._phase(journal, STOPPED)
            if journal.phase == STOPPED:
                for todo in journal.todo:
                    self._bring_back(todo)
                    self.step(f"{todo.name} is back")
            self.step("everything is back")
            self.journal.unlink()
            durable.synchronise(self.journal.parent)
            self._sweep(journal.todo)
            self.units.start(STARTED)

    def _empty(self, todo: Todo) -> None:
        """Set aside what is there. Nothing new is in its place yet, so all of it is old."""
        folder = self._folder(todo)
        old = folder / AREA / "old"
        old.mkdir(exist_ok=True, mode=0o700)
        if todo.url_of and not (folder / AREA / "old.dump").exists():
            databases.dump_postgresql(self._url(todo.url_of), folder / AREA / "old.dump.new")
            _synchronise_file(folder / AREA / "old.dump.new")
            (folder / AREA / "old.dump.new").rename(folder / AREA / "old.dump")
        for name in self._owned(todo):
            (folder / name).rename(old / name)
            self.step(f"{todo.name}: {name} is set aside")
        for each in (old, folder / AREA, folder):
            durable.synchronise(each)

    def _fill(self, todo: Todo) -> None:
        """Put what is ready into its place: what is there no more in `new` is there already."""
        folder = self._folder(todo)
        new = folder / AREA / "new"
        for name in sorted(path.name for path in new.iterdir()):
            (new / name).rename(folder / name)
            self.step(f"{todo.name}: {name} is in its place")
        if todo.url_of:
            databases.restore_postgresql(self._url(todo.url_of), folder / AREA / f"{todo.url_of}.db")
        durable.synchronise(folder)

    def _take_out(self, todo: Todo) -> None:
        """The opposite of `_fill`."""
        folder = self._folder(todo)
        for name in self._owned(todo):
            (folder / name).rename(folder / AREA / "new" / name)
        if todo.url_of:
            databases.restore_postgresql(self._url(todo.url_of), folder / AREA / "old.dump")
        durable.synchronise(folder / AREA / "new")
        durable.synchronise(folder)

    def _bring_back(self, todo: Todo) -> None:
        """The opposite of `_empty`."""
        folder = self._folder(todo)
        old = folder / AREA / "old"
        for name in sorted(path.name for path in old.iterdir()) if old.is_dir() else ():
            (old / name).rename(folder / name)
        durable.synchronise(folder)

    def _keep(self, todo: Todo, id: str) -> Path | None:
        """Keep what was there under a name of its own; where there was nothing, nothing is kept."""
        folder = self._folder(todo)
        area, kept = folder / AREA, folder / f"{REPLACED}{id}"
        old, dump = area / "old", area / "old.dump"
        if dump.exists():
            dump.rename(old / f"{todo.url_of}.dump")
        if old.is_dir() and any(old.iterdir()):
            old.rename(kept)
        shutil.rmtree(area, ignore_errors=True)
        durable.synchronise(folder)
        return kept if kept.exists() else None

    def _owned(self, todo: Todo) -> list[str]:
        """Names in a part's folder that belong to it."""
        part = Part(todo.name, todo.folder, tuple(todo.entries))
        names = [path.name for path in self._folder(todo).iterdir()]
        return sorted(name for name in names if part.owns(name) or name in todo.files)

    def _folder(self, todo: Todo) -> Path:
        return self.root / todo.folder.lstrip("/")

    def _url(self, database: str) -> str:
        return str(getattr(self.settings.databases, database))

    def _phase(self, journal: Journal, phase: str) -> Journal:
        journal = msgspec.structs.replace(journal, phase=phase)
        self._note(journal)
        return journal

    def _note(self, journal: Journal) -> None:
        self.step(f"{journal.phase}: not yet")
        durable.write(self.journal, encode_json(journal))
        self.step(f"{journal.phase}: noted")

    def _sweep(self, todo: Sequence[Todo]) -> None:
        for each in todo:
            shutil.rmtree(self._folder(each) / AREA, ignore_errors=True)


def replaced(parts: Sequence[Part] = PARTS, root: Path = Path("/")) -> Iterator[Path]:
    """What restores have kept aside."""
    for part in parts:
        with contextlib.suppress(OSError):
            yield from sorted((root / part.folder.lstrip("/")).glob(f"{REPLACED}*"))


def _give(path: Path, owner: Owner) -> None:
    if os.geteuid() == 0:
        os.chown(path, owner.uid, owner.gid, follow_symlinks=False)


def _synchronise_file(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _raise_numbers(path: Path, numbers: Mapping[str, int], owner: Owner) -> None:
    """Let channels go on after what root file servers, or this host, have seen."""
    known: dict[str, int] = {}
    if path.exists():
        try:
            known = msgspec.json.decode(path.read_bytes(), type=dict[str, int])
        except msgspec.DecodeError as error:
            raise HostError("state.disk", f"cannot be read: {error}", where=str(path)) from error
    for channel, number in numbers.items():
        known[channel] = max(number, known.get(channel, 0))
    if known:
        path.write_bytes(msgspec.json.encode(known))
        path.chmod(0o600)
        _give(path, owner)
        _synchronise_file(path)
