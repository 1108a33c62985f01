"""What netboot takes and answers, but for the scripts that machines run.

A version is named by its id alone (`20261121.bf275d18ebe8`), which is unique over roles: it is made from everything
that went into the image. Times are seconds since the epoch.
"""

from __future__ import annotations

from enum import Enum
from typing import Annotated

import msgspec
from msgspec import UNSET, Meta, UnsetType

from services.common.access_settings import AccessSettings

RFS_MAX = 9999
OPTIONS_MAX = 512


def about(text: str) -> Meta:
    """What a field is, for OpenAPI and docs/netboot.md."""
    return Meta(description=text)


VersionId = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,79}$")]
Label = Annotated[str, Meta(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]
RootHash = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$")]
Why = Annotated[str, Meta(max_length=500, pattern=r"^[^\x00]*$")]
BootId = Annotated[str, Meta(pattern=r"^[0-9a-f]{32}$")]


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Settings of section `netboot`."""

    database: Annotated[str, Meta(description="URL of the database: sqlite:////path or postgresql://host/name")] = (
        "sqlite:////var/lib/backline-netboot/netboot.db"
    )
    mdb: Annotated[str, Meta(description="where mdb is")] = "unix:/run/backline/mdb.sock"
    memory: Annotated[str, Meta(description="file that remembers mdb's machines; none when empty")] = (
        "/var/lib/backline-netboot/mdb.json"
    )
    dhcp: Annotated[str, Meta(description="where the DHCP service is, for `backline why`")] = (
        "unix:/run/backline/dhcp.sock"
    )
    presence: Annotated[str, Meta(description="where heartbeats are passed on to; nowhere when empty")] = (
        "unix:/run/backline/presence.sock"
    )
    hall: Annotated[str, Meta(description="name of the hall, as machines show it")] = "hall"
    domain: Annotated[str, Meta(description="DNS domain of the hall's machines")] = ""
    gateways: Annotated[
        list[str],
        Meta(description="`network=address`: gw's address for machines of that network; the first for others"),
    ] = msgspec.field(default_factory=list)
    aliens: Annotated[str, Meta(description="`first-last`: addresses of machines that mdb does not know")] = ""
    hall_toml: Annotated[str, Meta(description="the hall.toml that machines are given")] = (
        "/run/backline/hall/current/hall.toml"
    )
    writer_groups: Annotated[
        list[str], Meta(description="groups whose members may change netboot over the unix socket, besides root")
    ] = msgspec.field(default_factory=lambda: ["backline-rollout"])
    publisher_groups: Annotated[
        list[str], Meta(description="groups whose members may make versions known over the unix socket, nothing else")
    ] = msgspec.field(default_factory=lambda: ["backline-depot"])
    reader_groups: Annotated[
        list[str],
        Meta(description="groups whose members may see boots, logs and unknown machines over the unix socket"),
    ] = msgspec.field(default_factory=lambda: ["backline-mdb", "backline-overview", "backline-usermap"])
    access: AccessSettings = AccessSettings()
    options: Annotated[
        str,
        Meta(max_length=OPTIONS_MAX, description="further words for every machine's kernel, beside its version's own"),
    ] = ""
    claim_seconds: Annotated[
        int, Meta(ge=10, le=3600, description="how long after its answer a machine may claim its credentials")
    ] = 120
    grace_seconds: Annotated[int, Meta(ge=0, le=300, description="how long a stop waits for running requests")] = 10


class Strict(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What comes in: an unknown field is a mistake."""


class NewVersion(Strict, frozen=True, kw_only=True):
    """A version to be known."""

    version: Annotated[VersionId, about("Its id, as the builder named it.")]
    role: Annotated[Label, about("The image that it is a version of.")] = "nfsroot"
    root_hash: Annotated[RootHash, about("dm-verity's root hash of its root.erofs.")]
    options: Annotated[str, Meta(max_length=OPTIONS_MAX), about("Further words for the kernel's command line.")] = ""
    size: Annotated[int, Meta(ge=0, le=2**62), about("Bytes of its files.")] = 0


class Version(msgspec.Struct, frozen=True, kw_only=True):
    """A version that netboot knows."""

    version: str
    role: str
    root_hash: str
    options: str
    size: int
    added: float
    added_by: str
    quarantined: str | None = None
    """Why it is in quarantine; null for a version that is not."""


class Versions(msgspec.Struct, frozen=True, kw_only=True):
    """Every version, the newest first."""

    versions: list[Version]


class VersionUsers(msgspec.Struct, frozen=True, kw_only=True):
    """Who uses a version, in words: channels that point to it or did before, pins, machines that run from it."""

    version: str
    users: list[str]


class Holding(msgspec.Struct, frozen=True, kw_only=True):
    """A root file server has confirmed that it holds a version."""

    rfs: int
    version: str
    confirmed_at: float


class Holdings(msgspec.Struct, frozen=True, kw_only=True):
    """Which root file server holds what."""

    holdings: list[Holding]


class Channel(msgspec.Struct, frozen=True, kw_only=True):
    """A channel's pointer. `effective` is what its machines get now: `previous`, when nobody committed in time.

    `only`: ids of the machines that `current` is for until it is committed, while the others get `previous`.
    """

    name: str
    current: str | None
    previous: str | None
    commit_by: float | None
    committed: bool
    only: list[int] | None = None
    generation: int
    effective: str | None
    changed: float
    changed_by: str
    why: str


class Channels(msgspec.Struct, frozen=True, kw_only=True):
    """Every channel."""

    channels: list[Channel]


MachineIds = Annotated[list[int], Meta(min_length=1, max_length=100_000)]
CommitWithin = Annotated[int, Meta(ge=1, le=30 * 86400)]


class NewPointer(Strict, frozen=True, kw_only=True):
    """Where a channel shall point to."""

    version: Annotated[VersionId, about("The version that its machines boot from now on.")]
    why: Annotated[Why, about("For the history.")] = ""
    commit_within: Annotated[
        CommitWithin | None,
        about("Point back by itself unless it is committed within so many seconds; committed at once when absent."),
    ] = None
    only: Annotated[
        MachineIds | None,
        about("Until it is committed, for these machines only (ids of mdb); needs commit_within."),
    ] = None
    lift_quarantine: Annotated[bool, about("Also when the version is in quarantine, which ends with this.")] = False
    generation: Annotated[int | None, about("Only while the channel is at this generation.")] = None


class Extension(Strict, frozen=True, kw_only=True):
    """More time for what a channel points to on trial, and other machines that it is for."""

    commit_within: Annotated[CommitWithin, about("Point back unless it is committed within so many seconds from now.")]
    only: Annotated[MachineIds | None, about("The machines that it is for; all of the channel's when absent.")] = None
    why: Annotated[Why, about("For the history.")] = ""
    generation: Annotated[int | None, about("Only while the channel is at this generation.")] = None


class Rollback(Strict, frozen=True, kw_only=True):
    """Point back to the previous version."""

    why: Annotated[Why, about("For the history.")] = ""
    quarantine: Annotated[bool, about("Put what it pointed to into quarantine, in the same step.")] = False
    generation: Annotated[int | None, about("Only while the channel is at this generation.")] = None


class Move(Strict, frozen=True, kw_only=True):
    """Keep what a channel points to."""

    why: Annotated[Why, about("For the history.")] = ""
    generation: Annotated[int | None, about("Only while the channel is at this generation.")] = None


class Action(Enum):
    """What happened to a channel."""

    SET = "set"
    EXTENDED = "extended"
    COMMITTED = "committed"
    REVERTED = "reverted"
    EXPIRED = "expired"
    """Not committed in time."""
    RESTARTED = "restarted"
    """Not committed when netboot was started again."""


class ChannelChange(msgspec.Struct, frozen=True, kw_only=True):
    """One line of a channel's history; `current` is where it pointed afterwards."""

    id: int
    channel: str
    action: Action
    current: str | None
    previous: str | None
    commit_by: float | None
    generation: int
    at: float
    by: str
    why: str


class ChannelHistory(msgspec.Struct, frozen=True, kw_only=True):
    """What happened to a channel, the newest first."""

    changes: list[ChannelChange]


class NewQuarantine(Strict, frozen=True, kw_only=True):
    """A version that shall not be offered."""

    why: Annotated[Why, about("What is wrong with it.")] = ""


class Quarantine(msgspec.Struct, frozen=True, kw_only=True):
    """A version that is not offered."""

    version: str
    at: float
    by: str
    why: str


class Quarantines(msgspec.Struct, frozen=True, kw_only=True):
    """Every version that is not offered, the newest first."""

    quarantines: list[Quarantine]


class PinKind(Enum):
    """What a pin is for."""

    ROOM = "room"
    TYPE = "type"


class NewPin(Strict, frozen=True, kw_only=True):
    """A version that a room or type boots, whatever its channels say."""

    version: VersionId
    why: Annotated[Why, about("For those who wonder.")] = ""


class Pin(msgspec.Struct, frozen=True, kw_only=True):
    """A pin of a room or type; a machine's own pin is in mdb."""

    kind: PinKind
    value: str
    version: str
    why: str
    at: float
    by: str


class Pins(msgspec.Struct, frozen=True, kw_only=True):
    """Every pin of rooms and types."""

    pins: list[Pin]


class Outcome(Enum):
    """What a machine was answered."""

    BOOT = "boot"
    UNKNOWN = "unknown"
    NOT_READY = "not-ready"
    WAIT = "wait"
    FAULTY = "faulty"
    BAD_RECORD = "bad-record"
    NO_VERSION = "no-version"
    NOT_HELD = "not-held"
    NO_SERVER = "no-server"


class Stage(Enum):
    """How far a boot came."""

    INITRD = "initrd"
    SYSTEM = "system"
    FAILED = "failed"


class Boot(msgspec.Struct, frozen=True, kw_only=True):
    """What a machine was answered once, and what became of it."""

    id: str
    machine: int
    hostname: str
    mac: str
    address: str
    asked_from: str
    outcome: Outcome
    rule: str
    detail: str
    version: str | None
    role: str | None
    rfs: int | None
    servers: list[str]
    at: float
    claimed_at: float | None
    claimed_from: str | None
    refused_claims: int
    stage: Stage | None
    stage_at: float | None
    stage_detail: str
    seen: float | None
    """Its last heartbeat that is written down, which is done every half minute."""


class Boots(msgspec.Struct, frozen=True, kw_only=True):
    """Boots, the newest first."""

    boots: list[Boot]


class BootsQuery(Strict, frozen=True, kw_only=True):
    """Which boots, or logs of boots."""

    machine: Annotated[str | None, about("Of one machine: id, name, MAC or address.")] = None
    limit: Annotated[int, Meta(ge=1, le=1000), about("At most so many.")] = 50


class Bootlog(msgspec.Struct, frozen=True, kw_only=True):
    """What a failing initrd sent: why in one line, and the end of its journal."""

    id: int
    boot: str
    machine: int
    sent_from: str
    at: float
    reason: str
    text: str


class Bootlogs(msgspec.Struct, frozen=True, kw_only=True):
    """Logs of failed boots, the newest first."""

    logs: list[Bootlog]


class Report(Strict, frozen=True, kw_only=True):
    """How far a boot is."""

    stage: Stage
    detail: Annotated[str, Meta(max_length=2000)] = ""
    ssh_host_key: Annotated[str, Meta(max_length=1000)] | UnsetType = UNSET


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """How a machine is. Like all of a heartbeat it may come from a newer image: what is not known is passed over."""

    state: Annotated[str, Meta(max_length=40), about("As systemctl(1) is-system-running has it.")]
    failed_units: Annotated[list[Annotated[str, Meta(max_length=256)]], Meta(max_length=100)] = []
    units: Annotated[
        dict[str, Annotated[str, Meta(max_length=40)]],
        Meta(max_length=100),
        about("The state of each unit that it was asked for."),
    ] = {}


class Heartbeat(msgspec.Struct, frozen=True, kw_only=True):
    """What a machine that is up says every 15 s."""

    version: Annotated[str, Meta(max_length=80), about("The version that it runs.")]
    health: Health
    user: Annotated[Annotated[str, Meta(max_length=256)] | None, about("Who is logged in; null for nobody.")] = None
    users: Annotated[
        Annotated[list[Annotated[str, Meta(max_length=256)]], Meta(max_length=64)] | None,
        about("Everybody who has a session, for presence; null when that cannot be told."),
    ] = None


class Orders(msgspec.Struct, frozen=True, kw_only=True):
    """What a machine is asked to do: the answer to its heartbeat."""

    seconds: Annotated[float, about("Until its next heartbeat.")] = 15.0
    reboot: Annotated[bool, about("Restart now, unless somebody has logged in.")] = False
    even_with_user: Annotated[bool, about("Restart although somebody is logged in.")] = False
    version: Annotated[str | None, about("What it boots then.")] = None
    probes: Annotated[tuple[str, ...], about("Units whose state shall be in its next heartbeat.")] = ()
    end: Annotated[tuple[str, ...], about("Users whose sessions there have ended: what they run shall end.")] = ()


class NewOrder(Strict, frozen=True, kw_only=True):
    """Machines that shall run a version: those that run another one are asked to restart."""

    version: VersionId
    machines: MachineIds
    even_with_user: Annotated[bool, about("Also those where somebody is logged in.")] = False
    probes: Annotated[
        list[Annotated[str, Meta(pattern=r"^[A-Za-z0-9:_.@\\-]{1,255}$")]],
        Meta(max_length=32),
        about("Units whose state their heartbeats shall tell."),
    ] = []
    seconds: Annotated[int, Meta(ge=1, le=600), about("How long this is asked.")] = 60


class Liveness(Enum):
    """Whether a machine is there, by its heartbeats. One that is silent is never taken for up."""

    UP = "up"
    """Its last heartbeat is fresh, and it is well."""
    DEGRADED = "degraded"
    """Its last heartbeat is fresh, and a unit has failed there, or it is in maintenance."""
    STARTING = "starting"
    """It was answered what to boot a moment ago, or says itself that it is not through."""
    UNKNOWN = "unknown"
    """It is silent."""
    OFF = "off"
    """Silent, and without a lease: marked off, not heard for a day, or never."""


class Lease(msgspec.Struct, frozen=True, kw_only=True):
    """A version that a machine runs, as far as netboot knows, and that must not go away below it."""

    machine: int
    hostname: str
    version: str
    role: str
    since: float
    last_sign: float
    ends: float
    heard: float | None
    """Its last heartbeat in this life of netboot."""
    state: Liveness = Liveness.UNKNOWN


class Leases(msgspec.Struct, frozen=True, kw_only=True):
    """Every lease. `age`: seconds since signs of life were last written down; more than a minute means trouble."""

    at: float
    age: float
    leases: list[Lease]


class SeatsQuery(Strict, frozen=True, kw_only=True):
    """Which machines, and about which version."""

    channel: Annotated[Label | None, about("Those of one channel.")] = None
    version: Annotated[VersionId | None, about("Whether their root file servers hold it.")] = None


class Seat(msgspec.Struct, frozen=True, kw_only=True):
    """A machine: what it would boot now (`boots`, by `rule`), what it was last given (`booted`), and what it runs.

    `since` is when it was given it, `last_sign` its last sign of life in whatever life of netboot.
    """

    machine: int
    hostname: str
    room: str
    type: str
    channel: str
    faulty: bool
    rule: str
    boots: str | None
    held: bool
    booted: str | None
    version: str | None
    heard: float | None
    up: bool
    health: Health | None
    user: str | None
    state: Liveness = Liveness.UNKNOWN
    since: float | None = None
    last_sign: float | None = None


class Seats(msgspec.Struct, frozen=True, kw_only=True):
    """Machines in the order of their names, as netboot sees them at a moment. It listens to them since `listening`."""

    at: float
    listening: float = 0.0
    seats: list[Seat]


class Credentials(msgspec.Struct, frozen=True, kw_only=True):
    """The credentials of one boot by name, as systemd calls them."""

    credentials: dict[str, str]


class BootlogQuery(Strict, frozen=True, kw_only=True):
    """Whose log it is."""

    boot: Annotated[BootId, about("The boot id of the command line.")]


class RegisterQuery(Strict, frozen=True, kw_only=True):
    """What the menu asked for."""

    hostname: str
    mac: str
    rfs: str = "0"
    hfs: str = "0"
    room: str = "other"
    type: str = "user"
    code: str = ""


class Alien(msgspec.Struct, frozen=True, kw_only=True):
    """A MAC address that asked, and that mdb does not know."""

    mac: str
    asked_from: str
    first: float
    last: float
    times: int


class Aliens(msgspec.Struct, frozen=True, kw_only=True):
    """Who asked without being known, the newest first; forgotten at a restart."""

    aliens: list[Alien]
