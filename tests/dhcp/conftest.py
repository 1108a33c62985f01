"""What the tests against real Kea share: podman with the gw image, and one gw that stays on for a module."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from builder import image
from builder.image import Shop
from e2e.containers import Engine, engine
from tests.dhcp.rig import Gateway, gateway


@pytest.fixture(scope="module")
def podman(shop: Shop) -> Iterator[Engine]:
    image.build(shop, "gw")
    with engine(settings=shop.settings) as running:
        yield running


@pytest.fixture(scope="module")
def shared(podman: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gw that is on."""
    with gateway(podman, tmp_path_factory.mktemp("gw")) as gw:
        yield gw


@pytest.fixture
def gw(shared: Gateway) -> Gateway:
    """The same, on and without machines and leases, whatever the test before did to it."""
    shared.reset()
    return shared
