"""From udb's records to passwd, group and shadow, and the ssh keys of root. Pure: no files, no clock, no network.

Promises: what the machine has by itself, names and ids, is never in here; a record that is no good is left out and
named, and costs nobody else anything; the same records give the same bytes. No password is in here, of anybody: shadow
says that there is none, and `backline seat login` asks presence.

Formats: passwd(5), group(5), shadow(5), sshd(8) AUTHORIZED_KEYS FILE FORMAT. A group that the image has, as sudo, is
here once more, with our members alone: libnss-extrausers adds them (its changelog, 0.6-5).
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from services.common.users import (
    HOMES,
    OWN_GROUPS,
    UNIX_GROUPS,
    UnixGroup,
    UserGroup,
    login_problem,
    uid_problem,
    unix_name_problem,
)
from services.identity.schema import LeftOut

PASSWD, GROUP, SHADOW, ROOT_KEYS = "passwd", "group", "shadow", "root_keys"
FILES = (PASSWD, GROUP, SHADOW, ROOT_KEYS)
_SHELL = re.compile(r"/[A-Za-z0-9_+./-]{1,127}")
_GROUPS = {group for groups in UNIX_GROUPS.values() for group in groups}
_KEY_TYPES = frozenset(
    {
        "ssh-ed25519",
        "ssh-rsa",
        "ecdsa-sha2-nistp256",
        "ecdsa-sha2-nistp384",
        "ecdsa-sha2-nistp521",
        "sk-ssh-ed25519@openssh.com",
        "sk-ecdsa-sha2-nistp256@openssh.com",
    }
)


class User(msgspec.Struct, frozen=True, kw_only=True):
    """What of a record of udb's feed counts here; more may be in it."""

    id: int
    login: str
    firstname: str = ""
    lastname: str = ""
    uid: int
    group: UserGroup
    shell: str = "/bin/bash"
    keys: list[str] = []


@dataclass(frozen=True)
class Own:
    """What a machine has by itself: names and numbers of its image's users, and names of its groups."""

    names: frozenset[str] = frozenset()
    uids: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Accounts:
    """Files by name, who is in them (uid by login), and what is not."""

    files: Mapping[str, str]
    uids: Mapping[str, int]
    keys: int
    left_out: tuple[LeftOut, ...]


def own_of(passwd: str, group: str) -> Own:
    """What the image's own /etc/passwd and /etc/group have."""
    users = [line.split(":") for line in passwd.splitlines() if line.count(":") == 6]
    groups = [line.split(":")[0] for line in group.splitlines() if line.count(":") == 3]
    names = frozenset([*(each[0] for each in users), *groups])
    return Own(names, frozenset(int(each[2]) for each in users if each[2].isdecimal()))


def accounts(records: Iterable[tuple[str, Mapping[str, Any]]], own: Own) -> Accounts:
    """The files for udb's records, each with its key."""
    left_out: list[LeftOut] = []
    taken: dict[str, User] = {}
    uids: dict[int, str] = {}
    for key, record in sorted(records, key=lambda each: _number(each[0])):
        found = _user(key, record)
        reason = found if isinstance(found, str) else _clash(found, own, taken, uids)
        if isinstance(found, str) or reason is not None:
            left_out.append(LeftOut(user=key, login=str(record.get("login", ""))[:64], reason=reason or ""))
            continue
        taken[found.login] = found
        uids[found.uid] = found.login
    users = [taken[login] for _, login in sorted(uids.items())]
    keys = []
    for user in users:
        if user.group is UserGroup.ROOT:
            for line in user.keys:
                good = _key(line)
                if good is None:
                    reason = f"its ssh key {line[:40]!r} is none"
                    left_out.append(LeftOut(user=str(user.id), login=user.login, reason=reason))
                else:
                    keys.append(f"{good} {user.login}")
    files = {
        PASSWD: "".join(_passwd(user) for user in users),
        GROUP: "".join(_group(group, users) for group in sorted(_GROUPS, key=lambda each: each.gid)),
        SHADOW: "".join(f"{user.login}:*:::::::\n" for user in users),
        ROOT_KEYS: "".join(f"{line}\n" for line in keys),
    }
    return Accounts(files, {user.login: user.uid for user in users}, len(keys), tuple(left_out))


def _number(key: str) -> tuple[int, str]:
    return (int(key), key) if key.isdecimal() else (1 << 62, key)


def _user(key: str, record: Mapping[str, Any]) -> User | str:
    """The user of a record, or why there is none."""
    try:
        user = msgspec.convert(record, User)
    except msgspec.ValidationError as error:
        return f"the record is broken: {error}"
    if str(user.id) != key:
        return f"the record says that it is number {user.id}"
    problem = login_problem(user.login) or uid_problem(user.uid, user.group)
    for name in (user.firstname, user.lastname):
        problem = problem or unix_name_problem(name)
    if problem is not None:
        return problem
    if not _SHELL.fullmatch(user.shell):
        return f"{user.shell[:64]!r} is no shell"
    if len(user.firstname) + len(user.lastname) > 256:
        return "the name is too long"
    return user


def _clash(user: User, own: Own, taken: Mapping[str, User], uids: Mapping[int, str]) -> str | None:
    if user.login in own.names or user.login in {group.name for group in OWN_GROUPS}:
        return "the login is a user or group of the system"
    if user.uid in own.uids:
        return f"uid {user.uid} is of a user of the system"
    if user.login in taken:
        return f"user {taken[user.login].id} has this login"
    if user.uid in uids:
        return f"{uids[user.uid]} has uid {user.uid}"
    return None


def _passwd(user: User) -> str:
    name = f"{user.firstname} {user.lastname}".strip()
    gid = UNIX_GROUPS[user.group][0].gid
    return f"{user.login}:x:{user.uid}:{gid}:{name}:{HOMES}/{user.login}:{user.shell}\n"


def _group(group: UnixGroup, users: Iterable[User]) -> str:
    members = ",".join(user.login for user in users if group in UNIX_GROUPS[user.group])
    return f"{group.name}:x:{group.gid}:{members}\n"


def _key(line: str) -> str | None:
    """Type and key of a public key's line, without options and comment; None for what is none (RFC 4253, 6.6)."""
    words = line.split()
    if len(words) < 2 or words[0] not in _KEY_TYPES or "\n" in line.strip():
        return None
    try:
        blob = base64.b64decode(words[1], validate=True)
    except (binascii.Error, ValueError):
        return None
    name = words[0].encode()
    return f"{words[0]} {words[1]}" if blob[: 4 + len(name)] == len(name).to_bytes(4, "big") + name else None
