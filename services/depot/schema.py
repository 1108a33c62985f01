"""What the depot takes and answers, and its settings. Times are seconds since 1970, sizes are bytes.

Files of a version are static: /files/images/ROLE/VERSION/NAME, and /files/deltas/ROLE/VERSION/FROM/NAME.zst with
NAME.json (`Delta`) beside it, which is there when the delta is.
"""

from __future__ import annotations

from enum import Enum
from typing import Annotated

import msgspec
from msgspec import Meta

from services.common.access_settings import AccessSettings

SERVED = ("root.erofs", "root.verity", "vmlinuz", "initrd")
"""What is served of a version's artefacts, where it has them: what a machine boots and runs from."""
LARGEST = 2**62
"""Ids and sizes end well before it."""
LARGEST_DELTA = 2**31 - 1
"""Bytes of the largest file that a delta can give (`services.common.patching`)."""
PIECE_BYTES = 64 * 1024 * 1024
"""The most that one request brings of a file."""


def about(text: str) -> Meta:
    """What a field is, for OpenAPI and docs/publishing.md."""
    return Meta(description=text)


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Settings of section `depot`."""

    folder: Annotated[str, Meta(description="where versions, deltas and uploads lie")] = "/var/lib/backline-depot"
    database: Annotated[str, Meta(description="URL of the database: sqlite:////path or postgresql://host/name")] = (
        "sqlite:////var/lib/backline-depot/depot.db"
    )
    netboot: Annotated[str, Meta(description="where netboot is, which is told of published versions")] = (
        "unix:/run/backline/netboot.sock"
    )
    signers: Annotated[str, Meta(description="whose signatures count: an allowed_signers file")] = (
        "/run/backline/allowed_signers"
    )
    hall: Annotated[str, Meta(description="name of the hall: statements for another one are refused")] = ""
    receivers: Annotated[list[str], Meta(description="names of the hosts that hold versions")] = msgspec.field(
        default_factory=list
    )
    deltas: Annotated[
        int, Meta(ge=0, le=20, description="how many older versions of a role get a delta to a new one")
    ] = 3
    delta_bytes: Annotated[int, Meta(ge=0, le=LARGEST_DELTA, description="largest file that gets a delta")] = (
        LARGEST_DELTA
    )
    keep: Annotated[
        int, Meta(ge=0, le=100, description="newest versions of a role that `gc` leaves: deltas are made from them")
    ] = 4
    room_bytes: Annotated[
        int, Meta(ge=0, description="free room on the disk below which versions that nobody needs are deleted")
    ] = 2 * 1024**3
    upload_days: Annotated[
        int, Meta(ge=1, le=365, description="how long an upload that was cut off may be resumed")
    ] = 7
    writer_groups: Annotated[
        list[str], Meta(description="groups whose members may publish over the unix socket, besides root")
    ] = msgspec.field(default_factory=list)
    access: AccessSettings = AccessSettings()
    grace_seconds: Annotated[int, Meta(ge=0, le=300, description="how long a stop waits for running requests")] = 10


class Strict(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What comes in: an unknown field is a mistake."""


class NewUpload(Strict, frozen=True, kw_only=True):
    """A version that somebody wants to bring."""

    role: str
    version: str
    manifest: Annotated[str, Meta(max_length=8 * 1024 * 1024), about("manifest.json, byte by byte.")]
    signatures: Annotated[list[str], Meta(max_length=16), about("Signatures over it, armoured.")]


class Upload(msgspec.Struct, frozen=True, kw_only=True):
    """What is still to be brought. `missing`: bytes that are here already, of each file that is not whole."""

    role: str
    version: str
    complete: bool
    missing: dict[str, int]


class Received(msgspec.Struct, frozen=True, kw_only=True):
    """How much of a file is here."""

    name: str
    bytes: int


class PieceQuery(Strict, frozen=True, kw_only=True):
    """Where a piece of a file begins."""

    offset: Annotated[int, Meta(ge=0)] = 0


