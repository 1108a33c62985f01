"""Generations on disk, and the journal of each one's way into force.

    generations/7.json   the document, who wished for it and why; never changes
    records/7.json       its steps and how far they got: rewritten before and after every step
    force.json           the generation in force, and what units and machines were before documents wished for them

Every file is replaced whole (`services.hostd.durable`). A record whose outcome is `running` is unfinished business: a
supervisor that starts goes on where it stands.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import TypeVar

import msgspec

from services.common.codec import decode_json, encode_json
from services.common.errors import IntegrityError, MissingError
from services.hostd import durable
from services.hostd.desired import Desired
from services.hostd.host_planner import Originals
from services.hostd.planner import Step

KEPT = 200
"""Generations that are kept besides the one in force."""

T = TypeVar("T", bound=msgspec.Struct)


class Outcome(Enum):
    """How bringing a generation into force went."""

    RUNNING = "running"
    DONE = "done"
    REVERTED = "reverted"
    CANCELLED = "cancelled"
    FAILED = "failed"


class State(Enum):
    """How far one step is."""

    WAITING = "waiting"
    BEGUN = "begun"
    DONE = "done"
    FAILED = "failed"


class Failure(msgspec.Struct, frozen=True, omit_defaults=True):
    """Why something did not work: a code for programs, and what a person wants to see next."""

    code: str
    message: str
    hint: str | None = None
    unit: str | None = None
    result: str | None = None
    """How systemd's job ended: failed, timeout, dependency, canceled..."""
    journal: list[str] = []
    """The last lines of the unit's journal."""


class Entry(msgspec.Struct, frozen=True, omit_defaults=True):
    """A step in a journal."""

    step: Step
    state: State = State.WAITING


class Generation(msgspec.Struct, frozen=True, omit_defaults=True):
    """A document with its number. `at` is seconds since the epoch; `restores` the number that a rollback repeats."""

    number: int
    desired: Desired
    by: str
    why: str
    at: float
    restores: int | None = None


class Record(msgspec.Struct, frozen=True, omit_defaults=True):
    """The journal of a generation. `back` has the steps of its revert, null when there was none."""

    generation: int
    job: str
    by: str
    boot: str
    began: float
    entries: list[Entry]
    originals: Originals
    back: list[Entry] | None = None
    outcome: Outcome = Outcome.RUNNING
    cancelled: bool = False
    failure: Failure | None = None
    ended: float | None = None


class Force(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is in force: 0 is the empty document, before any generation."""

    generation: int = 0
    originals: Originals = Originals()
    before: int = 0
    """What was in force before that."""


class History:
    """The files below one folder. One process at a time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.generations = folder / "generations"
        self.records = folder / "records"

    def open(self) -> None:
        """Clean up after a dead process. Raises OSError."""
        durable.sweep(self.folder)

    def numbers(self) -> list[int]:
        """Every generation that is kept, oldest first."""
        with contextlib.suppress(FileNotFoundError):
            return sorted(int(path.stem) for path in self.generations.glob("*.json") if path.stem.isdecimal())
        return []

    def newest(self) -> int:
        """The newest generation; 0 when there is none."""
        return max(self.numbers(), default=0)

    def generation(self, number: int) -> Generation:
        """One generation. Raises MissingError("generation.unknown"), IntegrityError("generation.damaged")."""
        found = _read(self.generations / f"{number}.json", Generation)
        if found is None:
            raise MissingError("generation.unknown", f"there is no generation {number}")
        return found

    def desired(self, number: int) -> Desired:
        """The document of a generation; that of 0 is empty."""
        return self.generation(number).desired if number else Desired()

    def add(self, generation: Generation) -> None:
        """Keep a new generation, and forget the oldest beyond `KEPT`."""
        durable.write(self.generations / f"{generation.number}.json", encode_json(generation))
        force = self.force()
        for number in self.numbers()[: -KEPT - 1]:
            if number not in (force.generation, force.before):
                durable.remove(self.generations / f"{number}.json")
                durable.remove(self.records / f"{number}.json")

    def record(self, number: int) -> Record | None:
        """The journal of a generation; None where it was never begun."""
        return _read(self.records / f"{number}.json", Record)

    def save(self, record: Record) -> None:
        """Write a journal as it is now."""
        durable.write(self.records / f"{record.generation}.json", encode_json(record))

    def all_records(self) -> Iterator[Record]:
        """Journals, newest first."""
        for number in reversed(self.numbers()):
            record = self.record(number)
            if record is not None:
                yield record

    def unfinished(self) -> Record | None:
        """The journal of a dead process."""
        return next((record for record in self.all_records() if record.outcome is Outcome.RUNNING), None)

    def force(self) -> Force:
        """What is in force."""
        return _read(self.folder / "force.json", Force) or Force()

    def set_force(self, force: Force) -> None:
        """What is in force from now on, in one step."""
        durable.write(self.folder / "force.json", encode_json(force))


def _read(path: Path, type: type[T]) -> T | None:
    try:
        return decode_json(path.read_bytes(), type)
    except FileNotFoundError:
        return None
    except msgspec.DecodeError as error:
        raise IntegrityError("generation.damaged", f"{path.name} is damaged: {error}", where=str(path)) from error
