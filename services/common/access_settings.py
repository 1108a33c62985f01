"""The settings of `services.common.access`, by themselves: a service's settings hold them as table `access`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from services.common.administrators import FILE


class AccessSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Table `access` of a service's settings."""

    proxy_users: Annotated[
        list[str], Meta(description="users whose word on callers counts: the one that nginx runs as")
    ] = msgspec.field(default_factory=lambda: ["www-data"])
    administrators: Annotated[Path, Meta(description="who may log in, with which role and keys")] = FILE
    session_seconds: Annotated[int, Meta(ge=60, le=7 * 86400, description="how long a session lasts")] = 4 * 3600
