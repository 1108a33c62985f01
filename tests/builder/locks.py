"""Small locks for tests: packages whose hash follows from their bytes."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

from builder.lock import FORMAT, Lock, LockedPackage, LockedWheel, Pocket, RoleRequest

EPOCH = 1_769_817_600
"""2026-01-31, 00:00 UTC."""


def package(
    name: str,
    version: str = "1.0-1",
    *,
    data: bytes | None = None,
    roles: Sequence[str] = ("gw",),
    archive: str = "debian",
) -> LockedPackage:
    """A package of these bytes; some bytes of its own when none are given."""
    data = f"{name} {version}".encode() if data is None else data
    return LockedPackage(
        name=name,
        version=version,
        architecture="amd64",
        size=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        path=f"pool/main/{name[0]}/{name}/{name}_{version}_amd64.deb",
        archive=archive,
        source=name,
        source_version=version,
        roles=list(roles),
    )


def wheel(name: str, version: str = "1.0", *, sets: Sequence[str] = ("image",)) -> LockedWheel:
    """A wheel whose hash follows from its name and version."""
    sha256 = hashlib.sha256(f"{name} {version}".encode()).hexdigest()
    return LockedWheel(
        name=name, version=version, file=f"{name}-{version}-py3-none-any.whl", sha256=sha256, sets=list(sets)
    )


def lock(
    packages: Sequence[LockedPackage] = (),
    wheels: Sequence[LockedWheel] = (),
    *,
    roles: Mapping[str, RoleRequest] | None = None,
    requirements: Mapping[str, str] | None = None,
    epoch: int = EPOCH,
) -> Lock:
    """A lock of these; every role that a package names is in it."""
    named = {role: RoleRequest(request=[]) for one in packages for role in one.roles}
    sets = {name: "0" * 64 for one in wheels for name in one.sets}
    return Lock(
        format=FORMAT,
        epoch=epoch,
        apt="3.0.3",
        tools_tree="f" * 64,
        requirements=dict(sets if requirements is None else requirements),
        pockets=[Pocket("debian", "trixie", ["main"], epoch, "e" * 64)],
        roles=dict(named if roles is None else roles),
        packages=list(packages),
        wheels=list(wheels),
    )
