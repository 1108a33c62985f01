"""What the tests of services.common share: one demo service, started once a module."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.common.service_rig import Service, activated


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with activated(tmp_path_factory.mktemp("demo")) as service:
        yield service
