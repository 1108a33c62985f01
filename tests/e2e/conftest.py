"""What the tests of the harness share: where the images are that some of them run, made when the store has them not."""

from __future__ import annotations

import pytest

from builder import image
from builder.image import Shop
from builder.settings import Settings
from tests.builder.conftest import shop

__all__ = ["shop"]


@pytest.fixture(scope="session")
def gw_settings(shop: Shop) -> Settings:
    """Where the store is that has gw as this checkout and lock describe it."""
    image.build(shop, "gw")
    return shop.settings
