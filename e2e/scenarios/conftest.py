"""What the scenarios share: the images under test, made from this checkout when the store has them not."""

from __future__ import annotations

import os

import pytest

from builder import image
from builder.image import Shop
from e2e import registry
from e2e.pool import Labs
from tests import left
from tests.builder.conftest import shop

__all__ = ["shop"]
ROLES = ("gw", "rhfs", "nfsroot")


def labs_left() -> set[str]:
    """Cgroups and records of labs that died, and journals that nobody kept."""
    return set(registry.leftovers()) if os.geteuid() == 0 else set()


def pytest_sessionstart(session: pytest.Session) -> None:
    """Before the first scenario."""
    left.before(session, "left of a lab", labs_left)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """After the last."""
    left.after(session, "left of a lab", labs_left)


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
