"""What the verbs share: the client, which machines are meant, and what is told of their history."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence

from services.common.errors import MissingError, UsageError
from services.common.names import normal_mac
from services.common.ranges import expand
from services.mdb.client import SOCKET, Mdb
from services.mdb.schema import Machine

BULK_SECONDS = 300.0


def client(arguments: argparse.Namespace, *, seconds: float = 30.0) -> Mdb:
    """mdb, of this host where nothing else is said."""
    return Mdb(arguments.address or SOCKET, seconds=seconds)


def chosen(mdb: Mdb, words: Sequence[str]) -> list[Machine]:
    """The machines that are meant, in the order of `words`: names, MACs, addresses, ids and host ranges, each of which
    has to be there; or, when all words are `field:value`, those that a query finds.

    Raises MissingError("machine.unknown"), UsageError("mdb.choice").
    """
    asked = [word for word in words if _is_query(word)]
    if asked and len(asked) < len(words):
        raise UsageError("mdb.choice", "either names and ranges, or a query of field:value words; not both")
    if asked:
        found = mdb.machines(shlex.join(words)).machines
        if not found:
            raise MissingError("machine.unknown", f"no machine has {' '.join(words)}")
        return found
    machines: dict[int, Machine] = {}
    for word in words:
        names = expand(word)
        if len(names) == 1:
            each = mdb.machine(names[0])
            machines.setdefault(each.id, each)
            continue
        by_name = {name: each for each in mdb.machines(word).machines for name in (each.hostname, *each.aliases)}
        if absent := [name for name in names if name not in by_name]:
            more = f" and {len(absent) - 5} more" if len(absent) > 5 else ""
            raise MissingError("machine.unknown", f"there is no machine {', '.join(absent[:5])}{more}")
        for name in names:
            machines.setdefault(by_name[name].id, by_name[name])
    return list(machines.values())


def _is_query(word: str) -> bool:
    if word.startswith("-"):
        return True
    try:
        normal_mac(word)
    except ValueError:
        return ":" in word
    return False


TELLING = ("hostname", "name", "mac", "chassis", "ip")
"""Fields that say which record it is."""
