"""The HTTP face of a root file server on its unix socket, and what runs beside it.

Everybody on the host may look; what changes something is for root.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec
from prometheus_client import Gauge
from starlette.requests import Request

from services.common.access import Access, Role, require
from services.common.app import Application, create_app
from services.common.collecting import GcAnswer, GcRequest
from services.common.edge import Operation, read_body
from services.common.errors import BacklineError, HostError, MissingError
from services.common.feed.client import Batch, Follower
from services.common.statement import Publication
from services.common.versions import Ref, valid_role, valid_version
from services.roots.keeper import Keeper
from services.roots.schema import Holds, Root, Roots, State

logger = logging.getLogger(__name__)

TOPIC = "publications"
AGAIN_SECONDS = 10.0
"""How often netboot is compared with what is here, and what failed is tried again."""


class Worker:
    """Runs the keeper's work in a thread, one piece after the other, when there is news and now and then."""

    def __init__(self, keeper: Keeper, follower: Follower) -> None:
        self.keeper = keeper
        self.follower = follower
        self._news = asyncio.Event()
        self._publications: list[Publication] | None = None
        self._fresh: set[int] = set()

    def take(self, batch: Batch) -> None:
        """Hold the depot's publications."""
        records = [record for (topic, _), record in batch.state.items() if topic == TOPIC]
        found = [publication for record in records if (publication := _publication(record)) is not None]
        known = {each.id for each in self._publications or []}
        if self._publications is not None:
            self._fresh |= {each.id for each in found if each.id not in known}
        if self._publications is None or {each.id for each in found} != known:
            self._publications = found
            self._news.set()

    async def work(self) -> None:
        """Check, then confirm and take for ever."""
        await self._quietly(self.keeper.check)
        while True:
            self._news.clear()
            await self._quietly(self.keeper.confirm)
            if self._publications is not None:
                fresh, self._fresh = self._fresh, set()
                await self._quietly(functools.partial(self.keeper.take, self._publications, fresh=fresh))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(AGAIN_SECONDS):
                    await self._news.wait()

    async def _quietly(self, work: Callable[[], None]) -> None:
        try:
            await asyncio.to_thread(work)
        except BacklineError as error:
            logger.error("%s", error)
        except Exception:  # a bug or a disk that nobody expected: the server goes on with what it has
            logger.exception("unexpected failure")


def _publication(record: dict[str, Any]) -> Publication | None:
    try:
        return msgspec.convert(record, Publication)
    except msgspec.ValidationError as error:
        logger.warning("a publication of the depot cannot be read: %s", error)
        return None


class Handlers:
    """The handlers, around one keeper."""

    def __init__(self, keeper: Keeper) -> None:
        self.keeper = keeper

    async def roots(self, request: Request) -> Roots:  # noqa: ARG002
        """This server and its versions, the newest first."""
        return await asyncio.to_thread(self.keeper.status)

    async def stage(self, request: Request) -> Root:
        """Pull a published version now; answered when it is here, verified."""
        require(request, Role.ROOT)
        return await asyncio.to_thread(self.keeper.stage, _ref(request))

    async def hold(self, request: Request) -> Holds:
        """Hold versions beside what channels and pins want: this list, and no longer what an earlier one named.

        They are pulled in their time, and never collected; `stage` waits for one.
        """
        require(request, Role.ROOT)
        return await asyncio.to_thread(self.keeper.hold, await read_body(request, Holds))

    async def remove(self, request: Request) -> None:
        """Remove a version that nobody uses; refused with the names of those who do."""
        require(request, Role.ROOT)
        await asyncio.to_thread(self.keeper.remove, _ref(request))

    async def collect(self, request: Request) -> GcAnswer:
        """Remove every version that nobody uses and that is not among the newest."""
        require(request, Role.ROOT)
        return await asyncio.to_thread(self.keeper.collect, await read_body(request, GcRequest))


def _ref(request: Request) -> Ref:
    """Raises MissingError("roots.unknown")."""
    role, version = str(request.path_params["role"]), str(request.path_params["version"])
    if not valid_role(role) or not valid_version(version):
        raise MissingError(
            "roots.unknown", "nothing has such a name", hint="ROLE/VERSION, as `backline root list` says"
        )
    return Ref(role, version)


def make_app(keeper: Keeper, follower: Follower, *, access: Access) -> Application:
    """The application; it checks, follows, pulls and confirms while it runs."""
    handlers = Handlers(keeper)
    worker = Worker(keeper, follower)

    async def well() -> None:
        if keeper.problems:
            raise HostError("roots.problems", "; ".join(keeper.status().problems))

    @contextlib.asynccontextmanager
    async def lifespan(app: Application) -> AsyncIterator[None]:
        follower.measure(app.metrics, "depot")
        versions = Gauge("backline_roots_versions", "Versions here", ["state"], registry=app.metrics.registry)
        for state in State:
            versions.labels(state=state.value).set_function(functools.partial(keeper.count, state))
        tasks = [
            asyncio.create_task(follower.follow(worker.take), name="depot"),
            asyncio.create_task(worker.work(), name="work"),
        ]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    changing = [401, 403, 404, 409, 422, 503]
    return create_app(
        service="roots",
        access=access,
        description="Versions on a root file server: held, pulled, confirmed, removed.",
        checks={"depot": follower.fresh, "work": well},
        lifespan=lifespan,
        routes=[
            Operation("GET", "/v1/roots", handlers.roots, summary="Versions here", answer=Roots),
            Operation(
                "POST",
                "/v1/roots/{role}/{version}/stage",
                handlers.stage,
                summary="Pull a version",
                answer=Root,
                errors=changing,
            ),
            Operation(
                "DELETE",
                "/v1/roots/{role}/{version}",
                handlers.remove,
                summary="Remove a version",
                status=204,
                errors=changing,
            ),
            Operation(
                "PUT",
                "/v1/holds",
                handlers.hold,
                summary="Hold versions",
                body=Holds,
                answer=Holds,
                errors=[400, 401, 403, 413, 415, 422, 503],
            ),
            Operation(
                "POST",
                "/v1/gc",
                handlers.collect,
                summary="Remove what nobody uses",
                body=GcRequest,
                answer=GcAnswer,
                errors=[400, 413, 415, *changing],
            ),
        ],
    )
