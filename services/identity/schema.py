"""What the identity service takes and answers, and its settings, which `backline hall` renders from hall.toml."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from services.common.tls import TlsSettings

LEFT_OUT_SHOWN = 1000


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Settings of section `identity`."""

    udb: Annotated[str, Meta(description="address of the user database")] = "unix:/run/backline/udb.sock"
    keys: Annotated[
        bool, Meta(description="whether ssh keys of the root group are wanted: that takes udb's private feed")
    ] = False
    ends_sessions: Annotated[bool, Meta(description="whether a user who is no more is logged out")] = False
    message: Annotated[bool, Meta(description="whether udb's message of the day is shown here")] = False
    folder: Annotated[str, Meta(description="where the files are made")] = "/var/lib/backline-identity"
    tls: TlsSettings = TlsSettings()
    grace_seconds: Annotated[int, Meta(ge=0, le=300, description="how long a stop waits for running requests")] = 5

    @property
    def feed(self) -> str:
        """The feed of udb that is followed."""
        return "/v1/feed/private" if self.keys else "/v1/feed"


class LeftOut(msgspec.Struct, frozen=True, kw_only=True):
    """A record, or a key of one, that is not on this machine, and why; `user` is its number in udb."""

    user: str
    login: str
    reason: str


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """What is in force. `applied` is when all that is known was last in force, in seconds since the epoch.

    `generation` is the folder in use, null before the first. `revision` is udb's, null before its first word: what an
    earlier start had made is in force until then.
    """

    state: Literal["applied", "pending"]
    problem: str | None
    applied: float | None
    seconds: float | None
    revision: int | None
    generation: int | None
    users: int
    keys: int
    left_out: list[LeftOut]
    left_out_total: int
