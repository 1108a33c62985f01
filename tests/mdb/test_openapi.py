"""mdb against its own OpenAPI document: requests as root, good and bad ones, to a running mdb."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import requests
from schemathesis import GenerationMode

from docs.generate import openapi_of_mdb
from services.mdb.client import Mdb
from services.mdb.schema import MachineType, NewMachine, NewSwitch
from tests.common.openapi_rig import Document, id_of, session_with
from tests.mdb.rig import serving

DOCUMENT = Document(
    openapi_of_mdb(),
    {
        "/v1/machines/{name}": {"name": "p1"},
        "/v1/machines/{id}/code": {"id": 1},
        "/v1/settings/{key}": {"key": "allow_self_registration"},
    },
)


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
        with session_with(service.socket) as made:
            yield made


def without_a_code(case: Any) -> None:
    """Nobody guesses one."""
    if case.path == "/v1/register":
        case.body.pop("code", None)


def test_the_document_is_the_one_that_mdb_serves(session: requests.Session) -> None:
    DOCUMENT.is_served(session)


@pytest.mark.parametrize(("path", "method", "mode"), DOCUMENT.cases(), ids=id_of)
def test_mdb_answers_as_its_document_says(
    session: requests.Session, path: str, method: str, mode: GenerationMode
) -> None:
    DOCUMENT.holds(session, (path, method, mode), adjust=without_a_code)
