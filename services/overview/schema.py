"""What the overview shows and answers, and its settings. Times are seconds since the epoch, sizes are bytes."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from netboot.schema import Channel, Liveness, Quarantine
from services.common.access_settings import AccessSettings
from services.hostd.schema import Disk
from services.rollout.schema import Tally


class Place(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A host of hall.toml: where its hostd is asked."""

    name: str
    role: str
    address: str
    port: int = 20210


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Settings of section `overview`."""

    hall: Annotated[str, Meta(description="name of the hall")] = "hall"
    domain: Annotated[str, Meta(description="DNS domain of the hall's machines")] = ""
    hosts: Annotated[list[Place], Meta(description="`name`, `role`, `address` and `port` of each host")] = (
        msgspec.field(default_factory=list)
    )
    netboot: Annotated[str, Meta(description="where netboot is")] = "unix:/run/backline/netboot.sock"
    rollout: Annotated[str, Meta(description="where the rollout service is")] = "unix:/run/backline/rollout.sock"
    depot: Annotated[str, Meta(description="where the depot is")] = "unix:/run/backline/depot.sock"
    channel: Annotated[str, Meta(description="channel whose versions the hosts should run")] = "stable"
    look_seconds: Annotated[
        float, Meta(ge=0.1, le=60, description="how often everybody is asked while somebody looks")
    ] = 4.0
    idle_seconds: Annotated[
        float, Meta(ge=0.1, le=600, description="how often, when nobody has looked for a minute")
    ] = 30.0
    answer_seconds: Annotated[
        float, Meta(ge=0.1, le=30, description="how long one has for an answer until it counts as silent")
    ] = 3.0
    low_percent: Annotated[
        float, Meta(ge=0, le=100, description="free part of a disk below which it wants attention")
    ] = 10.0
    reader_groups: Annotated[
        list[str], Meta(description="groups whose members may see it over the unix socket, besides root")
    ] = msgspec.field(default_factory=list)
    htmx: Annotated[
        Path, Meta(description="htmx.min.js of Debian's libjs-htmx; pages do without where it is missing")
    ] = Path("/usr/share/javascript/htmx/htmx.min.js")
    access: AccessSettings = AccessSettings()
    grace_seconds: Annotated[int, Meta(ge=0, le=300, description="how long a stop waits for running requests")] = 10


class Level(Enum):
    """How urgent it is."""

    BAD = "bad"
    WARN = "warn"


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """Something that wants attention: how urgent, what, and the page that says more (empty for none)."""

    level: Level
    text: str
    link: str = ""


class Source(msgspec.Struct, frozen=True, kw_only=True):
    """A service of gw that is asked. `heard` is its last answer; `why` is set while it is silent."""

    name: str
    heard: float | None
    why: str | None


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """A container of a role's image on a host, and the state of its unit."""

    name: str
    active: str


class Host(msgspec.Struct, frozen=True, kw_only=True):
    """A host. `up`, `degraded` (a unit has failed) or `unknown` (silent, since `since`, and `why`).

    What an unknown host told last is still there. `published`: the version of its role on the hosts' channel.
    """

    name: str
    role: str
    address: str
    state: Liveness
    since: float
    heard: float | None
    why: str | None
    version: str | None
    published: str | None
    boot_id: str | None
    failed: list[str]
    disks: list[Disk]
    machines: list[Machine]


class Seat(msgspec.Struct, frozen=True, kw_only=True):
    """A machine that boots from netboot. `boots` is what it would boot now; `outdated`: it runs another version."""

    machine: int
    hostname: str
    state: Liveness
    version: str | None
    boots: str | None
    outdated: bool


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """Seats that stand together, as their names say."""

    name: str
    seats: list[Seat]


class Running(msgspec.Struct, frozen=True, kw_only=True):
    """How many seats run a version."""

    version: str
    seats: int


class Room(msgspec.Struct, frozen=True, kw_only=True):
    """A room: its seats, how many are in each state, and how many of those that are there run which version."""

    name: str
    counts: dict[str, int]
    versions: list[Running]
    rows: list[Row]


class Pointer(msgspec.Struct, frozen=True, kw_only=True):
    """A channel, and how many of its seats that are there run what it points to now."""

    channel: Channel
    running: int
    seats: int


class Rollout(msgspec.Struct, frozen=True, kw_only=True):
    """A rollout, and what was bad."""

    id: int
    version: str
    channel: str
    state: str
    why: str
    started: float
    ended: float | None
    rings: list[Tally]
    bad: list[str]


class Receiver(msgspec.Struct, frozen=True, kw_only=True):
    """How far a root file server is with a publication; `state` is `waiting` where it has said nothing yet."""

    host: str
    state: str
    bytes: int
    total: int
    full: int
    detail: str
    at: float | None


class Published(msgspec.Struct, frozen=True, kw_only=True):
    """The last publication of a role on a channel."""

    id: int
    channel: str
    role: str
    version: str
    at: float
    by: str
    why: str
    receivers: list[Receiver]


class Hall(msgspec.Struct, frozen=True, kw_only=True):
    """The hall at a moment. `revision` is another one whenever something else than `at` is."""

    name: str
    revision: str
    at: float
    faults: list[Fault]
    sources: list[Source]
    hosts: list[Host]
    seats: dict[str, int]
    rooms: list[Room]
    channels: list[Pointer]
    quarantines: list[Quarantine]
    rollouts: list[Rollout]
    published: list[Published]
