"""What the roots service takes and answers, its settings, and what it keeps on disk."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from services.common.access_settings import AccessSettings
from services.common.statement import Publication
from services.common.tls import TlsSettings


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Settings of section `roots`."""

    folder: Annotated[Path, Meta(description="where versions are held")] = Path("/var/lib/backline/roots")
    host: Annotated[str, Meta(description="name of this host in hall.toml")] = ""
    numbers: Annotated[list[int], Meta(description="which root file servers this host is: N of its aliases `rfsN`")] = (
        msgspec.field(default_factory=list)
    )
    hall: Annotated[str, Meta(description="name of the hall; statements for another one are refused")] = ""
    depot: Annotated[str, Meta(description="where the depot is")] = "unix:/run/backline/depot.sock"
    netboot: Annotated[str, Meta(description="where netboot is")] = "unix:/run/backline/netboot.sock"
    signers: Annotated[Path, Meta(description="whose signatures count")] = Path("/run/backline/allowed_signers")
    keep: Annotated[int, Meta(ge=0, le=100, description="newest versions of a role that `gc` leaves, used or not")] = 2
    reserve_bytes: Annotated[
        int, Meta(ge=0, description="room that stays free on the disk; below it, nothing is pulled")
    ] = 256 * 1024 * 1024
    delta_bytes: Annotated[int, Meta(ge=0, description="largest file that is made from a delta")] = 2**31 - 1
    tls: TlsSettings = TlsSettings()
    access: AccessSettings = AccessSettings()
    grace_seconds: Annotated[int, Meta(ge=0, le=300, description="how long a stop waits for running requests")] = 10


class State(Enum):
    """How it stands with a version on this server."""

    PULLING = "pulling"
    CHECKING = "checking"
    """Being read and compared with its hashes, after a start."""
    HELD = "held"
    DAMAGED = "damaged"
    """On disk, and not what was signed; netboot does not offer it from here."""
    REFUSED = "refused"
    """Published, and not acceptable: signature, hash or sequence."""
    FAILED = "failed"
    """Could not be pulled; it is tried again."""


class Root(msgspec.Struct, frozen=True, kw_only=True):
    """A version on this server. `confirmed`: netboot has been told; `moved` of `total` bytes were transferred."""

    role: str
    version: str
    state: State
    size: int = 0
    moved: int = 0
    total: int = 0
    confirmed: bool = False
    detail: str = ""


class Roots(msgspec.Struct, frozen=True, kw_only=True):
    """This server: its numbers, versions (the newest first), free bytes of its disk, and what keeps it from more."""

    host: str
    numbers: list[int]
    roots: list[Root]
    free: int
    problems: list[str] = []
    holds: list[str] = []
    """Versions that this host's generation document has it hold, as ROLE/VERSION."""


class Holds(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Versions to hold beside what channels and pins want, as ROLE/VERSION. It is the whole list."""

    roots: Annotated[
        list[Annotated[str, Meta(pattern=r"^[a-z][a-z0-9-]{0,31}/[0-9]{8}\.[0-9a-f]{12}$")]], Meta(max_length=64)
    ]


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """`held.json` of a version: the publication that vouches for it, and when it was verified and taken (epoch)."""

    publication: Publication
    taken: float


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """What was accepted last on a channel: its sequence, and by role the publication that is to be held."""

    sequence: int
    wants: dict[str, int] = {}


class Memory(msgspec.Struct, frozen=True, kw_only=True):
    """`state.json`: what was accepted, by channel."""

    channels: dict[str, Seen] = {}
    holds: list[str] = []
    """What `PUT /v1/holds` asked for."""
