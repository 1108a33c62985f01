"""The pool: every .deb and wheel that was ever locked, by hash, and the local repositories made of it.

A file is in the pool only under the SHA-256 that it has; it is checked when it is written. The pool is kept (old locks
stay buildable for as long as it is), and never needed: what is missing is fetched again.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import quote

from builder.lock import LockedPackage
from services.common.errors import IntegrityError, MissingError
from services.common.process import run


class Pool:
    """Files by SHA-256 below one folder; partial downloads end in `.part` and are resumed."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def path(self, sha256: str, suffix: str = ".deb") -> Path:
        """Where the file with this hash is, or would be."""
        return self.root / "sha256" / sha256[:2] / f"{sha256}{suffix}"

    def missing(self, packages: Iterable[LockedPackage]) -> list[LockedPackage]:
        """The packages whose file is not here with the locked size."""
        return [package for package in packages if not self._has(package)]

    def _has(self, package: LockedPackage) -> bool:
        try:
            return self.path(package.sha256).stat().st_size == package.size
        except FileNotFoundError:
            return False

    def adopt(self, partial: Path, *, sha256: str, size: int | None, name: str, suffix: str = ".deb") -> Path:
        """Check a downloaded file and move it into the pool.

        Raises IntegrityError("pool.size" | "pool.hash") and deletes the file when it is not what was locked.
        """
        found = partial.stat().st_size
        if size is not None and found != size:
            partial.unlink()
            raise IntegrityError(
                "pool.size", f"{name}: {found} bytes, the lock says {size}", hint="the mirror serves another file"
            )
        with partial.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            os.fsync(file.fileno())
        if digest != sha256:
            partial.unlink()
            raise IntegrityError(
                "pool.hash",
                f"{name}: sha256 is {digest}, the lock says {sha256}",
                hint="the mirror serves other bytes under this name; try another mirror, or `build lock --update`",
            )
        target = self.path(sha256, suffix)
        target.parent.mkdir(parents=True, exist_ok=True)
        partial.chmod(0o644)
        partial.rename(target)
        return target

    def control(self, package: LockedPackage) -> str:
        """The control stanza of a package in the pool, kept beside it once read (dpkg-deb(1) --field)."""
        kept = self.path(package.sha256, ".control")
        with contextlib.suppress(FileNotFoundError):
            return kept.read_text()
        text = run(["dpkg-deb", "--field", self.path(package.sha256)]).stdout.strip() + "\n"
        aside = kept.with_suffix(f".control.{os.getpid()}")
        aside.write_text(text)
        aside.rename(kept)
        return text

    def verify(self, packages: Iterable[LockedPackage]) -> None:
        """Hash every file again.

        Raises IntegrityError("pool.hash") on rot, after deleting the bad file, and MissingError("pool.missing").
        """
        for package in packages:
            path = self.path(package.sha256)
            try:
                with path.open("rb") as file:
                    digest = hashlib.file_digest(file, "sha256").hexdigest()
            except FileNotFoundError as error:
                raise MissingError(
                    "pool.missing", f"{package.name} is not in the pool", hint="run `build fetch`"
                ) from error
            if digest != package.sha256:
                path.unlink()
                raise IntegrityError(
                    "pool.hash", f"{package.name}: the file in the pool has rotted", hint="run the build again"
                )


def file_name(package: LockedPackage) -> str:
    """The name that apt itself gives to a downloaded package (epoch's colon escaped)."""
    return f"{package.name}_{quote(package.version, safe='+~.-')}_{package.architecture}.deb"


def stanza(pool: Pool, package: LockedPackage) -> str:
    """One stanza of a Packages index: control fields of the package, and where its file is."""
    return (
        f"{pool.control(package)}Filename: pool/{file_name(package)}\n"
        f"Size: {package.size}\nSHA256: {package.sha256}\n\n"
    )


def make_repository(pool: Pool, packages: list[LockedPackage], folder: Path, *, suite: str, epoch: int) -> None:
    """Make an apt repository of exactly `packages` in the empty `folder`; files are hard links into the pool.

    Raises MissingError("pool.missing") when a package was not fetched.
    """
    absent = pool.missing(packages)
    if absent:
        raise MissingError(
            "pool.missing",
            f"{len(absent)} locked packages are not in the pool, {absent[0].name} first",
            hint="run `build fetch`",
        )
    index = folder / "dists" / suite / "main/binary-amd64"
    index.mkdir(parents=True)
    (folder / "pool").mkdir()
    for package in packages:
        source, target = pool.path(package.sha256), folder / "pool" / file_name(package)
        try:
            target.hardlink_to(source)
        except OSError:  # another file system
            target.write_bytes(source.read_bytes())
    data = "".join(stanza(pool, package) for package in packages).encode()
    (index / "Packages").write_bytes(data)
    from email.utils import formatdate

    (folder / "dists" / suite / "Release").write_text(
        f"Origin: Backline\nLabel: Backline\nSuite: {suite}\nCodename: {suite}\nArchitectures: amd64\n"
        f"Components: main\nDate: {formatdate(epoch, usegmt=True).replace('GMT', 'UTC')}\n"
        f"SHA256:\n {hashlib.sha256(data).hexdigest()} {len(data)} main/binary-amd64/Packages\n"
    )
