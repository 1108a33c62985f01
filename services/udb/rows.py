"""Between udb's tables and its structs; every query that more than one module needs."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from services.common.codec import to_builtins
from services.common.feed.wire import Record
from services.common.users import UserGroup
from services.udb.models import CounterRow, UserRow
from services.udb.schema import User

CHUNK = 500  # SQLite takes 32,766 parameters a statement, PostgreSQL 65,535
PUBLIC = ("id", "login", "firstname", "lastname", "uid", "group", "shell", "revision")
"""What every machine of the hall knows of a user."""
MESSAGE_FIELDS = ("text", "updated")
"""What a seat knows of the message of the day."""
PRIVATE = (*PUBLIC, "keys", "hash")
"""What verifies a user needs. No more than this is in the feed's log."""
_FIELDS = tuple(User.__struct_fields__)


@dataclass(frozen=True)
class Account:
    """A user with what nobody is shown: the hash, and the sealed password."""

    user: User
    hash: str | None
    sealed: str | None

    def private(self) -> Record:
        """As the private feed carries it."""
        return {name: value for name, value in {**plain(self.user), "hash": self.hash}.items() if name in PRIVATE}


def public(record: Record) -> Record:
    """As the public feed carries a record of the private one."""
    return {name: record[name] for name in (MESSAGE_FIELDS if "text" in record else PUBLIC)}


def plain(user: User) -> dict[str, Any]:
    """The fields of a user as JSON has them."""
    made = to_builtins(user)
    assert isinstance(made, dict)
    return made


def columns(account: Account) -> dict[str, object]:
    """The columns of its row."""
    values = plain(account.user)
    return {**values, "keys": json.dumps(values["keys"]), "hash": account.hash, "sealed": account.sealed}


def load(
    session: Session, ids: Collection[int] | None, groups: Collection[UserGroup] | None = None
) -> dict[int, Account]:
    """Users by id, of all groups or of some; all of them without `ids`."""
    parts: list[Sequence[int] | None] = [None] if ids is None else list(chunks(list(ids)))
    found: dict[int, Account] = {}
    table = UserRow.__table__
    for part in parts:
        query = select(table)
        if part is not None:
            query = query.where(table.c.id.in_(part))
        if groups is not None:
            query = query.where(table.c.group.in_([group.value for group in groups]))
        for row in session.execute(query).mappings():
            found[row["id"]] = _account(row)
    return found


def _account(row: Mapping[Any, Any]) -> Account:
    values = {name: row[name] for name in _FIELDS}
    values |= {"group": UserGroup(row["group"]), "keys": json.loads(row["keys"])}
    return Account(User(**values), row["hash"], row["sealed"])


def counters(session: Session) -> dict[str, int]:
    """The last number that was given, by the counter's name."""
    return {row.name: row.last for row in session.execute(select(CounterRow.name, CounterRow.last))}


def chunks(values: Sequence[Any]) -> Iterator[Sequence[Any]]:
    for begin in range(0, len(values), CHUNK):
        yield values[begin : begin + CHUNK]
