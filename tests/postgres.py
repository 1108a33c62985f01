"""A real PostgreSQL, of the gw image, for the tests of every store: one server for all, an empty database a test."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import psycopg
import pytest

from builder import image
from builder.image import Shop
from e2e.containers import engine
from e2e.servers import PostgresContainer
from tests.builder.conftest import shop

__all__ = ["DATABASES", "postgresql", "postgresql_server", "shop"]

DATABASES = [
    "sqlite",
    pytest.param(
        "postgresql",
        marks=[pytest.mark.images, pytest.mark.needs("podman", "root", "cgroup2", "namespaces", "overlayfs")],
    ),
]
"""The parameters of a fixture that is to be had of each kind."""

_numbers = itertools.count(1)


@pytest.fixture(scope="package")
def postgresql_server(shop: Shop) -> Iterator[PostgresContainer]:
    """The server, until the last test of tests/ is over: the scenarios look whether anything is left of a lab."""
    image.build(shop, "gw")
    with engine(settings=shop.settings) as podman, PostgresContainer(podman.image_of("gw")) as running:
        yield running


@pytest.fixture
def postgresql(postgresql_server: PostgresContainer) -> Iterator[str]:
    """The URL of an empty database, which is gone after the test."""
    name, url = f"test{next(_numbers)}", postgresql_server.get_connection_url()
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} STRATEGY file_copy")
        try:
            yield f"{url.removesuffix('/postgres')}/{name}"
        finally:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
