"""Users of a hall: their groups, the ids that each group may have, and what a login may be. Pure.

A login becomes a line of passwd on every machine, so it is the strictest of what Debian's programs take (adduser(8),
systemd's "strict" names in systemd.io/USER_NAMES), and never the name of a user or group that an image has or may get.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

LOGIN_MAX = 31
LOGIN = r"^[a-z][a-z0-9_-]{0,30}$"
SHELLS = ("/bin/bash", "/bin/dash", "/bin/sh", "/usr/sbin/nologin")
"""Login shells that every image has; the last one lets nobody in."""
HOMES = "/home"


class UserGroup(Enum):
    """What somebody is in a hall. Each group has its pool of uids; who is root has all machines."""

    USER = "user"
    ORGA = "orga"
    ROOT = "root"


@dataclass(frozen=True)
class UnixGroup:
    """A group as machines have it."""

    name: str
    gid: int


_USER = UnixGroup("user", 10_000)
_ORGA = UnixGroup("orga", 10_001)
_SUDO = UnixGroup("sudo", 27)  # of Debian's base-passwd, in every image

OWN_GROUPS = (_USER, _ORGA)
"""Groups that no image has: whoever puts users onto a machine brings them."""

UNIX_GROUPS: Mapping[UserGroup, tuple[UnixGroup, ...]] = {
    UserGroup.USER: (_USER,),
    UserGroup.ORGA: (_ORGA, _USER),
    UserGroup.ROOT: (_SUDO, _ORGA, _USER),
}
"""The groups on a machine of whoever is in a group of the hall; the first one is the primary group."""


@dataclass(frozen=True)
class UidPool:
    """The uids of a group, both ends included."""

    first: int
    last: int

    def __contains__(self, uid: object) -> bool:
        return isinstance(uid, int) and self.first <= uid <= self.last

    def __len__(self) -> int:
        return self.last - self.first + 1

    def __str__(self) -> str:
        return f"{self.first}-{self.last}"


UID_POOLS: Mapping[UserGroup, UidPool] = {
    UserGroup.USER: UidPool(10_000, 10_999),
    UserGroup.ORGA: UidPool(11_000, 11_999),
    UserGroup.ROOT: UidPool(12_000, 12_999),
}

# Users and groups of Debian's base-passwd, of packages that images have (images/ids.toml) or are likely to get, and
# addresses that mail or people take for somebody else.
_RESERVED_WORDS = """
    adm audio avahi backup bin bind cdrom chrony clock colord crontab daemon dhcpcd dialout dip disk dnsmasq docker fax
    floppy ftp games geoclue gnats grafana halt input irc kea kmem kvm lightdm list lp lxd mail man messagebus mysql
    netdev news nginx nobody nogroup ntp operator plugdev polkitd postfix postgres prometheus proxy pulse rdma redis
    render root rpc rtkit saned sasl sgx shadow shutdown src ssh sshd ssl-cert staff statd sudo sync sys systemd tape
    tcpdump tftp tss tty users utmp uucp uuidd video voice wheel www-data

    abuse admin administrator anonymous everyone guest hostmaster localhost me nil none null orga postmaster security
    self toor user webmaster
"""
_RESERVED = frozenset(_RESERVED_WORDS.split())
_RESERVED_STARTS = ("backline-", "systemd-")
_LOGIN = re.compile(LOGIN)


def login_problem(login: str) -> str | None:
    """Why `login` cannot be a user's, in words for people, or None."""
    if login in _RESERVED or login.startswith(_RESERVED_STARTS):
        return f"{login!r} is the name of a system user or group, or is mistaken for one"
    if _LOGIN.fullmatch(login):
        return None
    if not login:
        return "a login is not empty"
    if len(login) > LOGIN_MAX:
        return f"{login!r} has {len(login)} letters; a login has {LOGIN_MAX} at most"
    if login != login.lower():
        return f"{login!r} has capital letters; write it in lower case"
    if not login[0].isascii() or not login[0].isalpha():
        return f"{login!r} does not begin with a letter from a to z"
    return f"{login!r} is not a login: letters from a to z, digits, hyphens and underscores"


def uid_problem(uid: int, group: UserGroup) -> str | None:
    """Why a user of `group` cannot have `uid`, or None."""
    pool = UID_POOLS[group]
    return None if uid in pool else f"uid {uid} is not one of group {group.value}: {pool}"


def unix_name_problem(text: str) -> str | None:
    """Why `text` cannot be a part of somebody's name, or None: a colon or a line's end would break passwd's lines."""
    if any(letter in text for letter in ":,\\") or not text.isprintable():
        return f"{text!r} has a colon, comma, backslash or control character, which passwd cannot have"
    return None
