"""What the state service says of itself in OpenAPI is what it does: schemathesis asks each operation, also nonsense."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis.specs.openapi.checks import positive_data_acceptance

from docs.generate import openapi_of_state
from tests.common.service_rig import Service
from tests.state.test_keeper import serving


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with serving(tmp_path_factory.mktemp("open")) as running:
        yield running


schema = schemathesis.openapi.from_dict(openapi_of_state())


def test_the_service_serves_that_document(service: Service) -> None:
    served = httpx2.get(f"{service.http}/openapi.json").json()
    documented = openapi_of_state()["paths"]
    assert isinstance(documented, dict)
    assert {path: served["paths"][path] for path in documented} == documented


@schema.parametrize()
@settings(
    max_examples=20,
    deadline=None,
    phases=[Phase.generate],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.function_scoped_fixture],
)
def test_every_operation_answers_as_documented(case: schemathesis.Case[Any], service: Service) -> None:
    # Over TCP nobody may have copies: what is nonsense besides is refused all the same.
    case.call_and_validate(base_url=service.http, excluded_checks=[positive_data_acceptance])
