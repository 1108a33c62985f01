"""Which versions are wanted, and why: pins, the current one of each role, what is published.

ROOT/pins/<name> holds "role/version", ROOT/current/<role> a version, and ROOT/published/<channel>/<role> anything that
names versions. Promises: each is replaced in one step; one that cannot be read is never taken for "nothing is wanted".
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import msgspec

from builder.aside import Aside, disk_errors, make_folders, sync
from services.common import signing
from services.common.errors import MissingError, nearest
from services.common.versions import Ref, mentions, valid_role, valid_version

EVERY_ROLE = ""


class Roots(msgspec.Struct, frozen=True):
    """Why versions are wanted.

    `reasons` by version; `unreadable` by role: nothing of that role may be deleted (`EVERY_ROLE`: nothing at all).
    """

    reasons: dict[str, list[str]]
    unreadable: dict[str, str]


class Wanted:
    """The pointers of the store at `root`."""

    def __init__(self, root: Path, aside: Aside) -> None:
        self.root = root
        self.aside = aside

    def pin(self, name: str, ref: Ref) -> None:
        """Write a pin; one that is there moves to this version."""
        self._write(self.root / "pins" / signing.check_name(name, what="pin"), str(ref))

    def unpin(self, name: str) -> Ref:
        """Take a pin away, and return what it held. Raises MissingError("store.pin") with near names."""
        pins = self.pins()
        if name not in pins:
            hint = nearest(name, list(pins)) or (f"pins are: {', '.join(pins)}" if pins else "nothing is pinned")
            raise MissingError("store.pin", f"no pin {name}", where=str(self.root), hint=hint)
        with disk_errors(self.root):
            (self.root / "pins" / name).unlink()
            sync(self.root / "pins")
        return pins[name]

    def pins(self) -> dict[str, Ref]:
        """Pins by name, sorted; what is no pin is left out."""
        found = {}
        for path in _files(self.root / "pins"):
            role, _, version = (_text(path) or "").strip().partition("/")
            if valid_role(role) and valid_version(version):
                found[path.name] = Ref(role, version)
        return found

    def set_current(self, ref: Ref) -> None:
        """Write the current version of a role, if it is another."""
        if self.current(ref.role) != ref.version:
            self._write(self.root / "current" / ref.role, ref.version)

    def current(self, role: str) -> str | None:
        """The current version of a role, or None; it may be gone."""
        version = (_text(self.root / "current" / role) or "").strip()
        return version if valid_version(version) else None

    def _write(self, path: Path, text: str) -> None:
        with disk_errors(self.root):
            make_folders(path.parent)
            self.aside.write(path, f"{text}\n".encode())

    def roots(self) -> Roots:
        """Every reason to keep a version. Files whose name begins with a dot are still being written, and left out."""
        reasons: dict[str, list[str]] = {}
        unreadable: dict[str, str] = {}
        found = [(path, EVERY_ROLE, f"pinned as {path.name}") for path in _files(self.root / "pins")]
        found += [(path, path.name, "current") for path in _files(self.root / "current")]
        published = self.root / "published"
        found += [(path, path.name, f"published on {path.parent.name}") for path in _files(published)]
        for path, role, reason in found:
            versions = mentions(_text(path) or "")
            if not versions:
                unreadable[role if valid_role(role) else EVERY_ROLE] = f"{path} names no version"
            for version in versions:
                held = reasons.setdefault(version, [])
                if reason not in held:
                    held.append(reason)
        return Roots(reasons, unreadable)


def _files(folder: Path) -> list[Path]:
    """Every file below a folder, sorted; none when there is no such folder. Raises OSError when it cannot be read."""

    def refuse(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):
            raise error

    found = [
        Path(parent, name)
        for parent, folders, names in os.walk(folder, onerror=refuse)
        for name in names + [name for name in folders if Path(parent, name).is_symlink()]
        if not name.startswith(".")
    ]
    return sorted(found)


def _text(path: Path) -> str | None:
    """A pointer's text, or a symbolic link's target."""
    with contextlib.suppress(OSError, UnicodeDecodeError):
        return str(path.readlink()) if path.is_symlink() else path.read_text()
    return None
