"""What the verbs share: the client, and which users are meant."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from services.common import commands
from services.udb.client import SOCKET, Udb
from services.udb.schema import User

BULK_SECONDS = 300.0


def client(arguments: argparse.Namespace, *, seconds: float = 30.0) -> Udb:
    """udb that is meant (`services.common.commands.place_of`)."""
    return Udb(commands.place_of(arguments.address, SOCKET), seconds=seconds)


def chosen(udb: Udb, words: Sequence[str]) -> list[User]:
    """The users that are meant: logins, ids and ranges, or a query (`services.common.commands.chosen`)."""
    return commands.chosen(_Users(udb), words, area="udb")


class _Users:
    """How words mean users."""

    what = "user"

    def __init__(self, udb: Udb) -> None:
        self.udb = udb

    def asks(self, word: str) -> bool:
        return word.startswith("-") or ":" in word

    def one(self, name: str) -> User:
        return self.udb.user(name)

    def found(self, query: str) -> Sequence[User]:
        return self.udb.users(query).users

    def key(self, record: User) -> int:
        return record.id

    def names(self, record: User) -> Sequence[str]:
        return [record.login]
