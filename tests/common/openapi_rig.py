"""A service against its own OpenAPI document: schemathesis makes requests from it, good and bad ones, to a running
service on its unix socket.
"""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from requests.adapters import HTTPAdapter
from schemathesis import GenerationMode
from schemathesis.checks import CHECKS
from urllib3.connection import HTTPConnection
from urllib3.connectionpool import HTTPConnectionPool

GOOD, BAD = GenerationMode.POSITIVE, GenerationMode.NEGATIVE
Case = tuple[str, str, GenerationMode]
"""Path, method, and whether requests are good or bad ones."""


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
        self.pool = HTTPConnectionPool("service", maxsize=4)
        self.pool.ConnectionCls = type("Connection", (UnixConnection,), {"path": path})
        super().__init__()

    def get_connection_with_tls_context(self, *_: Any, **__: Any) -> HTTPConnectionPool:
        return self.pool

    def close(self) -> None:
        self.pool.close()
        super().close()


@schemathesis.serializer("text/csv", "text/plain")
def text_as_it_is(_: Any, value: Any) -> bytes:
    """A table or list as it is generated: a text."""
    return value if isinstance(value, bytes) else str(value).encode("utf-8", "surrogatepass")


@contextmanager
def session_with(path: Path) -> Iterator[requests.Session]:
    """A session that asks the service on a socket."""
    with requests.Session() as made:
        made.trust_env = False
        made.mount("http://", UnixAdapter(path))
        yield made


class Document:
    """What a service says of itself. `known` are parts of paths that nobody guesses, by path."""

    def __init__(self, document: Mapping[str, object], known: Mapping[str, dict[str, Any]]) -> None:
        self.document: dict[str, Any] = json.loads(json.dumps(document))
        self.known = known
        self.schema = schemathesis.openapi.from_dict(self.document)

    def cases(self) -> list[Case]:
        """Every operation with good requests, and with bad ones where there is something to be wrong."""
        operations = [(path, method) for path, known in self.document["paths"].items() for method in known]
        cases = [(path, method, mode) for path, method in operations for mode in self._modes(path, method)]
        return sorted(cases, key=lambda case: case[1] == "delete")  # what is asked for has to be there

    def _modes(self, path: str, method: str) -> list[GenerationMode]:
        operation = self.document["paths"][path][method]
        any_text = ("path", {"type": "string"})
        free = [each for each in operation.get("parameters", []) if (each["in"], each["schema"]) != any_text]
        return [GOOD, BAD] if (free and path not in self.known) or "requestBody" in operation else [GOOD]

    def is_served(self, session: requests.Session) -> None:
        """The running service has this very document, in which every reference leads somewhere."""
        referred = set(re.findall(r"#/components/schemas/(\w+)", json.dumps(self.document)))
        assert referred <= set(self.document["components"]["schemas"])
        served = session.get("http://service/openapi.json").json()
        assert served["openapi"] == "3.1.0"
        assert (served["paths"], served["components"]) == (self.document["paths"], self.document["components"])

    def holds(
        self,
        session: requests.Session,
        case: Case,
        *,
        adjust: Callable[[Any], None] = lambda _: None,
        examples: int = 80,
    ) -> None:
        """The service answers as it says. `adjust` takes from a good request what nobody guesses."""
        path, method, mode = case

        @settings(
            max_examples=examples if method == "post" and mode is GOOD else 12,
            derandomize=True,
            deadline=None,
            database=None,
            phases=[Phase.explicit, Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=self.schema[path][method].as_strategy(generation_mode=mode, path_parameters=self.known.get(path)))
        def ask(case: Any) -> None:
            if mode is GOOD:
                adjust(case)
            # What the document allows and a rule refuses (a name that is taken, an address elsewhere) is no fault.
            refusals = [CHECKS.get_one("positive_data_acceptance")]
            answer = case.call_and_validate(base_url="http://service", session=session, excluded_checks=refusals)
            statuses.append(answer.status_code)

        statuses: list[int] = []
        ask()
        assert mode is BAD or any(status < 300 for status in statuses), f"nothing but {sorted(set(statuses))}"


def id_of(word: object) -> object:
    """What a test of a case is called."""
    return getattr(word, "value", word)
