"""Who signs, for all tests of the depot."""

from __future__ import annotations

import pytest

from tests.depot.rig import People


@pytest.fixture(scope="session")
def people(tmp_path_factory: pytest.TempPathFactory) -> People:
    return People.make(tmp_path_factory.mktemp("people"))
