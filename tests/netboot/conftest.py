"""netboot's store on both databases: SQLite in a file, and a real PostgreSQL of the gw image in a container."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from netboot.boots import Boots
from netboot.store import Store
from services.common.database import Database
from tests.netboot.rig import machines, seat


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
    """netboot's store in an empty database, in a hall of two seats and three root file servers."""
    made = Store(database, machines(seat(1), seat(2)), clock=lambda: clock[0])
    made.prepare()
    return made


@pytest.fixture
def boots(store: Store) -> Boots:
    return Boots(store)
