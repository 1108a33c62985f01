"""Stores on both databases: SQLite in a file, and a real PostgreSQL of the gw image in a container."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network

import pytest

from services.common.addresses import Range
from services.common.database import Database
from services.mdb.pools import Bounds
from services.mdb.schema import MachineType
from services.mdb.store import Store

NETWORK = IPv4Network("192.168.0.0/23")
RESERVED = {IPv4Address("192.168.1.254"): "gw"}
SPANS = {
    MachineType.USER: "192.168.0.1-192.168.0.200",
    MachineType.ORGA: "192.168.0.201-192.168.0.253",
    MachineType.SERVICE: "192.168.1.1-192.168.1.254",
    MachineType.CLUSTER: "192.168.2.1-192.168.2.8",
}
BOUNDS = {
    type: Bounds(
        type.value,
        Range.parse(span),
        IPv4Network("192.168.2.0/24") if type is MachineType.CLUSTER else NETWORK,
        (),
        RESERVED,
    )
    for type, span in SPANS.items()
}


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
    """mdb's store in an empty database, with the addressing of the first system."""
    made = Store(database, BOUNDS, clock=lambda: clock[0])
    made.prepare()
    return made
