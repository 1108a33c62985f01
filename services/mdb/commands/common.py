"""What the verbs share: the client, which machines are meant, and how answers are printed."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence
from typing import Any

import msgspec

from services.common.commands import one_line
from services.common.errors import MissingError, UsageError
from services.common.names import normal_mac
from services.mdb.client import SOCKET, Mdb
from services.mdb.ranges import expand
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


# Printing


def difference(before: dict[str, Any] | None, after: dict[str, Any] | None) -> str:
    """What a change of the history changed, on one line."""
    if before is None or after is None:
        record = after or before or {}
        telling: list[str] = [name for name in ("hostname", "name", "mac", "chassis", "ip") if name in record]
        return one_line(", ".join(f"{name} {record[name]}" for name in telling or sorted(record)))
    return one_line(", ".join(f"{name} {before[name]!r} → {after[name]!r}" for name in after))


def show_changes(before: msgspec.Struct | None, after: msgspec.Struct) -> None:
    """A line for each field that differs."""
    if before is None:
        return
    for name in after.__struct_fields__:
        then, now = getattr(before, name), getattr(after, name)
        if then != now and name not in ("revision", "updated"):
            print(f"  {name}: {_text(then)} → {_text(now)}")


def _text(value: object) -> str:
    value = getattr(value, "value", value)
    return one_line(str(value))


def converted(values: object, kind: type[Any]) -> Any:
    """Values of the command line as a struct. Raises UsageError("mdb.value")."""
    from services.common.codec import convert

    try:
        return convert(values, kind)
    except msgspec.ValidationError as error:
        message = str(error).partition(" - at ")[0]
        raise UsageError("mdb.value", f"{message[:1].lower()}{message[1:]}") from error
