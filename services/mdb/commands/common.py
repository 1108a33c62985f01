"""What the verbs share: the client, which machines are meant, and what is told of their history."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from services.common import commands
from services.common.names import normal_mac
from services.mdb.client import SOCKET, Mdb
from services.mdb.schema import Machine

BULK_SECONDS = 300.0


def client(arguments: argparse.Namespace, *, seconds: float = 30.0) -> Mdb:
    """mdb that is meant (`services.common.commands.place_of`)."""
    return Mdb(commands.place_of(arguments.address, SOCKET), seconds=seconds)


def chosen(mdb: Mdb, words: Sequence[str]) -> list[Machine]:
    """The machines that are meant: names, MACs, addresses, ids and ranges, or a query.

    Raises as `services.common.commands.chosen`.
    """
    return commands.chosen(_Machines(mdb), words, area="mdb")


class _Machines:
    """How words mean machines."""

    what = "machine"

    def __init__(self, mdb: Mdb) -> None:
        self.mdb = mdb

    def asks(self, word: str) -> bool:
        if word.startswith("-"):
            return True
        try:
            normal_mac(word)
        except ValueError:
            return ":" in word
        return False

    def one(self, name: str) -> Machine:
        return self.mdb.machine(name)

    def found(self, query: str) -> Sequence[Machine]:
        return self.mdb.machines(query).machines

    def key(self, record: Machine) -> int:
        return record.id

    def names(self, record: Machine) -> Sequence[str]:
        return [record.hostname, *record.aliases]


TELLING = ("hostname", "name", "mac", "chassis", "ip")
"""Fields that say which record it is."""
