"""Tables of docs/crash-table.md: what a restart makes of an operation that dies before one of its steps, or at its end.

A `Case` knows an operation: what is there before, what everybody must see at every moment, and what a restart makes of
what was left. `rows` does the rest, with the steps that `tests.watched` sees. A power cut is a copy of the file below a
loop-mounted ext4, made while the process stands still: it has what the kernel had handed to the disk, and nothing of
what was in memory. The options of the mount take ext4's help away: no commit by its clock (commit=600), no data written
early for a rename (noauto_da_alloc). What ext4 still does beyond fsync(2), as one commit takes all folders along, is
left out of account by `Order`, which follows the calls alone.

BACKLINE_CRASH_TABLE=1 writes a table anew.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import shutil
import signal
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from services.common.process import run
from tests.watched import Death, Place, Step, Victims

PAGE = Path(__file__).parents[1] / "docs/crash-table.md"
END = "end"
"""The name of the moment after the last step."""
WRITES = bool(os.environ.get("BACKLINE_CRASH_TABLE"))
TRIES = 3
DISK_MEGABYTES = 24
OPTIONS = "loop,noauto_da_alloc,commit=600,noatime"


class Case(Protocol):
    """An operation on a folder. All methods raise AssertionError for a half of anything."""

    @property
    def operation(self) -> str:
        """What the program calls it."""

    @property
    def names(self) -> Mapping[str, str]:
        """What to call that which has another name in each run."""

    @property
    def asides(self) -> Sequence[str]:
        """Folders below the root whose content counts for nothing after a cut."""

    def prepare(self, root: Path) -> None:
        """Make what is there before. Done once; each run begins with a copy, at another place."""

    def begin(self) -> None:
        """Set back what lies elsewhere: before each run."""

    def arguments(self, root: Path) -> Mapping[str, object]:
        """For the program that does it."""

    def look(self, root: Path) -> None:
        """Be somebody who reads, between two steps."""

    def leave(self) -> None:
        """Be nobody who reads, any more."""

    def remember(self) -> object:
        """What lies elsewhere, as it is at this moment; a power cut does not touch it."""

    def restart(self, root: Path, elsewhere: object) -> str:
        """Restart who died there, and say what came of it; then do the operation again, which succeeds."""


@dataclass(frozen=True)
class Row:
    """A step, and what came of both deaths before it, or of one."""

    step: str
    killed: str
    cut: str | None = None


class Order:
    """What the disk may lack by the calls alone: bytes of files, and entries of folders, since their last fsync(2).

    `settled` says so of all that counts. The source of a rename into sight has to be settled before it.
    """

    def __init__(self, root: Path, asides: Sequence[str]) -> None:
        self.root = root
        self.asides = [root / aside for aside in asides]
        self.lacks: set[Path] = set()

    def _aside(self, path: Path) -> bool:
        return any(path.is_relative_to(aside) for aside in self.asides) or path.name.endswith("-wal")

    def follow(self, step: Step) -> None:
        """A step that is about to be done."""
        if step.call in ("write", "truncate", "allocate"):
            self.lacks.add(step.paths[-1])
        elif not self._changes(step):
            return
        elif step.call == "sync":
            self.lacks.discard(step.paths[-1])
        elif step.call in ("open", "mkdir", "symlink", "link", "unlink", "rmdir"):
            if not step.paths[-1].name.endswith("-wal"):
                self.lacks.add(step.paths[-1].parent)
            if step.call in ("unlink", "rmdir"):
                self._forget(step.paths[-1])
        elif step.call == "rename":
            source, target = step.paths
            if not self._aside(target):
                left = sorted(path for path in self.lacks if path.is_relative_to(source))
                assert left == [], f"{step.name}: {left} are not on the disk"
            for path in [path for path in self.lacks if path.is_relative_to(source)]:
                self.lacks.discard(path)
                self.lacks.add(target / path.relative_to(source))
            self.lacks |= {source.parent, target.parent}

    def _changes(self, step: Step) -> bool:
        """Whether a call will succeed, as far as names decide it."""
        if step.call in ("send", "chmod", "utime"):
            return False
        if step.call in ("mkdir", "open", "symlink", "link"):
            return not step.paths[-1].exists()
        return step.paths[0].exists()

    def _forget(self, path: Path) -> None:
        self.lacks = {each for each in self.lacks if not each.is_relative_to(path)}

    def settled(self, where: str) -> None:
        """Nothing that counts is in memory only."""
        left = sorted(str(path.relative_to(self.root)) for path in self.lacks if not self._aside(path))
        assert left == [], f"{where}: {left} are not on the disk"


class Disk:
    """An ext4 in a file, mounted at `place` while it is used."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = folder / "disk.ext4"
        self.place = folder / "mounted"
        self.place.mkdir()
        run(["truncate", f"--size={DISK_MEGABYTES}M", self.file])
        seed = "00000000-0000-4000-8000-000000000000"  # so that folders are read in the same order in each run
        run(["mkfs.ext4", "-q", "-m0", "-E", f"hash_seed={seed}", self.file])

    @contextlib.contextmanager
    def mounted(self, file: Path | None = None) -> Iterator[Path]:
        """The disk, or what a cut left of it, for a block; recovered like after a real one, and in order."""
        run(["mount", "-o", OPTIONS, file or self.file, self.place])
        try:
            yield self.place / "state"
        finally:
            run(["umount", self.place])
        if file is not None:
            run(["fsck.ext4", "-fn", file])

    def cut(self, name: str) -> Path:
        """A copy of what the disk holds now."""
        copy = self.folder / name
        run(["cp", "--sparse=always", self.file, copy])
        return copy


