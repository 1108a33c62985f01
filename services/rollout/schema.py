"""What the rollout service takes, answers and keeps on disk. Times are seconds since the epoch."""

from __future__ import annotations

from collections import Counter
from enum import Enum
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from services.common.access_settings import AccessSettings


def about(text: str) -> Meta:
    """What a field is, for OpenAPI."""
    return Meta(description=text)


VersionId = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,79}$")]
Label = Annotated[str, Meta(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]
Unit = Annotated[str, Meta(pattern=r"^[A-Za-z0-9:_.@\\-]{1,255}$")]
Why = Annotated[str, Meta(max_length=500, pattern=r"^[^\x00]*$")]


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Settings of section `rollout`."""

    state: Annotated[str, Meta(description="folder of the rollouts")] = "/var/lib/backline-rollout"
    netboot: Annotated[str, Meta(description="where netboot is")] = "unix:/run/backline/netboot.sock"
    domain: Annotated[str, Meta(description="DNS domain of the hall's machines")] = ""
    look_seconds: Annotated[float, Meta(ge=0.1, le=60, description="how often seats are looked at")] = 3.0
    reader_groups: Annotated[
        list[str], Meta(description="groups whose members may see rollouts over the unix socket")
    ] = msgspec.field(default_factory=lambda: ["backline-overview"])
    writer_groups: Annotated[
        list[str], Meta(description="groups whose members may change them over the unix socket, besides root")
    ] = msgspec.field(default_factory=list)
    htmx: Annotated[
        Path, Meta(description="htmx.min.js of Debian's libjs-htmx; pages do without where it is missing")
    ] = Path("/usr/share/javascript/htmx/htmx.min.js")
    access: AccessSettings = AccessSettings()
    grace_seconds: Annotated[int, Meta(ge=0, le=300, description="how long a stop waits for running requests")] = 10


class RingKind(Enum):
    """How far a ring goes."""

    SEAT = "seat"
    ROW = "row"
    ROOM = "room"
    ALL = "all"


class Plan(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A rollout to be: which version, in which rings, and when a ring is good."""

    version: Annotated[VersionId, about("The version that the channel's machines shall boot.")]
    channel: Annotated[Label, about("The channel.")] = "stable"
    why: Annotated[Why, about("For the history.")] = ""
    first: Annotated[
        Label | None, about("The seat that is first, by its host name; one that nobody uses when absent.")
    ] = None
    rings: Annotated[list[RingKind], Meta(min_length=1, max_length=4), about("Rings in their order.")] = msgspec.field(
        default_factory=lambda: list(RingKind)
    )
    within: Annotated[int, Meta(ge=10, le=86400), about("Seconds that a ring has until it is good.")] = 900
    settle: Annotated[int, Meta(ge=0, le=86400), about("Seconds that a seat has to be well to count as good.")] = 30
    need: Annotated[int, Meta(ge=1, le=100), about("Of a hundred seats of a ring, how many have to be good.")] = 100
    probes: Annotated[list[Unit], Meta(max_length=32), about("Units that have to be active on each seat.")] = []
    even_with_user: Annotated[bool, about("Restart seats although somebody is logged in.")] = False
    lift_quarantine: Annotated[bool, about("Also a version that is in quarantine.")] = False


class Phase(Enum):
    """Where a rollout is."""

    RUNNING = "running"
    COMMITTING = "committing"
    REVERTING = "reverting"
    DONE = "done"
    REVERTED = "reverted"
    ABORTED = "aborted"


OVER = frozenset({Phase.DONE, Phase.REVERTED, Phase.ABORTED})


class Standing(Enum):
    """How far a seat of a ring is."""

    ASKED = "asked"
    """To restart into the version."""
    BUSY = "busy"
    """Left alone: somebody is logged in."""
    LEFT_OUT = "left-out"
    """It would not boot the version (pinned, faulty), or the rollout goes on without it."""
    COMING = "coming"
    """It runs the version, and is not up yet."""
    SETTLING = "settling"
    """It is well, and has to stay so for a while."""
    GOOD = "good"
    BAD = "bad"


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """A seat of a ring."""

    machine: int
    hostname: str
    standing: Standing = Standing.ASKED
    since: float = 0.0
    """When it was well first, without a break."""
    detail: str = ""
    skip: bool = False
    """It has not restarted in time, so the rollout goes on without it when it is resumed."""


class Ring(msgspec.Struct, frozen=True, kw_only=True):
    """One ring. `members` may boot the version from its opening on (null: everybody); `seats` are asked to."""

    kind: RingKind
    members: list[int] | None = None
    seats: list[Progress] = []
    opened: float | None = None
    passed: float | None = None


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """Something that happened in a rollout."""

    at: float
    text: str


class Rollout(msgspec.Struct, frozen=True, kw_only=True):
    """A rollout: what was wanted, and how far it is. This is what is kept on disk, whole, after each step."""

    id: int
    plan: Plan
    by: str
    started: float
    previous: str | None
    """What the channel pointed to before."""
    generation: int
    """The channel's, when it was last as this rollout left it."""
    phase: Phase = Phase.RUNNING
    ring: int = 0
    """The number of the ring that is open, or is to be opened."""
    rings: list[Ring] = []
    waits: float | None = None
    """Since when the next ring cannot be opened."""
    paused: str | None = None
    """Why it is paused; null for one that goes on."""
    paused_at: float | None = None
    ending: Phase | None = None
    """What it is once the pointer is back: reverted or aborted."""
    why: str = ""
    """Why it ended as it did."""
    looked: float | None = None
    """When the hall was last looked at: what nobody saw counts for no ring's time."""
    back_since: float | None = None
    ended: float | None = None
    events: list[Event] = []


class Tally(msgspec.Struct, frozen=True, kw_only=True):
    """A ring in numbers: its seats that are good, bad, left out, and on their way; `state` is a word for people."""

    kind: str
    state: str
    good: int
    bad: int
    out: int
    going: int


def tallies(rollout: Rollout) -> list[Tally]:
    """The rings of a rollout in numbers."""
    return [_tally(rollout, ring) for ring in rollout.rings]


def _tally(rollout: Rollout, ring: Ring) -> Tally:
    found = Counter(seat.standing for seat in ring.seats)
    good, bad, out = found[Standing.GOOD], found[Standing.BAD], found[Standing.LEFT_OUT] + found[Standing.BUSY]
    if ring.passed is not None:
        state = "good"
    elif ring.opened is None:
        state = "not open"
    elif bad and rollout.phase in (Phase.REVERTING, Phase.REVERTED):
        state = "bad"
    else:
        state = "open" if rollout.phase is Phase.RUNNING else "ended"
    going = len(ring.seats) - good - bad - out
    return Tally(kind=ring.kind.value, state=state, good=good, bad=bad, out=out, going=going)


def word(rollout: Rollout) -> str:
    """What it is, in a word."""
    return "paused" if rollout.paused is not None else rollout.phase.value


class Rollouts(msgspec.Struct, frozen=True, kw_only=True):
    """Rollouts, the newest first."""

    rollouts: list[Rollout]


class RolloutsQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which rollouts."""

    channel: Annotated[Label | None, about("Those of one channel.")] = None
    limit: Annotated[int, Meta(ge=1, le=1000), about("At most so many.")] = 20


class Reason(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Why a rollout is paused, resumed or aborted."""

    why: Annotated[Why, about("For the history.")] = ""
