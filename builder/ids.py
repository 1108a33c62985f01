"""Static ids: one committed table, images/ids.toml, of every system user that a package or a service makes.

Package scripts take the next free id, so the same user would get another id in another role, or after an update. Here
each has its id before the first package is installed, and an id that came out of nowhere fails the build, by name.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path

import msgspec

from services.common import toml
from services.common.errors import BacklineError, InputError

NAME = "images/ids.toml"
_FILES = ("passwd", "group")
# Ids that Debian itself hands out statically (base-passwd) end here; dynamic system ids are 100-999.
_NOLOGIN = "/usr/sbin/nologin"


class Id(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One user and its group, or a group alone (`uid` None). `needs` are the packages or services that bring it."""

    name: str
    gid: int | None = None
    uid: int | None = None
    group: str | None = None
    """Primary group where it is not one of the same name."""
    home: str = "/nonexistent"
    shell: str = _NOLOGIN
    gecos: str = ""
    members: list[str] = []
    needs: list[str]


class Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """images/ids.toml."""

    id: list[Id]


def load(root: Path) -> list[Id]:
    """The table, sorted by name. Raises InputError with file and line for a mistake, or a name or id given twice."""
    document = toml.load(root / NAME, area="ids")
    table = toml.decode(document, Table)
    uids: dict[int, str] = {}
    gids: dict[int, str] = {}
    names: set[str] = set()
    for index, entry in enumerate(table.id):
        if entry.name in names:
            raise document.error(("id", index, "name"), f"{entry.name} is in the table twice")
        names.add(entry.name)
        if entry.gid is None and (entry.uid is None or entry.group is None):
            raise document.error(("id", index), f"{entry.name} has no gid, and no group of another name")
        for number, taken in ((entry.uid, uids), (entry.gid, gids)):
            if number is None:
                continue
            if number in taken:
                line = document.line(("id", index))
                raise InputError(
                    "ids.twice", f"{entry.name} and {taken[number]} have the same id {number}", where=f"{NAME}:{line}"
                )
            taken[number] = entry.name
    return sorted(table.id, key=lambda entry: entry.name)


def select(table: list[Id], present: Collection[str]) -> list[Id]:
    """The entries whose package or service is `present`."""
    return [entry for entry in table if any(need in present for need in entry.needs)]


def render(entries: list[Id], masters: dict[str, str]) -> dict[str, str]:
    """/etc/passwd and /etc/group: Debian's own masters (base-passwd), then `entries`.

    Raises InputError("ids.group") for a primary group that is nowhere.
    """
    groups = {line.split(":")[0]: line.split(":")[2] for line in masters["group"].splitlines()}
    groups |= {entry.name: str(entry.gid) for entry in entries if entry.gid is not None}
    for entry in entries:
        if entry.uid is not None and (entry.group or entry.name) not in groups:
            raise InputError("ids.group", f"{entry.name}: there is no group {entry.group}", where=NAME)
    passwd, group = masters["passwd"].rstrip("\n") + "\n", masters["group"].rstrip("\n") + "\n"
    for entry in entries:
        if entry.uid is not None:
            primary = groups[entry.group or entry.name]
            passwd += f"{entry.name}:x:{entry.uid}:{primary}:{entry.gecos}:{entry.home}:{entry.shell}\n"
        if entry.gid is not None:
            group += f"{entry.name}:x:{entry.gid}:{','.join(entry.members)}\n"
    return {"passwd": passwd, "group": group}


def check(tree: Path, entries: list[Id], masters: dict[str, str]) -> None:
    """Raises BacklineError("ids.dynamic") naming every id of the tree that the table does not give, and its package."""
    expected = {name: _pairs(text) for name, text in render(entries, masters).items()}
    problems = []
    for name in _FILES:
        for account, number in sorted(_pairs((tree / "etc" / name).read_text()).items()):
            if expected[name].get(account) != number:
                kind = "user" if name == "passwd" else "group"
                was = expected[name].get(account)
                detail = f"should be {was}" if was else "is not in the table"
                problems.append(f"{kind} {account} ({number}) {detail}, made by {_owner(tree, account)}")
    if problems:
        raise BacklineError(
            "ids.dynamic",
            "the image has ids that change from build to build:\n  " + "\n  ".join(problems),
            hint=f"add them to {NAME}",
        )


def _pairs(text: str) -> dict[str, str]:
    return {parts[0]: parts[2] for line in text.splitlines() if len(parts := line.split(":")) > 2}


def _owner(tree: Path, account: str) -> str:
    """The package whose maintainer script or sysusers.d file names `account`."""
    word = re.compile(rf"(?<![\w-]){re.escape(account)}(?![\w-])")
    for path in sorted((tree / "var/lib/dpkg/info").glob("*inst")):
        if word.search(path.read_text(errors="replace")):
            return f"package {path.name.rpartition('.')[0].partition(':')[0]}"
    for path in sorted((tree / "usr/lib/sysusers.d").glob("*.conf")):
        if word.search(path.read_text(errors="replace")):
            return f"usr/lib/sysusers.d/{path.name}"
    return "an unknown package"
