"""The application that every service is: its own routes, and what all of them share.

`create_app` adds /healthz, /metrics, /version and /openapi.json, request ids (X-Request-ID is taken when it is well
formed, made otherwise, always sent back and logged), a limit on bodies, and problem documents for every failure; where
the service has pages, browsers get a page instead. No traceback and no path of this host goes to a client. Middleware
is plain ASGI: contextvars and streams stay whole.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import re
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Literal, cast
from urllib.parse import quote

import msgspec
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.body_limit import RequestBodyLimitMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Lifespan, Message, Receive, Scope, Send

from services.common import log, openapi, problem
from services.common.access import Access
from services.common.codec import encode_json
from services.common.edge import Operation
from services.common.errors import BacklineError, HostError
from services.common.identity import ImageIdentity, Version, read_identity
from services.common.metrics import Metrics
from services.common.sessions import Sessions

logger = logging.getLogger(__name__)

MAX_BODY_SIZE = 1024 * 1024
CHECK_SECONDS = 5.0
REQUEST_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}")

Check = Callable[[], Awaitable[None]]
ErrorPage = Callable[[Request, problem.Problem], Awaitable[Response | None]]


class Health(msgspec.Struct, frozen=True):
    """The service is alive, and these checks passed."""

    status: Literal["ok"]
    checks: list[str]


class Application(Starlette):
    """A Starlette application with the house's metrics and the document of its operations."""

    def __init__(
        self,
        *,
        service: str,
        operations: Sequence[Operation],
        routes: Sequence[BaseRoute],
        metrics: Metrics,
        lifespan: Lifespan[Application] | None,
        max_body_size: int,
        access: Access,
        error_page: ErrorPage | None = None,
    ) -> None:
        self.service = service
        self.error_page = error_page
        self.access = access
        self.operations = tuple(operations)
        self.metrics = metrics
        self.startup_error: BacklineError | None = None
        super().__init__(
            routes=[*operations, *routes],
            lifespan=cast("Lifespan[Starlette] | None", self._remember(lifespan) if lifespan else None),
            middleware=[
                Middleware(RequestContext, metrics=metrics),
                Middleware(RequestBodyLimitMiddleware, max_body_size=max_body_size),
            ],
            exception_handlers={BacklineError: _answer_error, HTTPException: _answer_status},
        )

    def _remember(self, lifespan: Lifespan[Application]) -> Lifespan[Application]:
        """The lifespan, whose expected failures are kept: uvicorn would reduce them to an exit code."""

        @contextlib.asynccontextmanager
        async def remembering(app: Application) -> AsyncIterator[Mapping[str, object]]:
            async with contextlib.AsyncExitStack() as stack:
                try:
                    state = await stack.enter_async_context(lifespan(app))
                except BacklineError as error:
                    self.startup_error = error
                    raise
                yield state or {}

        return remembering


def create_app(
    *,
    service: str,
    routes: Sequence[BaseRoute],
    checks: Mapping[str, Check] | None = None,
    lifespan: Lifespan[Application] | None = None,
    identity: ImageIdentity | None = None,
    max_body_size: int = MAX_BODY_SIZE,
    description: str = "",
    access: Access | None = None,
    error_page: ErrorPage | None = None,
) -> Application:
    """The application of `service`.

    `access` is how it knows its callers (`services.common.access`); without it only the unix socket tells.
    `checks` are named and say by raising BacklineError that the service is not ready; each has `CHECK_SECONDS`.
    `error_page` makes a page of a problem, or None for callers that are no browsers. Operations among `routes` are
    documented in /openapi.json, other routes are only served.
    """
    from services.common.main import version as distribution

    identity = read_identity() if identity is None else identity
    running = Version(service=service, version=distribution(), role=identity.role, image=identity.version)
    checks = dict(checks or {})
    metrics = Metrics(service=service, version=running.version, role=identity.role or "", image=identity.version or "")

    async def healthz(_: Request) -> Health:
        """Answers at all when the service lives; 503 names the checks that fail."""
        failures = await asyncio.gather(*(_failure(check) for check in checks.values()))
        failing = [f"{name}: {failure}" for name, failure in zip(checks, failures, strict=True) if failure]
        if failing:
            raise HostError("ready.failing", "; ".join(failing))
        return Health(status="ok", checks=list(checks))

    async def version(_: Request) -> Version:
        return running

    async def metrics_text(_: Request) -> Response:
        return Response(metrics.render(), headers={"content-type": metrics.content_type})

    async def openapi_json(_: Request) -> Response:
        document = openapi.document(
            app.operations, title=f"Backline {service}", version=running.version, description=description
        )
        return Response(encode_json(document), media_type="application/json")

    shared = [
        Operation("GET", "/healthz", healthz, summary="Is the service well?", answer=Health, errors=[503]),
        Operation("GET", "/version", version, summary="What runs here?", answer=Version),
        Operation("GET", "/metrics", metrics_text, summary="Metrics for Prometheus", media_type="text/plain"),
    ]
    if access is not None and access.tokens is not None:
        routes = [*routes, *Sessions(service, access, access.tokens).routes()]
    own = [route for route in routes if isinstance(route, Operation)]
    others = [route for route in routes if not isinstance(route, Operation)]
    others.append(Route("/openapi.json", openapi_json, include_in_schema=False))
    app = Application(
        service=service,
        operations=[*own, *shared],
        routes=others,
        metrics=metrics,
        lifespan=lifespan,
        max_body_size=max_body_size,
        access=access or Access(),
        error_page=error_page,
    )
    return app


