"""What hostd takes and answers, and its settings. All of it is read-only: hostd changes nothing."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from services.common.bus import SYSTEM_BUS

LINES_MAX = 1000

State = Annotated[str, Meta(pattern=r"^[a-z][a-z-]{0,31}$")]
Pattern = Annotated[str, Meta(pattern=r"^[A-Za-z0-9:_.\\@*?\[\]!-]{1,255}$")]


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Settings of section `hostd`."""

    bus: Annotated[str, Meta(description="D-Bus address of the systemd to show")] = SYSTEM_BUS
    disks: Annotated[list[str], Meta(description="folders whose file systems are told of, each file system once")] = (
        msgspec.field(default_factory=lambda: ["/var", "/var/lib/backline/roots"])
    )
    journal_groups: Annotated[
        list[str], Meta(description="groups whose members may read journals over the unix socket, besides root")
    ] = msgspec.field(default_factory=lambda: ["systemd-journal", "adm"])
    journal_seconds: Annotated[
        float, Meta(gt=0, le=60, description="how long journalctl may take before the request fails")
    ] = 10.0
    journal_bytes: Annotated[
        int, Meta(ge=1024, le=64 * 1024 * 1024, description="size of an answer beyond which older lines are left out")
    ] = 1024 * 1024
    grace_seconds: Annotated[int, Meta(ge=0, le=300, description="how long a stop waits for running requests")] = 10


class Disk(msgspec.Struct, frozen=True):
    """A file system, by the folder that was looked at: its bytes, and those that are free for ordinary users."""

    path: str
    total: int
    free: int


class Host(msgspec.Struct, frozen=True):
    """A host, the image that it runs, and its disks.

    Role and version are null where nobody told the host; it is unconfigured then.
    """

    hostname: str
    boot_id: str
    role: str | None
    version: str | None
    state: Literal["configured", "unconfigured"]
    disks: list[Disk] = []


class UnitsQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which units to list; without anything, all that are loaded."""

    state: Annotated[
        list[State], Meta(max_length=16, description="load, active or sub states; a unit in one of them is listed")
    ] = []
    match: Annotated[
        list[Pattern], Meta(max_length=16, description="shell patterns; a unit that fits one of them is listed")
    ] = []


class Unit(msgspec.Struct, frozen=True):
    """One unit in a list; the states are systemd's own words."""

    name: str
    description: str
    load: str
    active: str
    sub: str


class Units(msgspec.Struct, frozen=True):
    """Units by name."""

    units: list[Unit]


class UnitDetail(msgspec.Struct, frozen=True):
    """One unit. `active_since` is seconds since the epoch, null when it is not known; `main_pid` null for none."""

    name: str
    description: str
    load: str
    active: str
    sub: str
    file_state: str
    active_since: float | None
    invocation: str
    main_pid: int | None
    result: str
    restarts: int


class JournalQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How much of a unit's journal to read."""

    lines: Annotated[int, Meta(ge=1, le=LINES_MAX, description="the newest so many entries")] = 100


class JournalEntry(msgspec.Struct, frozen=True):
    """One entry. `time` is seconds since the epoch; a message too large for the journal's reader is null."""

    time: float
    message: str | None
    priority: int | None = None
    identifier: str | None = None
    pid: int | None = None
    request_id: str | None = None


class Journal(msgspec.Struct, frozen=True):
    """The newest entries of a unit, oldest first. `truncated`: older ones were left out because of their size."""

    unit: str
    entries: list[JournalEntry]
    truncated: bool
