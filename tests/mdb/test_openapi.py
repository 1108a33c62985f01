"""mdb against its own OpenAPI document: schemathesis makes requests from it, good and bad ones, as root, to a running
mdb on its unix socket.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from requests.adapters import HTTPAdapter
from schemathesis import GenerationMode
from schemathesis.checks import CHECKS
from urllib3.connection import HTTPConnection
from urllib3.connectionpool import HTTPConnectionPool

from docs.generate import openapi_of_mdb
from services.mdb.client import Mdb
from services.mdb.schema import MachineType, NewMachine, NewSwitch
from tests.mdb.rig import serving

DOCUMENT: dict[str, Any] = json.loads(json.dumps(openapi_of_mdb()))
OPERATIONS = [(path, method) for path, operations in DOCUMENT["paths"].items() for method in operations]
GOOD, BAD = GenerationMode.POSITIVE, GenerationMode.NEGATIVE


KNOWN = {
    "/v1/machines/{name}": {"name": "p1"},
    "/v1/machines/{id}/code": {"id": 1},
    "/v1/settings/{key}": {"key": "allow_self_registration"},
}
"""Parts of paths that nobody guesses."""


def requests_of(path: str, method: str) -> list[GenerationMode]:
    """Good ones; and bad ones where there is something to be wrong."""
    operation = DOCUMENT["paths"][path][method]
    free = [
        each for each in operation.get("parameters", []) if (each["in"], each["schema"]) != ("path", {"type": "string"})
    ]
    return [GOOD, BAD] if (free and path not in KNOWN) or "requestBody" in operation else [GOOD]


CASES = [(path, method, mode) for path, method in OPERATIONS for mode in requests_of(path, method)]
CASES.sort(key=lambda case: case[1] == "delete")  # what is asked for has to be there


class UnixConnection(HTTPConnection):
    """HTTP to a unix socket, for requests, with which schemathesis asks."""

    path: Path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(30)
        self.sock.connect(str(self.path))


class UnixAdapter(HTTPAdapter):
    """Every connection goes to one socket."""

    def __init__(self, path: Path) -> None:
        self.pool = HTTPConnectionPool("mdb", maxsize=4)
        self.pool.ConnectionCls = type("Connection", (UnixConnection,), {"path": path})
        super().__init__()

    def get_connection_with_tls_context(self, *_: Any, **__: Any) -> HTTPConnectionPool:
        return self.pool

    def close(self) -> None:
        self.pool.close()
        super().close()


@schemathesis.serializer("text/csv")
def csv_text(_: Any, value: Any) -> bytes:
    """A table as it is generated: a text."""
    return value if isinstance(value, bytes) else str(value).encode("utf-8", "surrogatepass")


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[requests.Session]:
    folder = tmp_path_factory.mktemp("api")
    with serving(folder, f"sqlite:///{folder}/mdb.db") as service:
        with Mdb(service.unix) as client:
            client.set("allow_self_registration", True)
            for number in range(1, 4):
                mac = f"52540000000{number}"
                client.create(NewMachine(hostname=f"p{number}", mac=mac, type=MachineType.USER))
                client.create_switch(NewSwitch(name=f"s{number}", chassis=f"001b2100000{number}"))
        with requests.Session() as made:
            made.trust_env = False
            made.mount("http://", UnixAdapter(service.socket))
            yield made


@pytest.fixture(scope="module")
def schema() -> Any:
    return schemathesis.openapi.from_dict(DOCUMENT)


def test_the_document_is_the_one_that_mdb_serves(session: requests.Session) -> None:
    served = session.get("http://mdb/openapi.json").json()
    assert served["openapi"] == "3.1.0"
    assert (served["paths"], served["components"]) == (DOCUMENT["paths"], DOCUMENT["components"])


@pytest.mark.parametrize(("path", "method", "mode"), CASES, ids=lambda word: getattr(word, "value", word))
def test_mdb_answers_as_its_document_says(
    schema: Any, session: requests.Session, path: str, method: str, mode: GenerationMode
) -> None:
    @settings(
        max_examples=80 if method == "post" and mode is GOOD else 12,
        derandomize=True,
        deadline=None,
        database=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=schema[path][method].as_strategy(generation_mode=mode, path_parameters=KNOWN.get(path)))
    def ask(case: Any) -> None:
        if mode is GOOD and path == "/v1/register":
            case.body.pop("code", None)  # nobody guesses one
        # What the document allows and a rule refuses (a name that is taken, an address of another network) is no fault.
        refusals = [CHECKS.get_one("positive_data_acceptance")]
        answer = case.call_and_validate(base_url="http://mdb", session=session, excluded_checks=refusals)
        statuses.append(answer.status_code)

    statuses: list[int] = []
    ask()
    assert mode is BAD or any(status < 300 for status in statuses), f"nothing but {sorted(set(statuses))}"
