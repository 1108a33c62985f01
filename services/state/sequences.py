"""How far publications are, as this host's depot says: what a restore must not fall behind. Only what is used of it."""

from __future__ import annotations

import contextlib
import json

import msgspec

from services.common.client import Call, Client
from services.common.errors import BacklineError

DEPOT = "unix:/run/backline/depot.sock"
_MANY = 1000


class _Publication(msgspec.Struct):
    statement: str


class _Publications(msgspec.Struct):
    publications: list[_Publication]


def of_this_host(address: str = DEPOT) -> dict[str, int]:
    """The last number by channel; nothing where no depot answers."""
    found: dict[str, int] = {}
    with contextlib.suppress(BacklineError), Client(address, seconds=10.0) as client:
        for each in client.send(Call("GET", "/v1/publications", _Publications, query={"limit": _MANY})).publications:
            with contextlib.suppress(ValueError, KeyError, TypeError):
                said = json.loads(each.statement)
                found[said["channel"]] = max(int(said["sequence"]), found.get(said["channel"], 0))
    return found
