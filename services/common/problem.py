"""Errors on the wire: problem documents (RFC 9457), the same for every service.

`STATUS` is the one table from an error to an HTTP status: by its code, else by a prefix of its code, else by its class.
`code` is what programs should look at; `type` is the same as a URI. `RemoteError` is such a document seen by a client.
"""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus

import msgspec

from services.common.errors import BacklineError, Exit

CONTENT_TYPE = "application/problem+json"
TYPE_PREFIX = "urn:backline:problem:"

STATUS: Mapping[str | Exit, int] = {
    "auth": 403,
    "auth.administrators": 503,
    "auth.anonymous": 401,
    "auth.certificate": 401,
    "auth.expired": 401,
    "auth.foreign": 401,
    "auth.key": 503,
    "auth.kind": 401,
    "auth.malformed": 401,
    "auth.off": 401,
    "auth.rate": 429,
    "auth.replayed": 401,
    "auth.revoked": 401,
    "auth.signature": 401,
    "boot.address": 403,
    "boot.claimed": 409,
    "boot.late": 410,
    "bus.denied": 403,
    "bus": 503,
    "conflict": 409,
    "generation.match": 428,
    "generation.stale": 412,
    "http.bad-gateway": 502,
    "http.conflict": 409,
    "http.content-too-large": 413,
    "http.method-not-allowed": 405,
    "http.not-found": 404,
    "http.request-timeout": 408,
    "http.service-unavailable": 503,
    "http.too-many-requests": 429,
    "http.unauthorized": 401,
    "http.forbidden": 403,
    "internal": 500,
    "rate": 429,
    "ready": 503,
    "request": 400,
    "request.body": 422,
    "request.late": 408,
    "request.size": 413,
    "request.type": 415,
    Exit.USAGE: 400,
    Exit.INPUT: 422,
    Exit.MISSING: 404,
    Exit.INTEGRITY: 422,
    Exit.HOST: 503,
    Exit.BUSY: 409,
    Exit.FAILED: 500,
}


class Problem(msgspec.Struct, frozen=True, omit_defaults=True):
    """A problem document: what went wrong, with a code for programs and a hint for people."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    instance: str | None = None
    hint: str | None = None
    request_id: str | None = None


class RemoteError(BacklineError):
    """Another service answered with a problem document; it has that document's code, message and hint."""

    def __init__(self, problem: Problem, *, where: str | None = None) -> None:
        super().__init__(problem.code, problem.detail, hint=problem.hint, where=where)
        self.problem = problem
        self.exit = exit_for(problem.status)


def status_of(error: BacklineError) -> int:
    """The HTTP status of an error: the longest match of its code in `STATUS`, else its class's, else 500."""
    parts = error.code.split(".")
    for end in range(len(parts), 0, -1):
        if (status := STATUS.get(".".join(parts[:end]))) is not None:
            return status
    return STATUS.get(error.exit, 500)


def exit_for(status: int) -> Exit:
    """The exit code of a command that was answered with `status`."""
    if status in (404, 410, 502, 503, 504):
        return Exit.MISSING
    if status in (409, 412, 423, 429):
        return Exit.BUSY
    if status in (401, 403):
        return Exit.HOST
    return Exit.USAGE if 400 <= status < 500 else Exit.FAILED


def from_error(error: BacklineError, *, instance: str | None = None, request_id: str | None = None) -> Problem:
    """The document of an expected failure.

    Paths of this host (`where`) stay here; of a 500, so do command lines and the output of programs.
    """
    status = status_of(error)
    detail = error.message if status != 500 else error.message.partition("\n")[0]
    return Problem(
        type=TYPE_PREFIX + error.code,
        title=phrase(status),
        status=status,
        detail=detail,
        code=error.code,
        instance=instance,
        hint=error.hint if status != 500 else None,
        request_id=request_id,
    )


def from_status(
    status: int, detail: str | None = None, *, instance: str | None = None, request_id: str | None = None
) -> Problem:
    """The document of a bare HTTP status, as routing raises it: 404, 405..."""
    code = "http." + phrase(status).lower().replace(" ", "-").replace("'", "")
    return Problem(
        type=TYPE_PREFIX + code,
        title=phrase(status),
        status=status,
        detail=detail or phrase(status),
        code=code,
        instance=instance,
        request_id=request_id,
    )


def unexpected(*, instance: str | None = None, request_id: str | None = None) -> Problem:
    """The document of a bug: it says nothing but where to look."""
    detail = "an unexpected failure; the service's log has it under this request id"
    return from_error(BacklineError("internal", detail), instance=instance, request_id=request_id)


def phrase(status: int) -> str:
    """The reason phrase of a status, in the words of RFC 9110 on every Python."""
    renamed = {413: "Content Too Large", 414: "URI Too Long", 422: "Unprocessable Content"}
    if status in renamed:
        return renamed[status]
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return f"Status {status}"


def decode_problem(content: bytes, *, status: int) -> Problem:
    """The document in an answer's body; a body that is none (a proxy's page) becomes a bare status."""
    try:
        return msgspec.json.decode(content, type=Problem)
    except (msgspec.DecodeError, msgspec.ValidationError):
        return from_status(status)
