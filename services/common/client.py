"""The base of every typed client: a call is data, and two faces send it, one for asyncio and one that blocks.

A service's client.py describes its calls once, as functions that return `Call`, and wraps them in both faces. What goes
wrong is one of the house's errors: the service's own problem document as RemoteError, MissingError when it cannot be
reached, IntegrityError when its answer is not what was agreed. Proxies of the environment are not used.

Over HTTPS a client believes the hall's CA, shows the certificate of its `TlsSettings`, and sends the session that
`backline login` has kept for that address, unless a call has an Authorization of its own.
"""

from __future__ import annotations

import socket
import ssl
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Generic, Self, TypeVar
from urllib.parse import quote

import httpx2
import msgspec

from services.common import saved_sessions
from services.common.codec import decode_json, encode_json
from services.common.errors import IntegrityError, MissingError, UsageError
from services.common.problem import RemoteError, decode_problem
from services.common.tls import TlsSettings, client_context

T = TypeVar("T", bound=msgspec.Struct)

SECONDS = 30.0

QueryValue = str | int | Sequence[str] | None


@dataclass(frozen=True)
class Call(Generic[T]):
    """One request: `path` is made by `path_of`, a query value of None is left out.

    `text` is a body that is no struct: its media type, and the bytes.
    """

    method: str
    path: str
    answer: type[T]
    query: Mapping[str, QueryValue] = field(default_factory=dict)
    body: msgspec.Struct | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    text: tuple[str, bytes] | None = None


class Nothing(msgspec.Struct, frozen=True):
    """The answer of a call that has none (204)."""


@dataclass(frozen=True)
class Endpoint:
    """Where a service is: `unix:/path`, or `http://host:port` and `https://host:port`."""

    base: str
    path: Path | None

    @classmethod
    def parse(cls, text: str) -> Endpoint:
        """Raises UsageError("client.address")."""
        if text.startswith("unix:/"):
            return cls("http://localhost", Path(text.removeprefix("unix:")))
        if text.startswith(("http://", "https://")) and len(text.split("://", 1)[1].strip("/")) > 0:
            return cls(text.rstrip("/"), None)
        raise UsageError(
            "client.address", f"{text!r} is no address of a service", hint="write unix:/path or http://host:port"
        )

    def __str__(self) -> str:
        return f"unix:{self.path}" if self.path else self.base


def path_of(*segments: str) -> str:
    """A path whose segments are escaped: `path_of("v1", "units", name)`."""
    return "".join(f"/{quote(segment, safe='@:')}" for segment in segments)


class Client:
    """The face that blocks. A context manager."""

    def __init__(self, address: str, *, seconds: float = SECONDS, tls: TlsSettings | None = None) -> None:
        self.endpoint = Endpoint.parse(address)
        uds = str(self.endpoint.path) if self.endpoint.path else None
        verify, headers = secured(self.endpoint, tls)
        self._http = httpx2.Client(
            base_url=self.endpoint.base,
            transport=httpx2.HTTPTransport(uds=uds, verify=verify),
            headers=headers,
            timeout=seconds,
            trust_env=False,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Idempotent."""
        self._http.close()

    def send(self, call: Call[T]) -> T:
        """Send a call and decode its answer. Raises RemoteError, MissingError, IntegrityError."""
        return _decode(self.endpoint, call, self._send(call))

    def fetch(self, call: Call[Nothing]) -> bytes:
        """Send a call whose answer is no struct, and return it as it came. Raises RemoteError, MissingError."""
        response = self._send(call)
        _check(self.endpoint, response)
        return response.content

    def _send(self, call: Call[T]) -> httpx2.Response:
        try:
            return self._http.send(_request(self._http, call))
        except httpx2.HTTPError as error:
            _close_leaked(error)
            raise _unreachable(self.endpoint, error) from error


class AsyncClient:
    """The face for asyncio. An asynchronous context manager."""

    def __init__(self, address: str, *, seconds: float = SECONDS, tls: TlsSettings | None = None) -> None:
        self.endpoint = Endpoint.parse(address)
        uds = str(self.endpoint.path) if self.endpoint.path else None
        verify, headers = secured(self.endpoint, tls)
        self._http = httpx2.AsyncClient(
            base_url=self.endpoint.base,
            transport=httpx2.AsyncHTTPTransport(uds=uds, verify=verify),
            headers=headers,
            timeout=seconds,
            trust_env=False,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Idempotent."""
        await self._http.aclose()

    async def send(self, call: Call[T]) -> T:
        """Send a call and decode its answer. Raises RemoteError, MissingError, IntegrityError."""
        try:
            response = await self._http.send(_request(self._http, call))
        except httpx2.HTTPError as error:
            raise _unreachable(self.endpoint, error) from error
        return _decode(self.endpoint, call, response)


def secured(endpoint: Endpoint, tls: TlsSettings | None) -> tuple[ssl.SSLContext | bool, dict[str, str]]:
    """What verifies an endpoint's server, and the headers of a session that this user has there.

    Raises InputError("tls.files").
    """
    if not endpoint.base.startswith("https://"):
        return False, {}  # nothing to verify
    saved = saved_sessions.find(endpoint.base)
    if tls is None and saved is not None and saved.ca is not None:
        tls = TlsSettings(ca=Path(saved.ca))
    headers = {} if saved is None else {"authorization": f"Bearer {saved.token}"}
    return client_context(tls), headers


def _request(http: httpx2.Client | httpx2.AsyncClient, call: Call[T]) -> httpx2.Request:
    parameters: list[tuple[str, str]] = []
    for key, value in call.query.items():
        if isinstance(value, str | int):
            parameters.append((key, str(value)))
        elif value is not None:
            parameters += [(key, item) for item in value]
    media_type, content = call.text or (None, None)
    if call.body is not None:
        media_type, content = "application/json", encode_json(call.body)
    headers = {**call.headers, **({} if media_type is None else {"content-type": media_type})}
    return http.build_request(
        call.method, call.path, params=httpx2.QueryParams(tuple(parameters)), content=content, headers=headers
    )


def _unreachable(endpoint: Endpoint, error: httpx2.HTTPError) -> MissingError:
    if isinstance(error, httpx2.TimeoutException):
        return MissingError("remote.late", f"{endpoint} did not answer in time")
    return MissingError("remote.unreachable", f"{endpoint} cannot be reached: {error}", hint="is the service running?")


def _close_leaked(error: BaseException) -> None:
    """Close the socket that httpcore2 2.16 forgets when a unix socket refuses: only the traceback still has it."""
    cause: BaseException | None = error
    while cause is not None:
        for frame, _ in traceback.walk_tb(cause.__traceback__):
            forgotten = frame.f_locals.get("sock")
            if isinstance(forgotten, socket.socket):
                forgotten.close()
        cause = cause.__cause__ or cause.__context__


def _decode(endpoint: Endpoint, call: Call[T], response: httpx2.Response) -> T:
    _check(endpoint, response)
    try:
        return decode_json(b"{}" if response.status_code == 204 else response.content, call.answer)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise IntegrityError(
            "remote.answer", f"{call.method} {call.path} was answered with something else: {error}", where=str(endpoint)
        ) from error


def _check(endpoint: Endpoint, response: httpx2.Response) -> None:
    if response.is_error:
        raise RemoteError(decode_problem(response.content, status=response.status_code), where=str(endpoint))