class Delta(msgspec.Struct, frozen=True, kw_only=True):
    """How to make a file of a version from the same file of another one: `zstd -d --long=31 --patch-from=OLD`.

    `bytes` of the delta is null where it would not be worth it, and there is no NAME.zst then.
    """

    role: str
    version: str
    from_version: str
    name: str
    bytes: int | None
    sha256: str | None
    """Of the delta itself."""
    result_bytes: int
    result_sha256: str
    from_sha256: str
    """Of the file that it is made against."""


class Version(msgspec.Struct, frozen=True, kw_only=True):
    """A version that is here as a whole. `pending`: deltas that are still to be made."""

    role: str
    version: str
    manifest_sha256: str
    root_hash: str
    bytes: int
    files: dict[str, int]
    added: float
    deltas: list[Delta]
    pending: int


class Versions(msgspec.Struct, frozen=True, kw_only=True):
    """Every version, by role, the newest arrival first."""

    versions: list[Version]


class WaitQuery(Strict, frozen=True, kw_only=True):
    """Wait for what is under way."""

    wait: Annotated[int, Meta(ge=0, le=50), about("Answer when nothing is pending, or after so many seconds.")] = 0


class Channel(msgspec.Struct, frozen=True, kw_only=True):
    """What was published on a channel. `versions`: the last version by role; `version` that of the last publication.

    `hall` is what a statement has to name.
    """

    hall: str
    channel: str
    last_sequence: int
    next_sequence: int
    version: str | None
    versions: dict[str, str]


class NewPublication(Strict, frozen=True, kw_only=True):
    """A signed statement, and for whom."""

    statement: Annotated[str, Meta(max_length=16384), about("The exact bytes that were signed.")]
    signatures: Annotated[list[str], Meta(min_length=1, max_length=16), about("Armoured.")]
    to: Annotated[list[str], Meta(max_length=1000), about("Host names; every receiver of the hall when empty.")] = []


class State(Enum):
    """How far a receiver is."""

    PULLING = "pulling"
    VERIFYING = "verifying"
    STAGING = "staging"
    CONFIRMED = "confirmed"
    FAILED = "failed"

    @property
    def final(self) -> bool:
        """Whether nothing follows by itself."""
        return self in (State.CONFIRMED, State.FAILED)


class NewProgress(Strict, frozen=True, kw_only=True):
    """How far a receiver is: `bytes` received of the `total` that it needs, where all files together are `full`."""

    bytes: Annotated[int, Meta(ge=0, le=2**62)]
    total: Annotated[int, Meta(ge=0, le=2**62)]
    full: Annotated[int, Meta(ge=0, le=2**62)]
    state: State
    detail: Annotated[str, Meta(max_length=500)] = ""


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """How far a receiver said it is, and when."""

    host: str
    bytes: int
    total: int
    full: int
    state: State
    detail: str
    at: float


class Publication(msgspec.Struct, frozen=True, kw_only=True):
    """A publication, by whom it was signed, and how far its receivers are.

    `receivers` are the hosts that it is for; `revision` grows with each word of theirs.
    """

    id: int
    statement: str
    signatures: list[str]
    to: list[str]
    signed_by: list[str]
    published_by: str
    at: float
    receivers: list[str]
    progress: list[Progress]
    revision: int


class Publications(msgspec.Struct, frozen=True, kw_only=True):
    """Publications, the newest first."""

    publications: list[Publication]


class PublicationsQuery(Strict, frozen=True, kw_only=True):
    """Which publications."""

    channel: Annotated[
        Annotated[str, Meta(max_length=63, pattern=r"^[a-z0-9-]+$")] | None, about("Of one channel.")
    ] = None
    since: Annotated[int, Meta(ge=0, le=LARGEST), about("Only those with a greater id.")] = 0
    limit: Annotated[int, Meta(ge=1, le=1000), about("At most so many.")] = 100


class ChangedQuery(Strict, frozen=True, kw_only=True):
    """Wait for news of the receivers."""

    revision: Annotated[int | None, about("Answer when it is another one, or after `wait` seconds.")] = None
    wait: Annotated[int, Meta(ge=0, le=50), about("At most so many seconds.")] = 0
