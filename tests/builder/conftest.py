"""What the tests of the builder share: the machine's real shop and its tools tree."""

from __future__ import annotations

import os
from pathlib import Path

import hypothesis
import pytest

from builder import config, image, settings, tools
from builder.image import Shop
from builder.pool import Pool
from services.common.progress import Progress

# A machine that builds images meanwhile is slow, and that is no mistake.
hypothesis.settings.register_profile("builder", deadline=None, max_examples=50)
hypothesis.settings.load_profile("builder")


@pytest.fixture(scope="session")
def shop() -> Shop:
    """The shop of this checkout, with the machine's own store and caches."""
    return Shop.open(settings.load(), Progress(quiet=True))


@pytest.fixture(scope="session")
def tools_tree(shop: Shop) -> Path:
    """The tools tree of the committed lock, fetched and made when it is missing."""
    if os.geteuid() != 0:
        pytest.skip("the tools tree needs root")
    image.fetch(shop, [])
    return tools.ensure(Pool(shop.settings.cache_path / "pool"), shop.lock, shop.settings.cache_path)


@pytest.fixture(autouse=True)
def _fresh_configuration() -> None:
    """Tests edit their checkouts: nothing that was read before may be remembered."""
    config._load.cache_clear()
