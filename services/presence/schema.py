"""What presence takes, answers and feeds, and its settings. Times are seconds since the epoch."""

from __future__ import annotations

from enum import Enum
from typing import Annotated

import msgspec
from msgspec import Meta

from services.common.access_settings import AccessSettings
from services.common.users import LOGIN, UserGroup

TOPIC = "sessions"


def about(text: str) -> Meta:
    """What a field is, for OpenAPI."""
    return Meta(description=text)


Login = Annotated[str, Meta(pattern=LOGIN)]
MachineId = Annotated[int, Meta(ge=1, le=2**62)]
BootId = Annotated[str, Meta(pattern=r"^[0-9a-f]{32}$")]


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Settings of section `presence`."""

    database: Annotated[str, Meta(description="URL of the database: sqlite:////path or postgresql://host/name")] = (
        "sqlite:////var/lib/backline-presence/presence.db"
    )
    mdb: Annotated[str, Meta(description="where mdb is")] = "unix:/run/backline/mdb.sock"
    udb: Annotated[str, Meta(description="where udb is; its private feed is followed")] = "unix:/run/backline/udb.sock"
    memory: Annotated[str, Meta(description="folder that remembers machines and users; none when empty")] = (
        "/var/lib/backline-presence"
    )
    heartbeat_groups: Annotated[
        list[str], Meta(description="groups whose members pass heartbeats on over the unix socket, besides root")
    ] = msgspec.field(default_factory=lambda: ["backline-netboot"])
    reader_groups: Annotated[
        list[str], Meta(description="groups whose members count as organizers over the unix socket")
    ] = msgspec.field(default_factory=list)
    tries: Annotated[
        int,
        Meta(
            ge=1, le=10_000, description="wrong passwords at once of a machine, and of ssh to it; then so many a minute"
        ),
    ] = 20
    access: AccessSettings = AccessSettings()
    grace_seconds: Annotated[int, Meta(ge=0, le=300, description="how long a stop waits for running requests")] = 10


class Strict(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What comes in: an unknown field is a mistake."""


class Stage(Enum):
    """Where a login is, as PAM has it."""

    AUTH = "auth"
    """Is it you, and could you log in here? Nothing is registered."""
    ACCOUNT = "account"
    """Log in: the session begins, if the password was verified on this machine a moment ago."""


class Reason(Enum):
    """Why somebody may not log in."""

    PASSWORD = "password"
    """Wrong, missing, tried too often, or not verified before the account stage."""
    ELSEWHERE = "elsewhere"
    """The user has a session on another machine."""
    BUSY = "busy"
    """Another user has a session on this machine."""
    MACHINE = "machine"
    """mdb does not know the machine, or the request comes from another address than the machine's."""
    USER = "user"
    """udb does not know the user."""
    GROUP = "group"
    """Contestants log in on machines of type user only."""
    EARLY = "early"
    """Presence has begun with an empty database a moment ago, and does not know yet who is where."""
    UNAVAILABLE = "unavailable"
    """Users or machines are not known yet."""


class NewLogin(Strict, frozen=True, kw_only=True):
    """Somebody wants to log in on the machine whose token is shown."""

    login: Annotated[str, Meta(min_length=1, max_length=256), about("Who.")]
    stage: Annotated[Stage, about("`auth` verifies the password; `account` begins the session.")]
    password: Annotated[
        Annotated[str, Meta(max_length=1024)] | None, about("With `auth`, over HTTPS only; nobody keeps it.")
    ] = None
    remote: Annotated[bool, about("Whether it is somebody who comes over the network, as by ssh.")] = False


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """Whether somebody may log in. `message` is for the one in front of the machine."""

    allowed: bool
    reason: Annotated[Reason | None, about("Why not; null when allowed.")] = None
    message: str = ""
    group: UserGroup | None = None
    uid: int | None = None


class Logout(Strict, frozen=True, kw_only=True):
    """Somebody's last session on a machine has ended."""

    login: Annotated[str, Meta(min_length=1, max_length=256), about("Who.")]


class Session(msgspec.Struct, frozen=True, kw_only=True):
    """Who is logged in where: also the record of the feed, whose key is the login."""

    login: str
    machine: Annotated[int, about("Id of mdb.")]
    hostname: str
    since: float


class Sessions(msgspec.Struct, frozen=True, kw_only=True):
    """Every session, in the order of logins. `heard`: how long ago netboot last passed heartbeats on, in seconds."""

    sessions: list[Session]
    heard: float | None


class Beat(Strict, frozen=True, kw_only=True):
    """A heartbeat of a machine: everybody who has a session there, or null when it cannot tell."""

    machine: MachineId
    hostname: Annotated[str, Meta(max_length=63)]
    boot: Annotated[str, Meta(max_length=64)]
    users: Annotated[list[Annotated[str, Meta(max_length=256)]], Meta(max_length=64)] | None


class Beats(Strict, frozen=True, kw_only=True):
    """Heartbeats since the last batch. An empty batch says that there were none, not that nobody listens."""

    beats: Annotated[list[Beat], Meta(max_length=20_000)]


class End(msgspec.Struct, frozen=True, kw_only=True):
    """Somebody whom a machine still names, and whose session there has ended: what he runs there shall end."""

    machine: int
    boot: str
    login: str


class Ends(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to heartbeats."""

    ends: list[End]


class User(msgspec.Struct, frozen=True, kw_only=True):
    """A user of udb's private feed, as far as a login is concerned."""

    login: str
    uid: int
    group: UserGroup
    hash: str | None = None


class MachineType(Enum):
    """What a machine is for, as mdb has it."""

    USER = "user"
    ORGA = "orga"
    CLUSTER = "cluster"
    SERVICE = "service"


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """A machine of mdb's feed, as far as a login is concerned."""

    id: int
    hostname: str
    ip: str
    type: MachineType = MachineType.USER
