"""udb against its own OpenAPI document: requests as root, good and bad ones, to a running udb."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import requests
from schemathesis import GenerationMode

from docs.generate import openapi_of_udb
from services.common.users import UserGroup
from services.udb.client import Udb
from tests.common.openapi_rig import Document, id_of, session_with
from tests.udb.rig import new, serving

DOCUMENT = Document(openapi_of_udb(), {"/v1/users/{name}": {"name": "team01"}, "/v1/users/{id}/password": {"id": 1}})


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[requests.Session]:
    with serving(tmp_path_factory.mktemp("api"), tokens=False) as service:
        with Udb(service.unix) as client:
            for number, group in enumerate(UserGroup, 1):
                client.create(new(number, group=group, generate=True))
        with session_with(service.socket) as made:
            yield made


def test_the_document_is_the_one_that_udb_serves(session: requests.Session) -> None:
    DOCUMENT.is_served(session)


@pytest.mark.parametrize(("path", "method", "mode"), DOCUMENT.cases(), ids=id_of)
def test_udb_answers_as_its_document_says(
    session: requests.Session, path: str, method: str, mode: GenerationMode
) -> None:
    # Of texts that nobody wrote, few are lists of people.
    DOCUMENT.holds(session, (path, method, mode), examples=80 if path == "/v1/import" else 20)
