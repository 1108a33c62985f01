"""The lock: exactly which .debs and wheels every image is made of. `images/images.lock`, committed.

One canonical JSON object, one package a line, sorted by name: a change of one package is a change of one line. There is
one version per package name for all roles. No address of a mirror or an index stands in it: packages have pool-relative
paths and an archive's name, wheels a file name. What it names becomes paths: each name is checked for its characters.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import msgspec

from services.common.errors import InputError

FORMAT = 1
NAME = "images/images.lock"

Sha256 = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]
Archive = Annotated[str, msgspec.Meta(pattern=r"^debian(-security)?\Z")]
# deb-control(5), Package, Version, Architecture.
PackageName = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9][a-z0-9+.-]+\Z")]
PackageVersion = Annotated[str, msgspec.Meta(pattern=r"^[0-9][A-Za-z0-9.+:~-]*\Z")]
Architecture = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9-]+\Z")]
# Relative, and no part of it begins with a dot.
PoolPath = Annotated[
    str, msgspec.Meta(pattern=r"^(?:[A-Za-z0-9_][A-Za-z0-9_.+~%:-]*/)*[A-Za-z0-9_][A-Za-z0-9_.+~%:-]*\Z")
]
WheelFile = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.+!-]*\.whl\Z")]
Size = Annotated[int, msgspec.Meta(gt=0, lt=1 << 48)]
Seconds = Annotated[int, msgspec.Meta(ge=0, lt=1 << 36)]


class Pocket(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One signed release file that was read: `date` in seconds since 1970, `sha256` of the InRelease file."""

    archive: Archive
    suite: str
    components: list[str]
    date: Seconds
    sha256: Sha256


class LockedPackage(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One .deb. `path` is relative to the archive's base, `size` in bytes; `roles` are the trees that hold it."""

    name: PackageName
    version: PackageVersion
    architecture: Architecture
    size: Size
    sha256: Sha256
    path: PoolPath
    archive: Archive
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
    file: WheelFile
    sha256: Sha256
    sets: list[str]


class RoleRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a tree asked for when it was resolved: package names as its configuration lists them, sorted."""

    request: list[str]
    parent: str | None = None


class Lock(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The whole lock. `epoch` (seconds) is the newest pocket's date and the SOURCE_DATE_EPOCH of every build."""

    format: int
    epoch: Seconds
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
    """Parse a lock. Raises InputError naming file and line: "lock.broken", "lock.format", "lock.duplicate"."""
    try:
        lock = msgspec.json.decode(data, type=Lock)
    except msgspec.ValidationError as error:
        raise _broken(str(error), where=f"{where}:{_line_of(data, str(error))}") from error
    except UnicodeDecodeError as error:
        raise _broken("not JSON: not UTF-8", where=f"{where}:{_line_outside_utf8(data)}") from error
    except (msgspec.DecodeError, RecursionError) as error:
        raise _broken(f"not JSON: {error}", where=f"{where}:{_line_of(data, str(error))}") from error
    if lock.format != FORMAT:
        message = f"format {lock.format}, this builder reads {FORMAT}"
        raise InputError("lock.format", message, where=f"{where}:{_line_of(data, '$.format')}")
    _validate(lock, data, where=where)
    return lock


def _broken(message: str, *, where: str, code: str = "lock.broken") -> InputError:
    return InputError(code, message, where=where, hint="restore it from git, or resolve again: `build lock`")


def _line_of(data: bytes, message: str) -> int:
    """The line of what a message of msgspec's names, as far as the canonical form tells; the file's last one else."""
    if match := re.search(r"byte (\d+)", message):
        return data.count(b"\n", 0, int(match[1])) + 1
    if match := re.search(r"\$\.(\w+)(?:\[(\d+)\])?", message):
        start = data.find(b'\n "%s":' % match[1].encode())
        return data.count(b"\n", 0, start + 1) + 1 + (1 + int(match[2]) if match[2] else 0)
    return max(1, data.rstrip(b"\n").count(b"\n") + 1)


def _line_outside_utf8(data: bytes) -> int:
    try:
        data.decode()
    except UnicodeDecodeError as error:
        return data.count(b"\n", 0, error.start) + 1
    return 1


def _validate(lock: Lock, data: bytes, *, where: str) -> None:
    def at(name: str, index: int) -> str:
        return f"{where}:{_line_of(data, f'$.{name}[{index}]')}"

    seen: set[str] = set()
    for index, package in enumerate(lock.packages):
        if package.name in seen:
            message = f"{package.name} is locked twice"
            raise _broken(message, where=at("packages", index), code="lock.duplicate")
        seen.add(package.name)
        for role in package.roles:
            if role not in lock.roles:
                raise _broken(f"{package.name} names role {role!r}", where=at("packages", index))
    files: set[str] = set()
    for index, wheel in enumerate(lock.wheels):
        if wheel.file in files:
            raise _broken(f"{wheel.file} is locked twice", where=at("wheels", index), code="lock.duplicate")
        files.add(wheel.file)
        for name in wheel.sets:
            if name not in lock.requirements:
                raise _broken(f"{wheel.file} names requirement set {name!r}", where=at("wheels", index))


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
