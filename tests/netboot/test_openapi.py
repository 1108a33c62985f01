"""What netboot says of itself in OpenAPI is what it does: schemathesis asks each operation, sensibly and otherwise."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance

from docs.generate import openapi_of_netboot
from tests.common.service_rig import Service, activated
from tests.netboot.open_service import BOOT_FILE
from tests.netboot.rig import ONE

SEATS = ("52:54:00:00:00:01", "52-54-00-00-00-02", "525400ffffff")


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("open")
    with activated(folder, [sys.executable, "-m", "tests.netboot.open_service", str(folder)]) as running:
        known = {
            "mac": SEATS,
            "id": ((folder / BOOT_FILE).read_text(), "0" * 32),
            "boot": ((folder / BOOT_FILE).read_text(), "0" * 32),
            "version": (ONE, "20261122.0123456789ab"),
            "name": ("stable", "beta", "pas-r01p01"),
            "kind": ("room", "type", "x"),
            "value": ("pasteur", "user"),
        }
        KNOWN.update(known)
        yield running


KNOWN: dict[str, tuple[str, ...]] = {}


@schemathesis.hook
def map_path_parameters(context: object, value: dict[str, object] | None) -> dict[str, object] | None:
    """Half of the time a name that exists, so that more than "not found" is tried."""
    if value:
        for name, given in value.items():
            choices = KNOWN.get(name)
            if choices and isinstance(given, str) and len(given) % 2 == 0:
                value[name] = choices[len(given) // 2 % len(choices)]
    return value


schema = schemathesis.openapi.from_dict(openapi_of_netboot())


def test_the_service_serves_that_document(service: Service) -> None:
    served = httpx2.get(f"{service.http}/openapi.json").json()
    documented = openapi_of_netboot()["paths"]
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
    # Names have rules that a pattern does not say (422 with words), and /healthz is right to fail: mdb is not there.
    # What /register cannot use is told on the machine's screen, in a script.
    special: dict[str, list[Any]] = {"/healthz": [not_a_server_error], "/register": [negative_data_rejection]}
    excluded: list[Any] = [positive_data_acceptance, *special.get(case.path, [])]
    case.call_and_validate(base_url=service.http, excluded_checks=excluded)
