"""Which image this system runs: its role and version, or unconfigured.

Nothing in a tree says so, because a version is its content. Who starts an image tells it: systemd credentials
`backline.role` and `backline.version` (containers and iron, passed on to units with ImportCredential=backline.*), or
the kernel command line `backline.role=` and `backline.version=` (seats). A credential wins. In a container the kernel
command line is the host's, so it is not read there.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

import msgspec

PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+~-]{0,127}")


class ImageIdentity(msgspec.Struct, frozen=True):
    """The role and version of the running image; null where nobody said."""

    role: str | None = None
    version: str | None = None

    @property
    def configured(self) -> bool:
        return self.role is not None and self.version is not None


class Version(msgspec.Struct, frozen=True):
    """What runs: the service, its distribution's version, and the image around it."""

    service: str
    version: str
    role: str | None
    image: str | None


def read_identity(environ: Mapping[str, str] | None = None, *, root: Path = Path("/")) -> ImageIdentity:
    """The identity of the system under `root`. What is malformed counts as unknown; nothing is raised."""
    environ = os.environ if environ is None else environ
    folder = environ.get("CREDENTIALS_DIRECTORY")
    words = {} if (root / "run/systemd/container").exists() else command_line(_text(root / "proc/cmdline"))

    def find(name: str) -> str | None:
        credential = _text(Path(folder) / f"backline.{name}").strip() if folder else ""
        value = credential or words.get(f"backline.{name}", "")
        return value if PATTERN.fullmatch(value) else None

    return ImageIdentity(role=find("role"), version=find("version"))


def command_line(text: str) -> dict[str, str]:
    """The `key=value` words of a kernel command line; the last of a key wins, as in the kernel."""
    words: dict[str, str] = {}
    for quoted, word in re.findall(r'("[^"]*"?)|((?:[^\s"]|"[^"]*"?)+)', text):
        key, mark, value = (quoted or word).replace('"', "").partition("=")
        if mark:
            words[key] = value
    return words


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
