"""Halls to test with: the proposal of `backline init`, changed text by text."""

from __future__ import annotations

import functools
import os
import re
from pathlib import Path

from services.common import toml
from services.hall import ca, init, load
from services.hall.generations import image_link, inside
from services.hall.render import IMAGE_LINKS
from services.hall.schema import Hall

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFB0G8KSd8wG1C4mKE5l+4WnGnxCXXNhypDtLBYLbq4e"
OTHER_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIO8cjqJUN5feN4a+kYZ++bXFgB8e2dHAKUUImmcRYf6Y"


@functools.cache
def certificate() -> str:
    """A hall's CA certificate."""
    return ca.make("finals", "prolo", passphrase=None)[1].decode()


@functools.cache
def proposal() -> str:
    """The hall.toml that `backline init` proposes."""
    return init.proposal("finals", "prolo", certificate(), ("alice", f"{KEY} alice"), [f"{OTHER_KEY} alice@home"])


def changed(*changes: tuple[str, str]) -> str:
    """The proposal with texts replaced, each of which must occur."""
    text = proposal()
    for old, new in changes:
        assert old in text, old
        text = text.replace(old, new)
    return text


def parse(text: str, path: Path = Path("hall.toml")) -> Hall:
    """A hall from a text, checked."""
    return load.check(toml.TomlDocument(text, path=path, area="hall"))


def hall(*changes: tuple[str, str]) -> Hall:
    """The proposed hall, changed."""
    return parse(changed(*changes))


def line_of(text: str, word: str) -> int:
    """The line (from 1) of the first occurrence of `word`."""
    return text[: text.index(word)].count("\n") + 1


def machine(root: Path, *, text: str | None = None, role: str = "gw") -> dict[str, str]:
    """Lay out a machine of an image below `root`; returns the environment that its service manager gives."""
    for target in IMAGE_LINKS:
        link = inside(root, target)
        link.parent.mkdir(parents=True, exist_ok=True)
        if not link.is_symlink():
            link.symlink_to(image_link(target))
    credentials = root / "credentials"
    credentials.mkdir(exist_ok=True, parents=True)
    (credentials / "backline.role").write_text(role)
    (root / "run").mkdir(exist_ok=True)
    if text is not None:
        (credentials / "backline.hall").write_text(text)
    return {"CREDENTIALS_DIRECTORY": str(credentials)}


def view(root: Path) -> dict[str, str]:
    """What daemons of the machine read: the text (or link target) of every file that is there, by target path."""
    seen: dict[str, str] = {}
    places = [inside(root, target) for target in IMAGE_LINKS]
    for top in ("run/systemd", "run/backline"):
        for folder, folders, names in os.walk(root / top):
            folders[:] = [name for name in folders if Path(folder, name) != root / "run/backline/hall"]
            places += [Path(folder, name) for name in names if not name.endswith(".backline-new")]
    for place in places:
        path = place
        for _ in range(8):  # resolve inside of root, as the machine would
            if not path.is_symlink():
                break
            target = str(path.readlink())
            path = inside(root, target) if re.match("/run/", target) else path.parent / target
            if target.startswith("/usr/share/zoneinfo/"):
                seen[f"/{place.relative_to(root)}"] = target
        if path.is_file() and not str(path).startswith(f"{root}/usr"):
            seen.setdefault(f"/{place.relative_to(root)}", path.read_text())
    return seen
