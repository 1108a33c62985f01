"""Tiny packages and a tiny archive of them, for the host's own dpkg and apt."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from builder.lock import LockedPackage
from services.common.process import run
from tests.builder import locks


def build(folder: Path, name: str, version: str = "1.0-1", *, fields: Mapping[str, str] | None = None) -> Path:
    """Build a package of one file into `folder`, and return its path."""
    tree = folder / f"{name}-{version}.tree"
    (tree / "DEBIAN").mkdir(parents=True)
    (tree / "usr/share" / name).mkdir(parents=True)
    (tree / "usr/share" / name / "version").write_text(version)
    control = {
        "Package": name,
        "Version": version,
        "Architecture": "amd64",
        "Maintainer": "Nobody <nobody@example.org>",
        "Description": "a test",
        **(fields or {}),
    }
    (tree / "DEBIAN/control").write_text("".join(f"{key}: {value}\n" for key, value in control.items()))
    target = folder / f"{name}_{version}_amd64.deb"
    run(["dpkg-deb", "--build", "--root-owner-group", "-Znone", tree, target])
    shutil.rmtree(tree)
    return target


def locked(deb: Path, *, roles: Sequence[str] = ("gw",)) -> LockedPackage:
    """How a lock names this package."""
    name, version, _ = deb.stem.split("_")
    package = locks.package(name, version, data=deb.read_bytes(), roles=roles)
    return msgspec.structs.replace(package, path=f"pool/{deb.name}")


def publish(archive: Path, suites: Mapping[str, Sequence[Path]]) -> str:
    """Make an archive of exactly these packages by suite in `archive`, and return its address."""
    shutil.rmtree(archive, ignore_errors=True)
    (archive / "pool").mkdir(parents=True)
    for suite, debs in suites.items():
        text = ""
        for deb in debs:
            shutil.copyfile(deb, archive / "pool" / deb.name)
            control = run(["dpkg-deb", "--field", deb]).stdout.strip()
            data = deb.read_bytes()
            text += f"{control}\nFilename: pool/{deb.name}\nSize: {len(data)}\n"
            text += f"SHA256: {hashlib.sha256(data).hexdigest()}\n\n"
        index = archive / "dists" / suite / "main/binary-amd64/Packages"
        index.parent.mkdir(parents=True)
        index.write_text(text)
        (archive / "dists" / suite / "Release").write_text(
            f"Origin: Test\nLabel: Test\nSuite: {suite}\nCodename: {suite}\nArchitectures: amd64\nComponents: main\n"
            "Date: Sat, 31 Jan 2026 00:00:00 UTC\nSHA256:\n"
            f" {hashlib.sha256(text.encode()).hexdigest()} {len(text.encode())} main/binary-amd64/Packages\n"
        )
    return f"file://{archive}/"
