"""Acting as the owner of a folder: root's right to read everything is not needed to read what belongs to somebody.

An SQLite database that somebody else opened could leave files that its owner cannot open. For a process with one
thread: the effective ids are the process's.
"""

from __future__ import annotations

import contextlib
import os
import pwd
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from services.common.errors import HostError


@dataclass(frozen=True)
class Owner:
    """A user with his group."""

    name: str
    uid: int
    gid: int


def owner_of(folder: Path) -> Owner:
    """Whose a folder is. Raises OSError."""
    info = folder.stat()
    try:
        name = pwd.getpwuid(info.st_uid).pw_name
    except KeyError:
        name = str(info.st_uid)
    return Owner(name, info.st_uid, info.st_gid)


def find_owner(name: str) -> Owner:
    """A user by name. Raises HostError("state.user")."""
    try:
        entry = pwd.getpwnam(name)
    except KeyError as error:
        if name.isdecimal():
            return Owner(name, int(name), int(name))
        hint = "is this the image that the archive is for?"
        raise HostError("state.user", f"there is no user {name} here", hint=hint) from error
    return Owner(name, entry.pw_uid, entry.pw_gid)


@contextlib.contextmanager
def acting_as(owner: Owner) -> Iterator[None]:
    """Be that user for a block; who is not root stays who he is."""
    if os.geteuid() != 0 or owner.uid == 0:
        yield
        return
    groups, gid = os.getgroups(), os.getegid()
    os.setgroups([owner.gid])
    os.setegid(owner.gid)
    os.seteuid(owner.uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(gid)
        os.setgroups(groups)
