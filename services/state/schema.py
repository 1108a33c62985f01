"""What the state service takes and answers, its settings, and what an archive says of itself."""

from __future__ import annotations

import re
from enum import Enum
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from services.common.access_settings import AccessSettings
from services.common.tls import TlsSettings

FORMAT = 1
_NAME = re.compile(r"(?P<host>[a-z0-9][a-z0-9-]{0,62})-(?P<line>[0-9a-f]{8})-(?P<at>[0-9]{8}T[0-9]{6}Z)\.state")


class Databases(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Table `databases`: the URL of each, as its service has it."""

    mdb: Annotated[str, Meta(description="mdb's database")] = "sqlite:////var/lib/backline-mdb/mdb.db"
    udb: Annotated[str, Meta(description="udb's database")] = "sqlite:////var/lib/backline-udb/udb.db"
    netboot: Annotated[str, Meta(description="netboot's database")] = "sqlite:////var/lib/backline-netboot/netboot.db"
    depot: Annotated[str, Meta(description="the depot's database")] = "sqlite:////var/lib/backline-depot/depot.db"


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Settings of section `state`; on gw and root file servers, backline-hall.service writes them from hall.toml."""

    hall: Annotated[str, Meta(description="name of the hall; archives of another one are refused")] = ""
    domain: Annotated[str, Meta(description="DNS domain of the hall, for the same")] = ""
    host: Annotated[str, Meta(description="name of this host in hall.toml")] = ""
    folder: Annotated[Path, Meta(description="where archives are saved")] = Path("/var/lib/backline-state")
    kept: Annotated[Path, Meta(description="where a root file server keeps the copies that it was given")] = Path(
        "/var/lib/backline-state-keeper"
    )
    receivers: Annotated[
        list[str], Meta(description="`host=address`: root file servers that get a copy; none on themselves")
    ] = msgspec.field(default_factory=list)
    databases: Databases = Databases()
    hourly: Annotated[int, Meta(ge=1, le=1000, description="how many hours have their archive kept")] = 48
    daily: Annotated[int, Meta(ge=1, le=1000, description="how many days have their archive kept")] = 14
    archive_bytes: Annotated[int, Meta(ge=1, description="largest copy that is taken from another host")] = 1024**3
    kept_bytes: Annotated[int, Meta(ge=1, description="how much all copies may take, the newest of each apart")] = (
        8 * 1024**3
    )
    reserve_bytes: Annotated[int, Meta(ge=0, description="room that stays free on the disk; below it, no copies")] = (
        256 * 1024**2
    )
    overdue_seconds: Annotated[
        int, Meta(ge=60, description="age of the newest archive or copy from which on it is a problem")
    ] = 9000
    roots: Annotated[Path, Meta(description="what the roots service has accepted, by channel")] = Path(
        "/var/lib/backline/roots/state.json"
    )
    tls: TlsSettings = TlsSettings()
    access: AccessSettings = AccessSettings()
    grace_seconds: Annotated[int, Meta(ge=0, le=300, description="how long a stop waits for running requests")] = 10


class Name(msgspec.Struct, frozen=True, order=True):
    """What an archive is called: whose it is, the life of gw that it comes from, and when it was saved (UTC).

    `line` is a fingerprint of the hall's token key, which a gw makes once and a restore brings back: a new, empty gw
    has another one, so nobody takes its archives for those of the gw that was lost.
    """

    at: str
    host: str
    line: str

    def __str__(self) -> str:
        return f"{self.host}-{self.line}-{self.at}.state"


def parse_name(text: str) -> Name | None:
    """The parts of an archive's name; None for what is none. What is accepted prints back as it was."""
    found = _NAME.fullmatch(text)
    return Name(found["at"], found["host"], found["line"]) if found else None


class Kind(Enum):
    """What an entry of an archive is."""

    FILE = "file"
    FOLDER = "folder"
    LINK = "link"
    DATABASE = "database"


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One entry. `path` is below the part's folder; of a database, its name as a setting."""

    path: str
    kind: Kind
    mode: int = 0
    size: int = 0
    sha256: str = ""
    target: str = ""
    """Where a link leads to."""
    dialect: str = ""
    """Of a database: sqlite or postgresql."""
    revision: str = ""
    """Of a database: the Alembic revision of its schema; empty for one without tables."""


class PartContent(msgspec.Struct, frozen=True, kw_only=True):
    """One part: a folder of one owner."""

    name: str
    folder: str
    owner: str
    mode: int
    entries: list[Entry]


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """`manifest.json`, the first member of an archive. `saved_at` is seconds since the epoch."""

    format: int
    hall: str
    domain: str
    host: str
    line: str
    role: str
    version: str
    saved_at: float
    why: str
    parts: list[PartContent]
    hall_toml: str = ""
    """What was in force: it is for people, and not restored."""


class Save(msgspec.Struct, frozen=True, kw_only=True):
    """An archive on this host. `at` is seconds since the epoch."""

    name: str
    size: int
    at: float
    sealed: bool


class Receiver(msgspec.Struct, frozen=True, kw_only=True):
    """A root file server as gw sees it: its newest copy, and what keeps it from having the newest archive."""

    host: str
    newest: str | None = None
    at: float | None = None
    problem: str | None = None


class State(msgspec.Struct, frozen=True, kw_only=True):
    """Archives of this host, the newest first, how copies stand, and what is wrong."""

    host: str
    saves: list[Save]
    receivers: list[Receiver]
    problems: list[str]


class Copy(msgspec.Struct, frozen=True, kw_only=True):
    """A copy that a root file server holds. `received` is seconds since the epoch, by its own clock."""

    host: str
    name: str
    size: int
    sha256: str
    received: float


class Copies(msgspec.Struct, frozen=True, kw_only=True):
    """Copies, the one that was received last first."""

    copies: list[Copy]


class Sequences(msgspec.Struct, frozen=True, kw_only=True):
    """The last number of a publication that this server has accepted, by channel."""

    channels: dict[str, int]


class CopyQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a copy is brought."""

    sha256: Annotated[str, Meta(pattern="^[0-9a-f]{64}$", description="SHA-256 of the whole archive")]
