"""What a version is called: `<role>/<yyyymmdd>.<12 hex>`, the lock's date and the first digits of the recipe id.

Promises: names are checked strictly before they become paths; what is accepted prints back as it was.
"""

from __future__ import annotations

import re
from datetime import datetime

import msgspec

from services.common.errors import UsageError

_VERSION = re.compile(r"([0-9]{8})\.([0-9a-f]{12})")
_ROLE = re.compile(r"[a-z][a-z0-9-]{0,31}")
_MENTION = re.compile(r"(?<![0-9])[0-9]{8}\.[0-9a-f]{12}(?![0-9a-f])")


class Ref(msgspec.Struct, frozen=True, order=True):
    """One version of one role; both are checked by whoever makes it."""

    role: str
    version: str

    def __str__(self) -> str:
        return f"{self.role}/{self.version}"


def valid_version(text: str) -> bool:
    """Whether `text` is a version: `<yyyymmdd>.<12 hex digits>`, with a day that exists."""
    match = _VERSION.fullmatch(text)
    if match is None:
        return False
    try:
        datetime.strptime(match[1], "%Y%m%d")
    except ValueError:
        return False
    return True


def valid_role(text: str) -> bool:
    """Whether `text` is a role's name: 1 to 32 of a-z, 0-9 and "-", a letter first."""
    return _ROLE.fullmatch(text) is not None


def make_ref(role: str, version: str) -> Ref:
    """The checked name of a version. Raises UsageError("store.name") when these name none."""
    if not valid_role(role):
        raise UsageError("store.name", f"{role!r} is no role", hint="a-z, 0-9 and -, a letter first")
    if not valid_version(version):
        raise UsageError("store.name", f"{version!r} is no version", hint="a version is like 20260131.0123456789ab")
    return Ref(role, version)


def mentions(text: str) -> list[str]:
    """Every version that a text names, in its order."""
    return [found for found in _MENTION.findall(text) if valid_version(found)]


def date_of(version: str) -> str:
    """The lock's date of a version, `yyyymmdd`."""
    return version.partition(".")[0]


def digits_of(version: str) -> str:
    """The recipe's digits of a version, 12 of hex."""
    return version.partition(".")[2]


def human(size: float, *, signed: bool = False) -> str:
    """A size in bytes for people: "13.9 KiB"; with its sign "+13.9 KiB"."""
    sign = "-" if size < 0 else "+" if signed else ""
    value = abs(size)
    unit = "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if value < 1024:
            break
        value, unit = value / 1024, larger
    return f"{sign}{value:.0f} B" if unit == "B" else f"{sign}{value:.1f} {unit}"
