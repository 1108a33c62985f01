"""Records over HTTP: their ids in paths, their entity tags, and where in a call something was refused."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol, TypeVar

from starlette.requests import Request
from starlette.responses import Response

from services.common.codec import encode_json
from services.common.errors import BusyError, InputError, MissingError, UsageError

T = TypeVar("T")

ID_MAX = 2**63 - 1  # of a BIGINT


class Revised(Protocol):
    """A record that knows the revision of its last change."""

    @property
    def revision(self) -> int: ...


def id_of(request: Request) -> int:
    """The id in the path. Raises MissingError for one that no record can have."""
    id = int(request.path_params["id"])
    if id > ID_MAX:
        raise MissingError("record.unknown", "there is no record with such an id")
    return id


def match_of(request: Request) -> int | None:
    """The revision of If-Match (RFC 9110, section 13.1.1); None without it and for `*`. Raises UsageError."""
    text = request.headers.get("if-match", "*").strip()
    if text == "*":
        return None
    inner = text.removeprefix('"').removesuffix('"')
    if len(inner) != len(text) - 2 or not inner.isdigit():
        raise UsageError("request.match", f"If-Match is {text}", hint='send the ETag of the record, such as "17"')
    return int(inner)


def tagged(record: Revised, *, status: int = 200) -> Response:
    """A record with its entity tag."""
    headers = {"etag": f'"{record.revision}"'}
    return Response(encode_json(record), status_code=status, headers=headers, media_type="application/json")


async def placed(call: Callable[[], T]) -> T:
    """`call` in a thread; which edit or line was refused becomes a part of what is told."""
    try:
        return await asyncio.to_thread(call)
    except (InputError, BusyError, MissingError) as error:
        if error.where is not None:
            error.message, error.where = f"{error.where}: {error.message}", None
        raise