def collapsed(names: Sequence[str]) -> list[str]:
    """The same step several times in a row is one: how often a file is written to depends on how its bytes come."""
    return [name for name, _ in itertools.groupby(names)]


def numbered(names: Sequence[str]) -> list[tuple[str, int]]:
    """Each step with how often it has been there already."""
    seen: dict[str, int] = {}
    found = []
    for name in names:
        seen[name] = seen.get(name, -1) + 1
        found.append((name, seen[name]))
    return found


def _joined(outcomes: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Steps and what came of each, the same one in a row as one."""
    found = []
    for name, group in itertools.groupby(outcomes, key=lambda each: each[0]):
        found.append((name, " or ".join(sorted({outcome for _, outcome in group}))))
    return found


def _content(root: Path) -> bytes:
    """What a restart finds in a folder: what was left once need not be started from again."""
    found = hashlib.sha1()
    for path in sorted(root.rglob("*")):
        if not path.name.endswith("-shm"):
            found.update(f"{path.relative_to(root)}\0{path.lstat().st_mode}\0".encode())
            if path.is_symlink():
                found.update(bytes(path.readlink()))
            else:
                found.update(b"" if path.is_dir() else hashlib.sha1(path.read_bytes()).digest())
    return found.digest()


def killed(case: Case, victims: Victims, origin: Path, folder: Path) -> list[tuple[str, str]]:
    """Kill it before each step, once each, and restart."""
    outcomes: list[tuple[str, str]] = []
    known: dict[tuple[bytes, object], str] = {}
    for number in itertools.count():
        root, left = folder / "state", folder / "left"
        shutil.copytree(origin, root, symlinks=True)
        case.begin()
        try:
            name = _kill(case, victims, root, number)
            shutil.copytree(
                root, left, symlinks=True
            )  # who looks on has it open, and would tidy up on leaving: SQLite does
        finally:
            case.leave()
        key = (_content(left), case.remember())
        if key not in known:
            known[key] = case.restart(left, key[1])
        outcomes.append((name, known[key]))
        shutil.rmtree(root)
        shutil.rmtree(left)
        if name == END:
            break
    return _joined(outcomes)


def _kill(case: Case, victims: Victims, root: Path, number: int) -> str:
    """Kill it before step `number`; returns that step's name, or END when there is none."""
    names: list[str] = []

    def look(step: Step) -> None:
        names.append(step.name)
        if step.number == number:
            case.look(root)  # at the others, `cut` does
            raise Death

    code = victims.run(case.operation, case.arguments(root), Place(root, case.names), look)
    case.look(root)
    assert code == (-signal.SIGKILL if len(names) > number else 0), f"it ended with {code} after {names[-1:]}"
    return names[-1] if code else END


def cut(case: Case, victims: Victims, origin: Path, folder: Path) -> list[tuple[str, str]]:
    """Cut the power before each step of one run, and start from each disk that this gives."""
    disk = Disk(folder)
    names: list[str] = []
    keys: list[tuple[bytes, object]] = []
    files: dict[tuple[bytes, object], Path] = {}

    def cut_here(name: str) -> None:
        file = disk.cut(f"cut-{len(names)}")
        with file.open("rb") as opened:
            key = (hashlib.file_digest(opened, "sha1").digest(), case.remember())
        names.append(name)
        keys.append(key)
        if files.setdefault(key, file) is not file:
            file.unlink()  # nothing came to the disk since then

    with disk.mounted() as root:
        shutil.copytree(origin, root, symlinks=True)
        run(["sync", "--file-system", root])
        case.begin()
        order = Order(root, case.asides)

        def look(step: Step) -> None:
            case.look(root)
            cut_here(step.name)
            if step.said.startswith(("PUT", "POST", "DELETE")):
                order.settled(step.name)  # what is told to others has to be true after a cut
            order.follow(step)

        try:
            code = victims.run(case.operation, case.arguments(root), Place(root, case.names), look)
            assert code == 0
            case.look(root)
            order.settled(END)
            cut_here(END)
        finally:
            case.leave()
    found: dict[tuple[bytes, object], str] = {}
    for key, file in files.items():
        with disk.mounted(file) as root:
            found[key] = case.restart(root, key[1])
        file.unlink()
    return _joined([(name, found[key]) for name, key in zip(names, keys, strict=True)])


def rows(area: str, case: Case, victims: Victims, folder: Path, *, memory: Path) -> list[Row]:
    """Both tables as one. `memory` is a folder for the kills, which need no disk.

    A sync(2) of anybody puts every disk of this machine in order, ours too, and a step is "after" earlier than it
    would be. So the power is cut once more where the outcome is not the page's.
    """
    origin = folder / "origin"
    case.prepare(origin)
    dead = killed(case, victims, origin, memory)
    steps = numbered([name for name, _ in dead])
    found: list[Row] = []
    for attempt in range(TRIES):
        place = folder / f"disk-{attempt}"
        place.mkdir()
        lost = cut(case, victims, origin, place)
        by_step = dict(zip(numbered([name for name, _ in lost]), (outcome for _, outcome in lost), strict=True))
        assert set(steps) == set(by_step), f"one of two runs did {set(steps) ^ set(by_step)}, too"
        found = [Row(name, outcome, by_step[step]) for step, (name, outcome) in zip(steps, dead, strict=True)]
        if WRITES or lines(case.operation, found) == written(area, case.operation):
            break
    return found


def lines(operation: str, found: Sequence[Row]) -> list[str]:
    """Lines of the page's table: steps in a row of which the same came are one."""
    made = []
    for outcomes, group in itertools.groupby(found, key=lambda row: (row.killed, row.cut)):
        names = [row.step for row in group]
        steps = names[0] if len(names) == 1 else f"{names[0]} … {names[-1]} ({len(names)})"
        made.append(f"| {' | '.join([operation, steps, *filter(None, outcomes)])} |\n")
    return made


def written(area: str, operation: str, *, page: Path = PAGE) -> list[str]:
    """The lines of an operation in the page's table of an area."""
    _, _, rest = page.read_text().partition(f"<!-- table of {area} -->\n")
    table, end, _ = rest.partition(f"<!-- end of {area} -->\n")
    assert end, f"{page.name} has no table of {area}"
    return [line for line in table.splitlines(keepends=True) if line.startswith(f"| {operation} | ")]


def compare(area: str, operation: str, made: Sequence[str], *, page: Path = PAGE) -> None:
    """The page has this operation's part of an area's table; or gets it."""
    own = written(area, operation, page=page)
    if not WRITES:
        assert own == list(made), "BACKLINE_CRASH_TABLE=1 writes the table again"
        return
    before, begin, rest = page.read_text().partition(f"<!-- table of {area} -->\n")
    table, end, after = rest.partition(f"<!-- end of {area} -->\n")
    there = table.splitlines(keepends=True)
    first = next((n for n, line in enumerate(there) if line in own), len(there))
    others = [line for line in there if line not in own]
    page.write_text(before + begin + "".join([*others[:first], *made, *others[first:]]) + end + after)
