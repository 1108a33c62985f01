"""`make test` goes on where the mirror moved: a crafted mirror that lacks what is locked, beside the real one."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import msgspec
import pytest

from builder import lock
from builder.image import Shop
from services.common.progress import Progress
from tests.builder.conftest import LockMoved, healed

pytestmark = [
    pytest.mark.images,
    pytest.mark.skipif(os.geteuid() != 0, reason="resolving in the tools tree needs root"),
]

# Small, in the base of every image, and of no other package's exact dependency.
NAME = "less"


@pytest.fixture
def behind(shop: Shop, tmp_path: Path) -> Shop:
    """A shop whose lock names a version of one package that was never published."""
    packages = [
        msgspec.structs.replace(one, version="1-0gone", sha256="0" * 64, path="pool/main/l/less/less_1-0gone_amd64.deb")
        if one.name == NAME
        else one
        for one in shop.lock.packages
    ]
    path = tmp_path / "behind.lock"
    path.write_text(lock.encode(msgspec.structs.replace(shop.lock, packages=packages)))
    return Shop.open(msgspec.structs.replace(shop.settings, lock=str(path)), Progress(quiet=True), root=shop.root)


def test_what_left_the_mirror_is_resolved_again_and_said_in_one_warning(shop: Shop, behind: Shop) -> None:
    before = behind.lock_path.read_bytes()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = healed(behind)
    now = {package.name: package.version for package in found.lock.packages}
    assert now == {package.name: package.version for package in shop.lock.packages}
    assert [warning.category for warning in caught] == [LockMoved]
    assert "less 1-0gone → " in str(caught[0].message)
    assert behind.lock_path.read_bytes() == before
    assert found.lock_path == shop.settings.cache_path / "moved.lock"
