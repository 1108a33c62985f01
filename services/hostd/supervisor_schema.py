"""What the supervisor takes and answers, and its settings."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from services.common.bus import SYSTEM_BUS
from services.hostd.desired import Desired, UnitName
from services.hostd.history import Failure, Generation, Outcome, Record
from services.hostd.host_planner import Originals
from services.hostd.machines_planner import MachinesSeen
from services.hostd.machines_schema import Version
from services.hostd.planner import Seen, Step
from services.hostd.roots_planner import RootsSeen

Why = Annotated[str, Meta(min_length=1, max_length=500, description="why, for the history")]
Scalar = str | int | bool


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Settings of section `supervisor`."""

    bus: Annotated[str, Meta(description="D-Bus address of the systemd to supervise")] = SYSTEM_BUS
    state: Annotated[Path, Meta(description="folder of generations and journals")] = Path(
        "/var/lib/backline-hostd-supervisor"
    )
    machines: Annotated[Path, Meta(description="folder of the machines of an iron")] = Path(
        "/var/lib/backline-machines"
    )
    roots: Annotated[str, Meta(description="where the roots service of a root file server is")] = (
        "unix:/run/backline/roots.sock"
    )
    units: Annotated[Path, Meta(description="folder that unit files of documents are written to")] = Path(
        "/etc/systemd/system"
    )
    ca: Annotated[Path, Meta(description="certificates of the CAs that callers over TLS have theirs from")] = Path(
        "/run/backline/ca.pem"
    )
    job_seconds: Annotated[
        float, Meta(gt=0, le=3600, description="how long one job of systemd may take, as in a start")
    ] = 300.0
    settle_seconds: Annotated[
        float, Meta(ge=0, le=600, description="how long what was started must stay up before a generation is in force")
    ] = 2.0
    idle_seconds: Annotated[
        float, Meta(ge=0, le=86400, description="the supervisor leaves after so long without anything to do; 0: never")
    ] = 60.0
    journal_seconds: Annotated[float, Meta(gt=0, le=60, description="how long journalctl may take")] = 10.0
    grace_seconds: Annotated[int, Meta(ge=0, le=300, description="how long a stop waits for running requests")] = 10


class Wanted(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A document that is to be brought into force."""

    desired: Desired
    why: Why


class Proposal(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A document to look at."""

    desired: Desired


class Rollback(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Back to what was in force before, or to one generation."""

    why: Why
    to: Annotated[
        Annotated[int, Meta(ge=0, le=999_999_999)] | None, Meta(description="its number; 0 is the empty document")
    ] = None


class Planned(msgspec.Struct, frozen=True):
    """What applying a document would do. `base` is the newest generation, for If-Match."""

    base: int
    steps: list[Step]


class Summary(msgspec.Struct, frozen=True):
    """A generation in a list; `outcome` is null where it was never begun."""

    number: int
    by: str
    why: str
    at: float
    restores: int | None
    outcome: Outcome | None


class Generations(msgspec.Struct, frozen=True):
    """Generations, newest first. `newest` is what If-Match takes; `in_force` 0 is the empty document."""

    newest: int
    in_force: int
    generations: list[Summary]


class GenerationDetail(msgspec.Struct, frozen=True):
    """A generation with its document and its journal."""

    generation: Generation
    record: Record | None
    in_force: bool


class InForce(msgspec.Struct, frozen=True):
    """The document in force, and what it changed remembers."""

    number: int
    newest: int
    desired: Desired
    originals: Originals


class Observed(msgspec.Struct, frozen=True):
    """What the document in force is about, as it is. `drift`: the steps that would set it right.

    `machines` is null where none can run, `roots` where none are served.
    """

    generation: int
    units: dict[str, Seen]
    drift: list[Step]
    machines: MachinesSeen | None = None
    roots: RootsSeen | None = None


class Job(msgspec.Struct, frozen=True):
    """Something that runs, or ran: bringing a generation into force, or one action on a unit or machine.

    `done` of `total` steps; `step` is the one that runs. A job that failed says why.
    """

    id: str
    kind: Literal["apply", "unit", "machine"]
    action: str
    state: Literal["running", "done", "failed", "reverted", "cancelled"]
    by: str
    began: float
    unit: str | None = None
    machine: str | None = None
    generation: int | None = None
    done: int = 0
    total: int = 1
    step: str | None = None
    result: str | None = None
    failure: Failure | None = None
    ended: float | None = None


class Jobs(msgspec.Struct, frozen=True):
    """Jobs, newest first."""

    jobs: list[Job]


class JobQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How long to wait for a job's end."""

    wait: Annotated[float, Meta(ge=0, le=60, description="seconds; the answer comes with the end, or then")] = 0


class EventsQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which events to follow."""

    topic: Annotated[
        list[Literal["units", "jobs", "generations", "machines"]], Meta(max_length=4, description="all of them without")
    ] = []


class Action(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What to do with a unit, once; a document is for what shall stay."""

    action: Literal["start", "stop", "restart", "reload"]
    mode: Literal["replace", "fail"] = "replace"


class MachineAction(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What to do with a machine, once. A start or stop holds until the other one is said, or a document says it."""

    action: Literal["start", "stop", "upgrade", "revert"]
    version: Annotated[
        Version | None, Meta(description="what to upgrade to; the newest that the iron holds when absent")
    ] = None
    why: Annotated[str, Meta(max_length=500, description="for the machine's history")] = ""


class Transient(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A service that exists as long as it runs. The program is an absolute path."""

    name: UnitName
    argv: Annotated[list[str], Meta(min_length=1, max_length=256)]
    description: Annotated[str, Meta(max_length=500)] = ""
    user: Annotated[str, Meta(max_length=64)] | None = None
    environment: Annotated[dict[str, str], Meta(max_length=64)] = {}
    properties: Annotated[dict[str, Scalar], Meta(max_length=64, description="by systemd's names on the bus")] = {}
    remain_after_exit: bool = False


class Properties(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Properties of a unit by systemd's names on the bus, until the next boot."""

    properties: Annotated[dict[str, Scalar], Meta(min_length=1, max_length=64)]


class PropertiesOf(msgspec.Struct, frozen=True):
    """Every property of a unit."""

    unit: str
    properties: dict[str, Any]
