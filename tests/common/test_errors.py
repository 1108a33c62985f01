"""Errors and their problem documents: stable codes, one exit code and one status each."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common import problem
from services.common.errors import (
    BacklineError,
    BusyError,
    Exit,
    HostError,
    InputError,
    IntegrityError,
    MissingError,
    UsageError,
    nearest,
)


def test_a_message_begins_with_its_place() -> None:
    assert str(InputError("a.b", "is wrong", where="hall.toml:3")) == "hall.toml:3: is wrong"
    assert str(InputError("a.b", "is wrong")) == "is wrong"


def test_near_words_are_offered_and_far_ones_are_not() -> None:
    assert nearest("nfsrot", ["nfsroot", "gw"]) == "did you mean nfsroot?"
    assert nearest("xyz", ["nfsroot", "gw"]) is None


def test_exit_codes_are_what_scripts_know() -> None:
    assert {each.name: each.value for each in Exit} == {
        "OK": 0, "DIFFERENT": 1, "USAGE": 2, "INPUT": 3, "MISSING": 4, "INTEGRITY": 5, "FAILED": 6, "HOST": 7,
        "BUSY": 8, "INTERRUPTED": 130,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (UsageError("x", ""), 400),
        (InputError("x", ""), 422),
        (MissingError("x", ""), 404),
        (IntegrityError("x", ""), 422),
        (HostError("x", ""), 503),
        (BusyError("x", ""), 409),
        (BacklineError("x", ""), 500),
        (UsageError("request.size", ""), 413),
        (UsageError("request.body.deep", ""), 422),
        (UsageError("request.other", ""), 400),
        (UsageError("requesting", ""), 400),
        (HostError("bus.denied", ""), 403),
        (HostError("auth.anonymous", ""), 401),
        (HostError("auth.denied", ""), 403),
    ],
)
def test_a_code_or_its_prefix_or_its_class_chooses_the_status(error: BacklineError, status: int) -> None:
    assert problem.status_of(error) == status


def test_every_class_of_failure_has_a_status() -> None:
    expected = set(Exit) - {Exit.OK, Exit.DIFFERENT, Exit.INTERRUPTED}
    assert {key for key in problem.STATUS if isinstance(key, Exit)} == expected


@given(st.text(max_size=10), st.integers(100, 599))
def test_a_document_survives_the_wire(detail: str, status: int) -> None:
    document = problem.from_status(status, detail, instance="/x", request_id="r")
    assert problem.decode_problem(msgspec.json.encode(document), status=0) == document


@given(st.binary(max_size=60))
def test_an_answer_that_is_no_document_is_its_status(content: bytes) -> None:
    document = problem.decode_problem(content, status=502)
    assert (document.status, document.code) == (502, "http.bad-gateway")


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (404, Exit.MISSING),
        (503, Exit.MISSING),
        (409, Exit.BUSY),
        (403, Exit.HOST),
        (400, Exit.USAGE),
        (500, Exit.FAILED),
    ],
)
def test_a_client_ends_with_the_exit_code_of_the_status(status: int, code: Exit) -> None:
    assert problem.RemoteError(problem.from_status(status)).exit == code


def test_an_error_of_the_other_side_keeps_code_message_and_hint() -> None:
    document = problem.from_error(MissingError("unit.unknown", "there is no unit", hint="look"))
    error = problem.RemoteError(document, where="unix:/x")
    assert (error.code, str(error), error.hint) == ("unit.unknown", "unix:/x: there is no unit", "look")
