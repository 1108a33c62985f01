"""The state service: on gw it brings archives to root file servers, on these it takes and keeps them.

On its unix socket everybody of the host may see how things stand. Copies are for root, and over TLS for the host whose
they are, with a certificate of scope `state`. Copies are sealed; nothing here can open them.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
from collections.abc import AsyncIterator

import msgspec
from prometheus_client import Gauge
from starlette.requests import Request
from starlette.responses import FileResponse

from services.common.access import Access, Role, require
from services.common.app import Application, create_app
from services.common.edge import Operation, pour, read_query
from services.common.errors import AccessError, BacklineError, HostError
from services.state.client import SCOPE
from services.state.copying import Copying
from services.state.kept import Kept
from services.state.schema import Copies, Copy, CopyQuery, Sequences, Settings, State

logger = logging.getLogger(__name__)

LOOK_SECONDS = 15.0
"""How often there is looked for a new archive, and what failed is tried again."""
UPLOAD_SECONDS = 1800.0
_NOT_YET = float("nan")


class _Seen(msgspec.Struct):
    """Of the roots service's memory, what is used here."""

    sequence: int


class _Memory(msgspec.Struct):
    channels: dict[str, _Seen] = {}


class Handlers:
    """The handlers, around what is saved here and what is kept here."""

    def __init__(self, settings: Settings, copying: Copying, kept: Kept) -> None:
        self.settings = settings
        self.copying = copying
        self.kept = kept

    async def state(self, request: Request) -> State:  # noqa: ARG002
        """Archives of this host, how their copies stand, and what is wrong."""
        return await asyncio.to_thread(self.copying.state)

    async def copies(self, request: Request) -> Copies:
        """Copies of a host's archives that this server keeps, the one that was received last first."""
        host = self._host(request)
        return Copies(copies=await asyncio.to_thread(self.kept.copies, host))

    async def get(self, request: Request) -> FileResponse:
        """A copy, as it was brought."""
        host = self._host(request)
        path = await asyncio.to_thread(self.kept.path, host, request.path_params["name"])
        return FileResponse(path, media_type="application/octet-stream")

    async def put(self, request: Request) -> Copy:
        """Keep a copy. It counts when all of it is here, with the hash that it was sent under."""
        host = self._host(request)
        sha256 = read_query(request, CopyQuery).sha256
        receiving = self.kept.receive(host, request.path_params["name"], sha256)
        incoming = await asyncio.to_thread(receiving.__enter__)
        try:
            await pour(request, incoming.write, seconds=UPLOAD_SECONDS)
            copy = await asyncio.to_thread(incoming.finish)
        except BaseException as error:
            if not await asyncio.to_thread(receiving.__exit__, type(error), error, error.__traceback__):
                raise
            raise AssertionError("unreachable") from error
        await asyncio.to_thread(receiving.__exit__, None, None, None)
        logger.info("%s of %s is kept", copy.name, host)
        return copy

    async def sequences(self, request: Request) -> Sequences:
        """The last number of a publication that this server has accepted, by channel."""
        require(request, Role.ROOT, scope=SCOPE)
        return await asyncio.to_thread(self._sequences)

    def _sequences(self) -> Sequences:
        try:
            memory = msgspec.json.decode(self.settings.roots.read_bytes(), type=_Memory)
        except FileNotFoundError:
            return Sequences(channels={})
        except (OSError, msgspec.DecodeError) as error:
            raise HostError("state.roots", f"what this server has accepted cannot be read: {error}") from error
        return Sequences(channels={name: seen.sequence for name, seen in memory.channels.items()})

    @staticmethod
    def _host(request: Request) -> str:
        """The host of the path, when it is the caller's own, or the caller is root. Raises AccessError."""
        host = str(request.path_params["host"])
        caller = require(request, Role.ROOT, scope=SCOPE)
        if not caller.has(Role.ROOT) and caller.name != host:
            raise AccessError("auth.denied", f"{caller.name} has no copies of {host}")
        return host


async def _work(copying: Copying) -> None:
    """Copy for ever."""
    while True:
        try:
            await asyncio.to_thread(copying.copy)
        except BacklineError as error:
            logger.error("%s", error)
        except Exception:  # a bug or a disk that nobody expected: it is tried again
            logger.exception("unexpected failure")
        await asyncio.sleep(LOOK_SECONDS)


def make_app(settings: Settings, *, access: Access) -> Application:
    """The application. Where there is nobody to bring copies to, it only keeps them."""
    copying, kept = Copying(settings), Kept(settings)
    handlers = Handlers(settings, copying, kept)

    async def well() -> None:
        if problems := await asyncio.to_thread(copying.problems) if settings.receivers else []:
            raise HostError("state.overdue", "; ".join(problems))

    def age(of: float | None) -> float:
        return _NOT_YET if of is None else of

    @contextlib.asynccontextmanager
    async def lifespan(app: Application) -> AsyncIterator[None]:
        registry = app.metrics.registry
        if settings.receivers:
            saved = Gauge("backline_state_save_age_seconds", "Age of the newest archive", registry=registry)
            saved.set_function(lambda: age(copying.save_age()))
            copied = Gauge(
                "backline_state_copy_age_seconds", "Age of the newest archive at a server", ["host"], registry=registry
            )
            for host in copying.known:
                copied.labels(host=host).set_function(functools.partial(_age_of, copying, host))
            problems = Gauge("backline_state_problems", "What an administrator has to look at", registry=registry)
            problems.set_function(lambda: len(copying.problems()))
        else:
            copies = Gauge("backline_state_copies", "Copies that are kept here", registry=registry)
            copies.set_function(lambda: len(kept.copies()))
            received = Gauge("backline_state_received_seconds", "When the last copy came", registry=registry)
            received.set_function(lambda: next((copy.received for copy in kept.copies()), _NOT_YET))
        task = asyncio.create_task(_work(copying), name="copies") if settings.receivers else None
        try:
            yield
        finally:
            if task is not None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

    known = [401, 403]
    return create_app(
        service="state",
        access=access,
        description="Archives of gw's state, and their copies on root file servers.",
        checks={"archives": well},
        lifespan=lifespan,
        routes=[
            Operation("GET", "/v1/state", handlers.state, summary="How things stand", answer=State),
            Operation("GET", "/v1/copies/{host}", handlers.copies, summary="Copies", answer=Copies, errors=known),
            Operation(
                "GET",
                "/v1/copies/{host}/{name}",
                handlers.get,
                summary="A copy",
                media_type="application/octet-stream",
                errors=[*known, 404],
            ),
            Operation(
                "PUT",
                "/v1/copies/{host}/{name}",
                handlers.put,
                summary="Keep a copy",
                query=CopyQuery,
                texts=["application/octet-stream"],
                answer=Copy,
                errors=[*known, 400, 408, 409, 413, 422, 503],
                max_body_size=settings.archive_bytes,
            ),
            Operation(
                "GET",
                "/v1/sequences",
                handlers.sequences,
                summary="Numbers of publications",
                answer=Sequences,
                errors=[*known, 503],
            ),
        ],
    )


def _age_of(copying: Copying, host: str) -> float:
    found = copying.copy_age(host)
    return _NOT_YET if found is None else found
