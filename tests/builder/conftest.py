"""What the tests of the builder share: the machine's real shop and its tools tree."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import hypothesis
import msgspec
import pytest

from builder import config, image, lock, relock, settings, tools
from builder.fetch import Gone
from builder.image import Shop
from builder.pool import Pool
from builder.resolve import Update
from services.common.progress import Progress

# A machine that builds images meanwhile is slow, and that is no mistake.
hypothesis.settings.register_profile("builder", deadline=None, max_examples=50)
hypothesis.settings.load_profile("builder")


class LockMoved(UserWarning):
    """The committed lock names packages that are to be had nowhere any more."""


@pytest.fixture(scope="session")
def shop() -> Shop:
    """The shop of this checkout, with the machine's own store and caches.

    Where locked packages left the mirror, those are resolved again into a lock in the cache folder, said in one
    warning; the committed lock is never written.
    """
    return healed(Shop.open(settings.load(), Progress(quiet=True)))


def healed(shop: Shop) -> Shop:
    """`shop`, or one whose lock in the cache folder replaces what the mirror has no more."""
    if os.geteuid() != 0:
        return shop
    wanted = [role for role in config.published(shop.root) if role != "nfsroot-desktop"]
    target = shop.settings.cache_path / "moved.lock"
    moved: list[str] = []
    names: frozenset[str] = frozenset()
    for _ in range(5):
        try:
            image.fetch(shop, wanted)
        except Gone as error:
            names |= {package.name for package in error.packages}
            old = shop.lock
            try:
                new = relock.resolve_all(shop, old, Update(names=names))
            except Gone as more:  # what is kept needs these in versions that are gone too
                names |= {package.name for package in more.packages}
                new = relock.resolve_all(shop, old, Update(names=names))
            relock.write(target, new)
            moved += lock.changes(old, new)
            shop = Shop.open(msgspec.structs.replace(shop.settings, lock=str(target)), shop.progress, root=shop.root)
        else:
            if moved:
                text = "the committed lock names packages that left the mirror; tested with: " + ", ".join(moved)
                warnings.warn(text, LockMoved, stacklevel=1)
            return shop
    raise AssertionError("the mirror moves faster than it can be resolved")


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
