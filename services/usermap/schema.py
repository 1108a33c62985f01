"""What the map shows and answers, and its settings. Times are seconds since the epoch."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from services.common.access_settings import AccessSettings
from services.common.users import UserGroup


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Settings of section `usermap`."""

    hall: Annotated[str, Meta(description="name of the hall")] = "hall"
    mdb: Annotated[str, Meta(description="address of the machine database")] = "unix:/run/backline/mdb.sock"
    udb: Annotated[str, Meta(description="address of the user database")] = "unix:/run/backline/udb.sock"
    presence: Annotated[str, Meta(description="address of presence")] = "unix:/run/backline/presence.sock"
    netboot: Annotated[str, Meta(description="where netboot is")] = "unix:/run/backline/netboot.sock"
    folder: Annotated[str, Meta(description="where what feeds said is kept")] = "/var/lib/backline-usermap"
    template: Annotated[
        Path, Meta(description="an SVG of the rooms; they are drawn from host names where there is none")
    ] = Path("/var/lib/backline-usermap/template.svg")
    look_seconds: Annotated[
        float, Meta(ge=0.1, le=60, description="how often netboot is asked while somebody looks")
    ] = 4.0
    idle_seconds: Annotated[float, Meta(ge=0.1, le=600, description="how often, when nobody does")] = 30.0
    answer_seconds: Annotated[
        float, Meta(ge=0.1, le=30, description="how long netboot has for an answer until it counts as silent")
    ] = 3.0
    reader_groups: Annotated[
        list[str], Meta(description="groups whose members see logins over the unix socket, besides root")
    ] = msgspec.field(default_factory=list)
    htmx: Annotated[
        Path, Meta(description="htmx.min.js of Debian's libjs-htmx; pages do without where it is missing")
    ] = Path("/usr/share/javascript/htmx/htmx.min.js")
    access: AccessSettings = AccessSettings()
    grace_seconds: Annotated[int, Meta(ge=0, le=300, description="how long a stop waits for running requests")] = 10


class State(Enum):
    """What a seat is, the first of these that holds."""

    FAULTY = "faulty"
    """mdb says that it does not work."""
    UNREACHABLE = "unreachable"
    """It is silent."""
    OFF = "off"
    """It has no lease: marked off, silent for a day, or never seen."""
    STARTING = "starting"
    """It was answered what to boot a moment ago, or is not through."""
    ROOT = "root"
    """Somebody of group root has a session there."""
    ORGA = "orga"
    """Somebody of group orga has."""
    USER = "user"
    """Somebody else has."""
    FREE = "free"
    """It works, and nobody has a session there."""


class Person(msgspec.Struct, frozen=True, kw_only=True):
    """Who has a session on a seat, and since when; `group` is null for somebody whom udb does not know."""

    login: str
    group: UserGroup | None
    since: float


class Seat(msgspec.Struct, frozen=True, kw_only=True):
    """A seat. `degraded`: a unit has failed there; `old`: it runs another version than it would boot.

    Those who are no organizers get no `people`, `version`, `failed` and `reason`.
    """

    machine: int
    hostname: str
    room: str
    row: str
    label: str
    state: State
    degraded: bool
    old: bool
    people: list[Person] = []
    version: str | None = None
    failed: list[str] = []
    reason: str = ""


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """Seats that stand together, as their names say."""

    name: str
    seats: list[Seat]


class Room(msgspec.Struct, frozen=True, kw_only=True):
    """A room."""

    name: str
    counts: dict[str, int]
    rows: list[Row]


class Source(msgspec.Struct, frozen=True, kw_only=True):
    """Who the map knows things from; `why` says that, and how, he is silent: what he said last is shown."""

    name: str
    why: str | None


class Map(msgspec.Struct, frozen=True, kw_only=True):
    """All rooms. `revision` is another one whenever something else than `at` is; `layout` when a seat came or went."""

    hall: str
    revision: str
    layout: str
    at: float
    counts: dict[str, int]
    sources: list[Source]
    rooms: list[Room]

    def seats(self) -> list[Seat]:
        return [seat for room in self.rooms for row in room.rows for seat in row.seats]
