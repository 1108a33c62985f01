"""What single sign-on reads of others, and its settings."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from services.common.access_settings import AccessSettings


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Settings of section `sso`."""

    mdb: Annotated[str, Meta(description="where mdb is")] = "unix:/run/backline/mdb.sock"
    presence: Annotated[str, Meta(description="where presence is")] = "unix:/run/backline/presence.sock"
    memory: Annotated[str, Meta(description="folder that remembers machines and sessions; none when empty")] = (
        "/run/backline-sso"
    )
    overrides: Annotated[
        dict[str, str],
        Meta(description="login by address or host name, where no machine of ours says who is there"),
    ] = msgspec.field(default_factory=dict)
    access: AccessSettings = AccessSettings()
    grace_seconds: Annotated[int, Meta(ge=0, le=300, description="how long a stop waits for running requests")] = 10


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """A machine of mdb's feed, as far as it has an address."""

    id: int
    hostname: str
    ip: str


class Session(msgspec.Struct, frozen=True, kw_only=True):
    """A session of presence's feed."""

    login: str
    machine: int
