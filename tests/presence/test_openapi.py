"""What presence says of itself in OpenAPI is what it does: schemathesis asks each operation."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import positive_data_acceptance

from docs.generate import openapi_of_presence
from tests.common.service_rig import Service, activated


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("open")
    with activated(folder, [sys.executable, "-m", "tests.presence.open_service", str(folder)]) as running:
        yield running


schema = schemathesis.openapi.from_dict(openapi_of_presence())


def test_the_service_serves_that_document(service: Service) -> None:
    served = httpx2.get(f"{service.http}/openapi.json").json()
    documented = openapi_of_presence()["paths"]
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
    allowed: list[Any] = [positive_data_acceptance]
    if case.path == "/healthz":  # neither mdb nor udb is there
        allowed.append(not_a_server_error)
    case.call_and_validate(base_url=service.http, excluded_checks=allowed)
