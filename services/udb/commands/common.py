"""What the verbs share: the client, and which users are meant."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence

from services.common.errors import MissingError, UsageError
from services.common.ranges import expand
from services.udb.client import SOCKET, Udb
from services.udb.schema import User

BULK_SECONDS = 300.0


def client(arguments: argparse.Namespace, *, seconds: float = 30.0) -> Udb:
    """udb, of this host where nothing else is said."""
    return Udb(arguments.address or SOCKET, seconds=seconds)


def chosen(udb: Udb, words: Sequence[str]) -> list[User]:
    """The users that are meant, in the order of `words`: logins, ids and ranges, each of which has to be there; or,
    when all words are `field:value`, those that a query finds.

    Raises MissingError("user.unknown"), UsageError("udb.choice").
    """
    asked = [word for word in words if word.startswith("-") or ":" in word]
    if asked and len(asked) < len(words):
        raise UsageError("udb.choice", "either logins and ranges, or a query of field:value words; not both")
    if asked:
        found = udb.users(shlex.join(words)).users
        if not found:
            raise MissingError("user.unknown", f"no user has {' '.join(words)}")
        return found
    users: dict[int, User] = {}
    for word in words:
        names = expand(word)
        if len(names) == 1:
            each = udb.user(names[0])
            users.setdefault(each.id, each)
            continue
        by_login = {each.login: each for each in udb.users(word).users}
        if absent := [name for name in names if name not in by_login]:
            more = f" and {len(absent) - 5} more" if len(absent) > 5 else ""
            raise MissingError("user.unknown", f"there is no user {', '.join(absent[:5])}{more}")
        for name in names:
            users.setdefault(by_login[name].id, by_login[name])
    return list(users.values())