async def _failure(check: Check) -> str | None:
    try:
        async with asyncio.timeout(CHECK_SECONDS):
            await check()
    except BacklineError as error:
        return error.message.partition("\n")[0]
    except TimeoutError:
        return f"no answer within {CHECK_SECONDS:.0f} s"
    return None


class RequestContext:
    """Pure ASGI: the request id, one log line and one measurement a request, and the last catch of what went wrong."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app = app
        self.metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, functools.partial(_without_traceback, scope["app"], send))
            return
        answer = _Answer(scope, send)
        token = log.request_id.set(answer.request_id)
        began = time.perf_counter()
        try:
            await self.app(scope, receive, answer.send)
        except ClientDisconnect:
            answer.status = answer.status or 499
        except Exception:
            logger.exception("unexpected failure in %s %s", scope["method"], quote(scope["path"]))
            if answer.status is not None:
                raise  # too late for an answer: the server cuts the connection
            document = problem.unexpected(instance=quote(scope["path"]), request_id=answer.request_id)
            response = await _response(Request(scope, receive), document)
            await response(scope, receive, answer.send)
        finally:
            seconds = time.perf_counter() - began
            route = getattr(scope.get("route"), "path", None)
            self.metrics.answered(scope["method"], route, answer.status or 500, seconds)
            logger.debug(
                "%s %s %s", scope["method"], quote(scope["path"]), answer.status, extra={"fields": {"took": seconds}}
            )
            log.request_id.reset(token)


async def _without_traceback(app: Application, send: Send, message: Message) -> None:
    if message["type"] == "lifespan.startup.failed" and app.startup_error is not None:
        message = {**message, "message": str(app.startup_error)}
    await send(message)


class _Answer:
    """The way out of one request: adds the request id, and turns Starlette's plain 413 into a problem document.

    RequestBodyLimitMiddleware replaces whatever a handler answers by text when Content-Length is over the limit.
    """

    def __init__(self, scope: Scope, send: Send) -> None:
        given = Headers(scope=scope).get("x-request-id", "")
        self.request_id = given if REQUEST_ID.fullmatch(given) else secrets.token_hex(8)
        self.scope = scope
        self.status: int | None = None
        self._send = send
        self._replaced = False

    async def send(self, message: Message) -> None:
        if self._replaced:
            return
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = [*message.get("headers", []), (b"x-request-id", self.request_id.encode())]
            if self.status == 413 and not self._ours(headers):
                self._replaced = True
                response = await _response(Request(self.scope), _too_large(quote(self.scope["path"]), self.request_id))
                response.headers["x-request-id"] = self.request_id
                await response(self.scope, _nothing_more, self._send)
                return
            message = {**message, "headers": headers}
        await self._send(message)

    def _ours(self, headers: Sequence[tuple[bytes, bytes]]) -> bool:
        return any(name == b"content-type" and not value.startswith(b"text/plain") for name, value in headers)


async def _nothing_more() -> Message:
    return {"type": "http.disconnect"}


def _too_large(instance: str, request_id: str | None) -> problem.Problem:
    error = BacklineError("request.size", "the body is larger than this service takes")
    return problem.from_error(error, instance=instance, request_id=request_id)


async def _response(request: Request, document: problem.Problem, headers: Mapping[str, str] | None = None) -> Response:
    """The problem document, or its page."""
    error_page: ErrorPage | None = getattr(request.scope.get("app"), "error_page", None)
    if error_page is not None:
        try:
            page = await error_page(request, document)
        except Exception:  # the template of the page itself: the answer is the document then
            logger.exception("unexpected failure in the page of an error")
            page = None
        if page is not None:
            page.headers.update(headers or {})
            return page
    return Response(
        encode_json(document),
        status_code=document.status,
        headers={**(headers or {}), "content-type": problem.CONTENT_TYPE},
    )


async def _answer_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, BacklineError)
    document = problem.from_error(error, instance=quote(request.url.path), request_id=log.request_id.get())
    level = logging.ERROR if document.status >= 500 else logging.INFO
    logger.log(level, "%s: %s", error.code, error, extra={"fields": {"code": error.code, "hint": error.hint}})
    return await _response(request, document, {"www-authenticate": "Bearer"} if document.status == 401 else None)


async def _answer_status(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    instance, current = quote(request.url.path), log.request_id.get()
    if error.status_code == 413:
        return await _response(request, _too_large(instance, current))
    document = problem.from_status(error.status_code, error.detail, instance=instance, request_id=current)
    return await _response(request, document, error.headers)
