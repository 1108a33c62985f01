"""The lock: exactly which .debs and wheels every image is made of. `images/images.lock`, committed.

One canonical JSON object, one package a line, sorted by name: a change of one package is a change of one line. There is
one version per package name for all roles. No address of a mirror or an index stands in it: packages have pool-relative
paths and an archive's name, wheels a file name.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path, PurePosixPath

import msgspec

from services.common.errors import InputError

FORMAT = 1
NAME = "images/images.lock"
_HEX = r"^[0-9a-f]{64}$"

Sha256 = msgspec.Meta(pattern=_HEX)


class Pocket(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One signed release file that the resolution read: `date` in seconds since 1970, `sha256` of the InRelease file."""

    archive: str
    suite: str
    components: list[str]
    date: int
    sha256: str


class LockedPackage(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One .deb. `path` is relative to the archive's base, `size` in bytes; `roles` are the trees that hold it."""

    name: str
    version: str
    architecture: str
    size: int
    sha256: str
    path: str
    archive: str
    source: str
    source_version: str
    roles: list[str]

    @property
    def key(self) -> str:
        """`name:architecture`, as dpkg writes it."""
        return f"{self.name}:{self.architecture}"


class LockedWheel(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One wheel file; `sets` are the requirement sets (requirements/<set>.txt) that hold it."""

    name: str
    version: str
    file: str
    sha256: str
    sets: list[str]


class RoleRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a tree asked for when it was resolved: package names as its configuration lists them, sorted."""

    request: list[str]
    parent: str | None = None


class Lock(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The whole lock. `epoch` (seconds) is the newest pocket's date and the SOURCE_DATE_EPOCH of every build."""

    format: int
    epoch: int
    apt: str
    tools_tree: str
    requirements: dict[str, str]
    pockets: list[Pocket]
    roles: dict[str, RoleRequest]
    packages: list[LockedPackage]
    wheels: list[LockedWheel]

    @property
    def date(self) -> str:
        """The lock's date as yyyymmdd (UTC), the first part of every version."""
        return datetime.fromtimestamp(self.epoch, UTC).strftime("%Y%m%d")

    def of(self, role: str) -> list[LockedPackage]:
        """The packages of one tree, sorted by name."""
        return [package for package in self.packages if role in package.roles]

    def wheels_of(self, name: str) -> list[LockedWheel]:
        """The wheels of one requirement set, sorted by name."""
        return [wheel for wheel in self.wheels if name in wheel.sets]


def encode(lock: Lock) -> str:
    """The lock's canonical text."""

    def line(value: object) -> str:
        return msgspec.json.encode(value, order="sorted").decode()

    def rows(values: list[str]) -> str:
        return "[\n" + ",\n".join(f"  {value}" for value in values) + "\n ]" if values else "[]"

    roles = ",\n".join(f"  {line(name)}: {line(role)}" for name, role in sorted(lock.roles.items()))
    packages = sorted(lock.packages, key=lambda package: (package.name, package.architecture))
    wheels = sorted(lock.wheels, key=lambda wheel: wheel.file)
    return (
        "{\n"
        f' "format": {lock.format},\n'
        f' "epoch": {lock.epoch},\n'
        f' "apt": {line(lock.apt)},\n'
        f' "tools_tree": {line(lock.tools_tree)},\n'
        f' "requirements": {line(lock.requirements)},\n'
        f' "pockets": {rows([line(pocket) for pocket in lock.pockets])},\n'
        f' "roles": {{\n{roles}\n }},\n'
        f' "packages": {rows([line(package) for package in packages])},\n'
        f' "wheels": {rows([line(wheel) for wheel in wheels])}\n'
        "}\n"
    )


def decode(data: bytes, *, where: str) -> Lock:
    """Parse a lock. Raises InputError("lock.broken") naming the file, and the line where it can be told."""
    hint = "restore it from git, or resolve again: `build lock`"
    try:
        lock = msgspec.json.decode(data, type=Lock)
    except msgspec.ValidationError as error:
        raise InputError("lock.broken", str(error), where=_locate(where, data, str(error)), hint=hint) from error
    except msgspec.DecodeError as error:
        raise InputError(
            "lock.broken", f"not JSON: {error}", where=_locate(where, data, str(error)), hint=hint
        ) from error
    if lock.format != FORMAT:
        raise InputError("lock.format", f"format {lock.format}, this builder reads {FORMAT}", where=where)
    _validate(lock, where=where, hint=hint)
    return lock


def _locate(where: str, data: bytes, message: str) -> str:
    import re

    if match := re.search(r"byte (\d+)", message):
        return f"{where}:{data[: int(match[1])].count(10) + 1}"
    if match := re.search(r"\$\.(packages|wheels|pockets)\[(\d+)\]", message):
        start = data.find(b'\n "%s": [' % match[1].encode())
        if start >= 0:
            return f"{where}:{data[: start + 1].count(10) + 2 + int(match[2])}"
    return where


def _validate(lock: Lock, *, where: str, hint: str) -> None:
    seen: set[str] = set()
    for package in lock.packages:
        path = PurePosixPath(package.path)
        if package.name in seen:
            raise InputError("lock.duplicate", f"{package.name} is locked twice", where=where, hint=hint)
        seen.add(package.name)
        bad_path = path.is_absolute() or ".." in path.parts or "://" in package.path
        if bad_path or len(package.sha256) != 64 or package.size <= 0:
            raise InputError(
                "lock.broken", f"{package.name}: path, size or sha256 makes no sense", where=where, hint=hint
            )
        for role in package.roles:
            if role not in lock.roles:
                raise InputError("lock.broken", f"{package.name} names role {role!r}", where=where, hint=hint)
    for wheel in lock.wheels:
        if "/" in wheel.file or not wheel.file.endswith(".whl") or len(wheel.sha256) != 64:
            raise InputError("lock.broken", f"{wheel.file}: not a wheel's name or hash", where=where, hint=hint)


def load(path: Path) -> Lock:
    """Read a lock file. Raises InputError("lock.missing") when there is none."""
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise InputError("lock.missing", "there is no lock", where=str(path), hint="run `build lock`") from error
    return decode(data, where=str(path))


def changes(old: Lock | None, new: Lock) -> list[str]:
    """What a new resolution changed, a line a package: `openssl 3.5.7-1~deb13u2 → 3.5.7-1~deb13u3 (security)`."""
    before = {package.name: package for package in old.packages} if old else {}
    after = {package.name: package for package in new.packages}
    lines = []
    for name in sorted(before.keys() | after.keys()):
        was, now = before.get(name), after.get(name)
        if was and now and was.version != now.version:
            pocket = " (security)" if now.archive == "debian-security" else ""
            lines.append(f"{name} {was.version} → {now.version}{pocket}")
        elif now and not was:
            lines.append(f"{name} + {now.version}")
        elif was and not now:
            lines.append(f"{name} - {was.version}")
        elif was and now and was.sha256 != now.sha256:
            lines.append(f"{name} {now.version}: other bytes under the same version")
    wheels_before = {wheel.file for wheel in old.wheels} if old else set()
    wheels_after = {wheel.file for wheel in new.wheels}
    lines += [f"{file} - (wheel)" for file in sorted(wheels_before - wheels_after)]
    lines += [f"{file} + (wheel)" for file in sorted(wheels_after - wheels_before)]
    return lines
