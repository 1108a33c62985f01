"""Stores on both databases: SQLite in a file, and a real PostgreSQL of the gw image in a container."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from services.common.database import Database
from services.udb.sealing import KEY_BYTES, Seal
from services.udb.store import Store


@pytest.fixture
def clock() -> list[float]:
    """The store's clock, as a list of one: a test sets it."""
    return [1_800_000_000.0]


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """An empty database of each kind."""
    with Database(database_url) as opened:
        yield opened


@pytest.fixture
def store(database: Database, clock: list[float]) -> Store:
    """udb's store in an empty database."""
    made = Store(database, Seal(bytes(range(KEY_BYTES))), clock=lambda: clock[0])
    made.prepare()
    return made
