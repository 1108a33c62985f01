"""What the scenarios share: the images under test, made from this checkout when the store has them not."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from builder import image
from builder.image import Shop
from e2e import registry
from e2e.pool import Labs
from tests.builder.conftest import shop

__all__ = ["shop"]
ROLES = ("gw", "rhfs", "nfsroot")


@pytest.fixture(scope="session", autouse=True)
def _nothing_is_left_of_a_lab() -> Iterator[None]:
    """Neither a cgroup nor a record of a lab that died, nor a journal that nobody kept."""
    before = set(registry.leftovers()) if os.geteuid() == 0 else set()
    yield
    if os.geteuid() == 0:
        assert set(registry.leftovers()) - before == set()


@pytest.fixture(scope="session", autouse=True)
def _images(request: pytest.FixtureRequest) -> None:
    """Every lab runs the versions that this checkout and lock describe."""
    if os.geteuid() != 0:
        return
    images: Shop = request.getfixturevalue("shop")
    labs: Labs = request.getfixturevalue("labs")
    labs.settings = images.settings
    for role in ROLES:
        image.build(images, role)
