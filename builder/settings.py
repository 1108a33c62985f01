"""The builder's settings: where it keeps things, and where packages come from.

Every field can be set by the environment (BACKLINE_BUILD_<FIELD>); nothing here changes what an image contains.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import msgspec

from services.common.errors import InputError, nearest

SCHEMES = ("http://", "https://", "file:///")


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Folders and mirrors. An empty string means "not set"."""

    store: str = "/var/lib/backline/store"
    """Folder of finished versions."""
    cache: str = "/var/cache/backline"
    """Folder of what can be made again: pool, layers, tools tree."""
    mirror: str = ""
    """Base address of the Debian archive; the host's apt configuration when empty."""
    security_mirror: str = ""
    """Base address of the security archive; the host's apt configuration when empty."""
    snapshot: str = ""
    """Address with {archive} and {stamp} (as 20260102T030405Z) that is tried for packages that left the mirror."""
    signing_key: str = ""
    """Private key, or public key of an agent's, that signs versions; the administrator's default key when empty."""
    lock: str = ""
    """Lock file to build from; the committed images/images.lock when empty."""

    @property
    def store_path(self) -> Path:
        """`store` as a path."""
        return Path(self.store)

    @property
    def cache_path(self) -> Path:
        """`cache` as a path."""
        return Path(self.cache)


def load(given: Mapping[str, str] | None = None) -> Settings:
    """The settings in force: `given` (options of a command), then the environment, then the defaults.

    Raises InputError for a variable that is none of ours, a folder that is not an absolute path, and a mirror that is
    no address.
    """
    known = {f"BACKLINE_BUILD_{field.upper()}": field for field in Settings.__struct_fields__}
    values = {}
    for name, value in os.environ.items():
        if name in known:
            values[known[name]] = value
        elif name.startswith("BACKLINE_BUILD_"):
            raise InputError("settings.unknown", f"no setting {name}", hint=nearest(name, sorted(known)))
    settings = Settings(**(values | dict(given or {})))
    for field in ("store", "cache"):
        if not getattr(settings, field).startswith("/"):
            raise InputError("settings.path", f"BACKLINE_BUILD_{field.upper()} must be an absolute path")
    for field in ("mirror", "security_mirror", "snapshot"):
        address = getattr(settings, field)
        if address and not address.startswith(SCHEMES):
            raise InputError(
                "settings.address",
                f"{address!r} is no address of a mirror",
                where=f"BACKLINE_BUILD_{field.upper()}",
                hint=f"it begins with {', '.join(SCHEMES)}",
            )
    return settings


def source_root() -> Path:
    """The checkout that holds images/, services/ and units/. Raises InputError outside of one."""
    root = Path(__file__).resolve().parent.parent
    if not (root / "images").is_dir():
        raise InputError("source.missing", "images/ is not beside the builder", hint="run `build` from a checkout")
    return root
