"""The edge of a service: HTTP requests become structs here, structs become answers, and nothing else passes.

A handler is `async def handler(request) -> Struct | Response | None`; `operation` makes a Starlette route of it that
also carries what OpenAPI has to know. What a client sends wrong is one of the `request.*` errors of
`services.common.problem`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import msgspec
from msgspec import inspect
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from services.common.codec import convert, decode_json, encode_json
from services.common.errors import UsageError

T = TypeVar("T", bound=msgspec.Struct)

Handler = Callable[[Request], Awaitable[object]]
"""Answers with a struct or other data of JSON, a Response, or None for no content."""

PIECE_BYTES = 1024 * 1024
"""How much of a long body is kept in memory before it is written."""
BODY_SECONDS = 30.0  # a client that sends its body slower than this holds a connection for nothing


class Operation(Route):
    """A route that knows its documentation: `summary`, the structs it takes and answers, and the errors it may give.

    `answer` is a struct, or another type that msgspec describes. `texts` are the media types of a body that is no JSON
    of ours, and `answers` those of such an answer.
    """

    def __init__(
        self,
        method: str,
        path: str,
        handler: Handler,
        *,
        summary: str,
        query: type[msgspec.Struct] | None = None,
        body: type[msgspec.Struct] | None = None,
        texts: Sequence[str] = (),
        answer: object = None,
        answers: Sequence[str] = (),
        status: int = 200,
        media_type: str = "application/json",
        errors: Sequence[int] = (),
        name: str | None = None,
        max_body_size: int | None = None,
    ) -> None:
        async def endpoint(request: Request) -> Response:
            result = await handler(request)
            if isinstance(result, Response):
                return result
            if result is None:
                return Response(status_code=204)
            return Response(encode_json(result), status_code=status, media_type=media_type)

        endpoint.__doc__ = handler.__doc__
        super().__init__(
            path,
            endpoint,
            methods=[method],
            name=name or getattr(handler, "__name__", "operation"),
            max_body_size=max_body_size,
        )
        self.method = method
        self.summary = summary
        self.description = handler.__doc__
        self.query = query
        self.body = body
        self.texts = tuple(texts)
        self.answer = answer
        self.answers = tuple(answers) or (media_type,)
        self.status = status
        self.media_type = media_type
        self.errors = tuple(errors)


async def read_text(request: Request, *media_types: str) -> tuple[str, bytes]:
    """The body and its media type, which is one of `media_types`. Raises UsageError: `request.type`, `request.late`."""
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type not in media_types:
        raise UsageError(
            "request.type",
            f"the body is {media_type or 'of no named type'}",
            hint=f"send Content-Type: {' or '.join(media_types)}",
        )
    return media_type, await _content(request)


async def _content(request: Request) -> bytes:
    try:
        async with asyncio.timeout(BODY_SECONDS):
            return await request.body()
    except TimeoutError as error:
        raise UsageError("request.late", f"the body took longer than {BODY_SECONDS:.0f} s") from error


async def read_body(request: Request, type: type[T]) -> T:
    """The JSON body as a struct.

    Raises UsageError: `request.type`, `request.syntax`, `request.body`, `request.late`.
    """
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json" and not media_type.endswith("+json"):
        raise UsageError(
            "request.type",
            f"the body is {media_type or 'of no named type'}",
            hint="send Content-Type: application/json",
        )
    content = await _content(request)
    try:
        return decode_json(content, type)
    except msgspec.ValidationError as error:
        raise UsageError("request.body", _lower(str(error))) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UsageError("request.syntax", f"the body is not JSON: {_lower(str(error))}") from error


async def pour(request: Request, write: Callable[[bytes], object], *, seconds: float | None = None) -> None:
    """The body, piece by piece, into `write`, which is called in a thread; what came before a cut is written too.

    Raises UsageError("request.late") when nothing comes for a while, or the whole takes longer than `seconds`.
    """
    held = bytearray()
    stream = request.stream()
    try:
        async with asyncio.timeout(seconds) as whole:
            while True:
                try:
                    async with asyncio.timeout(BODY_SECONDS):
                        held += await anext(stream)
                except StopAsyncIteration:
                    return
                if len(held) >= PIECE_BYTES:
                    piece, held = bytes(held), bytearray()
                    await asyncio.to_thread(write, piece)
    except TimeoutError as error:
        slow, silent = f"the body took longer than {seconds or 0:g} s", f"nothing came for {BODY_SECONDS:g} s"
        raise UsageError("request.late", slow if whole.expired() else silent) from error
    finally:
        if held:
            write(bytes(held))


def read_query(request: Request, type: type[T]) -> T:
    """The query parameters as a struct; a list field takes a parameter that is repeated.

    Raises UsageError("request.query"); unknown parameters are refused by structs that forbid unknown fields.
    """
    info = inspect.type_info(type)
    assert isinstance(info, inspect.StructType)
    lists = {field.encode_name for field in info.fields if is_list(field.type)}
    values: dict[str, object] = {}
    for key in request.query_params:
        given = request.query_params.getlist(key)
        if key in lists:
            values[key] = given
        elif len(given) > 1:
            raise UsageError("request.query", f"{key} is given {len(given)} times")
        else:
            values[key] = given[0]
    try:
        return convert(values, type, strict=False)
    except msgspec.ValidationError as error:
        raise UsageError("request.query", _lower(str(error)).replace("`$.", "`")) from error


def is_list(info: inspect.Type) -> bool:
    """Does a field of this type take several values?"""
    if isinstance(info, inspect.Metadata):
        return is_list(info.type)
    if isinstance(info, inspect.UnionType):
        return any(is_list(member) for member in info.types)
    return isinstance(info, inspect.ListType | inspect.VarTupleType | inspect.SetType | inspect.FrozenSetType)


def _lower(message: str) -> str:
    return message[:1].lower() + message[1:]
