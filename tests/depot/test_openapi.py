"""What the depot says of itself in OpenAPI is what it does: schemathesis asks each operation, also nonsense."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis.specs.openapi.checks import positive_data_acceptance

from docs.generate import openapi_of_depot
from tests.common.service_rig import Service
from tests.depot.rig import People, serving


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, people: People) -> Iterator[Service]:
    with serving(tmp_path_factory.mktemp("open"), people) as running:
        yield running


schema = schemathesis.openapi.from_dict(openapi_of_depot())


def test_the_service_serves_that_document(service: Service) -> None:
    served = httpx2.get(f"{service.http}/openapi.json").json()
    documented = openapi_of_depot()["paths"]
    assert isinstance(documented, dict)
    assert {path: served["paths"][path] for path in documented} == documented  # the rest is of the house: sessions


@schema.parametrize()
@settings(
    max_examples=25,
    deadline=None,
    phases=[Phase.generate],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.function_scoped_fixture],
)
def test_every_operation_answers_as_documented(case: schemathesis.Case[Any], service: Service) -> None:
    # Names have rules that a pattern does not say (404 with words), and over TCP nobody may change anything.
    if "wait" in (case.query or {}):
        case.query["wait"] = 0
    case.call_and_validate(base_url=service.http, excluded_checks=[positive_data_acceptance])
