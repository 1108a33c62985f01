"""What the firewall's service takes and answers, and its settings, which `backline hall` renders from hall.toml.

Times are seconds since the epoch.
"""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from services.common.access_settings import AccessSettings
from services.common.errors import MissingError
from services.common.users import UserGroup

LEFT_OUT_SHOWN = 1000


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Settings of section `firewall`."""

    networks: Annotated[
        list[str], Meta(description="networks of the hall; what goes elsewhere goes through the firewall")
    ] = msgspec.field(default_factory=list)
    aliens: Annotated[
        list[str], Meta(description="those of them whose machines mdb does not know: nobody there gets out")
    ] = msgspec.field(default_factory=list)
    services: Annotated[
        list[str], Meta(description="addresses and `first-last` ranges of servers, which always get out")
    ] = msgspec.field(default_factory=list)
    allowed_groups: Annotated[
        list[UserGroup],
        Meta(description="groups of users whose seats get out, where nobody decided: user, orga, root"),
    ] = msgspec.field(default_factory=lambda: list(UserGroup))
    always_types: Annotated[
        list[str], Meta(description="types of machines that get out whoever sits there, or nobody")
    ] = msgspec.field(default_factory=lambda: ["orga", "service"])
    strict_sources: Annotated[
        bool, Meta(description="whether a packet counts only from the card that its source address is behind")
    ] = True
    new_per_second: Annotated[
        int, Meta(ge=1, le=100_000, description="new connections that a seat may open in a second, on average")
    ] = 200
    new_at_once: Annotated[int, Meta(ge=1, le=1_000_000, description="and how many beyond that after a quiet time")] = (
        2000
    )
    folder: Annotated[str, Meta(description="where what feeds said, and what was in force, is kept")] = (
        "/var/lib/backline-firewall"
    )
    mdb: Annotated[str, Meta(description="address of the machine database")] = "unix:/run/backline/mdb.sock"
    udb: Annotated[str, Meta(description="address of the user database")] = "unix:/run/backline/udb.sock"
    presence: Annotated[str, Meta(description="address of presence")] = "unix:/run/backline/presence.sock"
    look_seconds: Annotated[
        float, Meta(ge=0.1, le=600, description="how often the kernel's rules are looked after")
    ] = 10.0
    organizer_groups: Annotated[
        list[str], Meta(description="groups whose members are organizers over the unix socket, besides root")
    ] = msgspec.field(default_factory=list)
    htmx: Annotated[
        Path, Meta(description="htmx.min.js of Debian's libjs-htmx; pages do without where it is missing")
    ] = Path("/usr/share/javascript/htmx/htmx.min.js")
    access: AccessSettings = AccessSettings()
    grace_seconds: Annotated[int, Meta(ge=0, le=300, description="how long a stop waits for running requests")] = 10


class Reason(Enum):
    """Why a machine gets out of the hall, or does not."""

    TYPE = "type"
    """Machines of its type always do."""
    SERVER = "server"
    """hall.toml says that servers have this address."""
    GROUP = "group"
    """The groups of all who have a session there may."""
    NOBODY = "nobody"
    """Nobody has a session there."""
    REFUSED = "refused"
    """The group of somebody who has a session there may not."""
    UNKNOWN = "unknown"
    """The user database does not know somebody who has a session there."""
    ADDRESS = "address"
    """Its address is not one of the hall's, or is another machine's as well."""


class Person(msgspec.Struct, frozen=True, kw_only=True):
    """Who has a session on a machine; `group` is null for somebody whom the user database does not know."""

    login: str
    group: UserGroup | None
    allowed: bool


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """A machine, and whether it gets out. `in_force`: the kernel's rules say so by now."""

    machine: int
    hostname: str
    address: str
    type: str
    allowed: bool
    reason: Reason
    text: str
    people: list[Person]
    in_force: bool


class Standings(msgspec.Struct, frozen=True, kw_only=True):
    """Machines in the order of their names."""

    machines: list[Standing]


class LeftOut(msgspec.Struct, frozen=True, kw_only=True):
    """A record that counts for nothing, and why; everything else is as if it were not there."""

    record: str
    reason: str


class FeedStanding(msgspec.Struct, frozen=True, kw_only=True):
    """A feed: its revision (null: it has never told anything), for how long it has been silent, and whether that is
    too long.
    """

    name: str
    revision: int | None
    silence: float
    stale: bool


class Traffic(msgspec.Struct, frozen=True, kw_only=True):
    """What the kernel has counted since its rules were last loaded as a whole."""

    packets: int
    bytes: int


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """What is in force. `applied` is when the kernel last took something, `seconds` how long that took."""

    problem: str | None
    applied: float | None
    seconds: float | None
    allowed_groups: list[UserGroup]
    seats: int
    always: int
    feeds: list[FeedStanding]
    counters: dict[str, Traffic]
    connections: int
    lost: int
    left_out: list[LeftOut]
    left_out_total: int


class GroupState(msgspec.Struct, frozen=True, kw_only=True):
    """Whether seats of a group get out. `decided`: somebody has said so while the hall runs, else it is hall.toml's
    `default`; `by` and `at` are the last such word, which may be that hall.toml counts again.
    """

    group: UserGroup
    allowed: bool
    default: bool
    decided: bool
    by: str | None
    at: float | None


class GroupStates(msgspec.Struct, frozen=True, kw_only=True):
    """Every group."""

    groups: list[GroupState]


class Decision(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Whether a group gets out; null leaves it to hall.toml."""

    allowed: bool | None


def group_named(name: str) -> UserGroup:
    """Raises MissingError("group.unknown")."""
    try:
        return UserGroup(name)
    except ValueError as error:
        known = ", ".join(each.value for each in UserGroup)
        raise MissingError("group.unknown", "there is no such group", hint=f"groups: {known}") from error


class Why(msgspec.Struct, frozen=True, kw_only=True):
    """Whether a machine gets out of the hall, and everything that decides it."""

    standing: Standing
    allowed_groups: list[UserGroup]
    problem: str | None
    feeds: list[FeedStanding]
