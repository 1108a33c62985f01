"""The supervisor against its own OpenAPI document: schemathesis makes requests from it, good and bad ones."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance

from docs.generate import openapi_of_supervisor
from tests.common.openapi_rig import UnixAdapter
from tests.hostd.supervisor_rig import Rig, around, supervisor

DOCUMENT: dict[str, Any] = json.loads(json.dumps(openapi_of_supervisor()))
# A stream has no end to wait for; tests/hostd/test_supervisor.py reads it.
schema = schemathesis.openapi.from_dict(DOCUMENT).exclude(path="/v1/events")
TABLES = ("/v1/plans", "/v1/generations", "/v1/transients", "/v1/units/{name}/properties")
"""Bodies with tables by any name: what should be wrong in an entry of one may be in no entry, and all is right."""
KNOWN = {"name": ("nginx.service", "bad.service", "none.service"), "number": (0, 1, 7)}


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    folder = tmp_path_factory.mktemp("supervisor")
    with around(folder) as (address, systemd), supervisor(folder, address, systemd, settle_seconds="0") as running:
        yield running


@schemathesis.hook
def map_path_parameters(context: object, value: dict[str, object] | None) -> dict[str, object] | None:
    """Half of the time a name that exists, so that more than "not found" is tried."""
    for name, given in (value or {}).items():
        choices = KNOWN.get(name)
        length = len(str(given))
        if value is not None and choices and length % 2 == 0:
            value[name] = choices[length // 2 % len(choices)]
    return value


def test_the_supervisor_serves_that_document(rig: Rig) -> None:
    with requests.Session() as session:
        session.mount("http://supervisor", UnixAdapter(rig.service.socket))
        served = session.get("http://supervisor/openapi.json").json()
    assert served["paths"] == DOCUMENT["paths"]


@schema.parametrize()
@settings(
    max_examples=15,
    deadline=None,
    phases=[Phase.generate],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.function_scoped_fixture],
)
def test_every_operation_answers_as_documented(case: schemathesis.Case[Any], rig: Rig) -> None:
    # What a document may wish for has rules that a schema does not say: 422 with words. A name in a path is any text.
    special = [negative_data_rejection] if case.method == "GET" or case.path in TABLES else []
    excluded: list[Any] = [positive_data_acceptance, *special]
    with requests.Session() as session:
        session.mount("http://supervisor", UnixAdapter(rig.service.socket))
        case.call_and_validate(base_url="http://supervisor", session=session, excluded_checks=excluded)
