"""netboot's application: its routes, and what runs beside them.

What a machine asks without having shown who it is (the scripts, hall.toml, registration, its credentials) is in
`answers`; what administrators ask and change is in `management`.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import logging
from collections.abc import AsyncIterator

from prometheus_client import CollectorRegistry, Gauge
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from netboot import scripts
from netboot.answers import LOG_BYTES, Answers
from netboot.boots import TOPICS, Boots
from netboot.callers import subscriber
from netboot.heartbeats import FLUSH_SECONDS, Heartbeats
from netboot.living import Living
from netboot.machines import Machines
from netboot.management import Management
from netboot.models import outbox
from netboot.passing import Passing
from netboot.schema import (
    Aliens,
    Boot,
    BootlogQuery,
    Bootlogs,
    BootsQuery,
    Channel,
    ChannelHistory,
    Channels,
    Credentials,
    Extension,
    Heartbeat,
    Holding,
    Holdings,
    Leases,
    Move,
    NewOrder,
    NewPin,
    NewPointer,
    NewQuarantine,
    NewVersion,
    Orders,
    Pin,
    Pins,
    Quarantine,
    Quarantines,
    RegisterQuery,
    Report,
    Rollback,
    Seats,
    SeatsQuery,
    Settings,
    Version,
    Versions,
    VersionUsers,
)
from netboot.schema import Boots as BootsAnswer
from netboot.store import Store
from netboot.why import Why
from netboot.why_schema import WhyAnswer
from services.common.access import Access
from services.common.app import Application, create_app
from services.common.edge import Operation
from services.common.errors import BacklineError, MissingError
from services.common.feed.client import Batch, Follower
from services.common.feed.server import Feed

logger = logging.getLogger(__name__)

REVERT_SECONDS = 5.0
PRUNE_SECONDS = 600.0
FEED_SECONDS = 0.2
MANY = 100

_CHANGING = [401, 403, 404, 409, 422]
_READING = [401, 403, 404]


def make_app(store: Store, follower: Follower, settings: Settings, access: Access) -> Application:
    """netboot's application; it follows mdb while it runs."""
    boots = Boots(store, claim_seconds=settings.claim_seconds)
    registry = CollectorRegistry()
    answers = Answers(boots, settings, access.tokens, registry)
    why = Why(boots, answers.strangers, follower, dhcp=settings.dhcp)
    passing = Passing(settings.presence) if settings.presence else None
    heartbeats = Heartbeats(boots, passing)
    management = Management(boots, answers.strangers, why, domain=settings.domain)
    feed = Feed(store.database, outbox, boots.source, topics=TOPICS, pause=FEED_SECONDS)

    async def fresh() -> None:
        await follower.fresh()
        if not store.machines.heard:  # what is remembered may be older than the follower is
            raise MissingError("feed.stale", f"{follower.endpoint} has not been heard since netboot started")

    async def subscribe(request: Request) -> Response:
        subscriber(request)
        return await feed.subscribe(request)

    @contextlib.asynccontextmanager
    async def lifespan(app: Application) -> AsyncIterator[None]:
        await asyncio.to_thread(store.prepare)
        remembered = await asyncio.to_thread(follower.recall)
        if remembered is not None:  # mdb may be down: what it said last is better than nothing
            store.machines.take(remembered)
        follower.measure(app.metrics, "mdb")
        unreadable = Gauge("backline_netboot_unreadable", "Records of mdb left out", registry=app.metrics.registry)
        unreadable.set_function(lambda: len(store.machines.unreadable))
        known = Gauge("backline_netboot_machines", "Machines that mdb told of", registry=app.metrics.registry)
        known.set_function(lambda: len(store.machines))
        app.metrics.registry.register(registry)
        unpassed = Gauge(
            "backline_netboot_unpassed", "Heartbeats that wait for presence", registry=app.metrics.registry
        )
        unpassed.set_function(lambda: len(passing or ()))
        async with feed.run(app):
            tasks = [
                asyncio.create_task(follower.follow(functools.partial(_take, store.machines)), name="mdb"),
                asyncio.create_task(_revert(store), name="revert"),
                asyncio.create_task(_prune(boots), name="prune"),
                asyncio.create_task(_flush(heartbeats), name="heartbeats"),
            ]
            if passing is not None:
                tasks.append(asyncio.create_task(passing.run(), name="presence"))
            try:
                yield
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
                await asyncio.to_thread(heartbeats.flush)

    return create_app(
        service="netboot",
        access=access,
        description="What machines boot, from where, and why: scripts, versions, channels, boots.",
        checks={"feed": feed.healthy, "mdb": fresh},
        lifespan=lifespan,
        routes=[
            *_for_machines(answers),
            *_for_administrators(management),
            *_of_the_living(Living(heartbeats)),
            Route("/v1/feed", subscribe),
        ],
    )


def _for_machines(answers: Answers) -> list[Route]:
    script = scripts.TYPE
    return [
        Operation("GET", "/bootstrap", answers.bootstrap, summary="The first script", media_type=script),
        Operation("GET", "/boot/{mac}", answers.boot, summary="A machine's script", media_type=script, errors=[400]),
        Route("/boot/{mac}/", answers.boot, methods=["GET"]),
        Operation(
            "GET",
            "/register",
            answers.register,
            summary="Register a machine",
            query=RegisterQuery,
            media_type=script,
        ),
        Operation(
            "GET", "/hall.toml", answers.hall_toml, summary="hall.toml", media_type="application/toml", errors=[404]
        ),
        Operation(
            "POST",
            "/bootlog",
            answers.bootlog,
            summary="A failing initrd's log",
            query=BootlogQuery,
            status=204,
            errors=[404, 408, 413, 429],
            max_body_size=LOG_BYTES,
        ),
        Operation(
            "POST",
            "/v1/boots/{id}/credentials",
            answers.claim,
            summary="A boot's credentials, once",
            answer=Credentials,
            errors=[403, 404, 409, 410, 429, 503],
        ),
        Operation(
            "PUT",
            "/v1/boots/{id}/report",
            answers.report,
            summary="How far a boot is",
            body=Report,
            status=204,
            errors=_READING,
        ),
    ]


def _for_administrators(its: Management) -> list[Route]:
    changing, reading = _CHANGING, _READING
    return [
        Operation("GET", "/v1/versions", its.versions, summary="Versions", answer=Versions),
        Operation(
            "POST",
            "/v1/versions",
            its.add_version,
            summary="Make a version known",
            body=NewVersion,
            answer=Version,
            errors=changing,
        ),
        Operation(
            "DELETE",
            "/v1/versions/{version}",
            its.remove_version,
            summary="Forget a version",
            status=204,
            errors=changing,
        ),
        Operation(
            "GET",
            "/v1/versions/{version}/users",
            its.users,
            summary="Who uses a version",
            answer=VersionUsers,
            errors=[401, 403, 404, 503],
        ),
        Operation("GET", "/v1/holdings", its.holdings, summary="Who holds what", answer=Holdings),
        Operation(
            "PUT",
            "/v1/holdings/{rfs:int}/{version}",
            its.hold,
            summary="A server holds a version",
            answer=Holding,
            errors=[400, *changing],
        ),
        Operation(
            "DELETE",
            "/v1/holdings/{rfs:int}/{version}",
            its.release,
            summary="A server holds it no longer",
            status=204,
            errors=[400, *changing],
        ),
        Operation("GET", "/v1/channels", its.channels, summary="Channels", answer=Channels),
        Operation(
            "POST",
            "/v1/channels/{name}/switch",
            its.switch_channel,
            summary="Move a channel",
            body=NewPointer,
            answer=Channel,
            errors=changing,
        ),
        Operation(
            "POST",
            "/v1/channels/{name}/extend",
            its.extend_channel,
            summary="More time for a trial",
            body=Extension,
            answer=Channel,
            errors=changing,
        ),
        Operation(
            "POST",
            "/v1/channels/{name}/commit",
            its.commit_channel,
            summary="Commit a channel",
            body=Move,
            answer=Channel,
            errors=changing,
        ),
        Operation(
            "POST",
            "/v1/channels/{name}/rollback",
            its.rollback_channel,
            summary="Take a channel back",
            body=Rollback,
            answer=Channel,
            errors=changing,
        ),
        Operation(
            "GET",
            "/v1/channels/{name}/history",
            its.channel_history,
            summary="History of a channel",
            answer=ChannelHistory,
            errors=[404],
        ),
        Operation("GET", "/v1/quarantine", its.quarantines, summary="Versions in quarantine", answer=Quarantines),
        Operation(
            "PUT",
            "/v1/quarantine/{version}",
            its.quarantine,
            summary="Put a version into quarantine",
            body=NewQuarantine,
            answer=Quarantine,
            errors=changing,
        ),
        Operation(
            "DELETE",
            "/v1/quarantine/{version}",
            its.lift_quarantine,
            summary="Take it out",
            status=204,
            errors=changing,
        ),
        Operation("GET", "/v1/pins", its.pins, summary="Pins", answer=Pins),
        Operation(
            "PUT",
            "/v1/pins/{kind}/{value}",
            its.pin,
            summary="Pin a room or type",
            body=NewPin,
            answer=Pin,
            errors=changing,
        ),
        Operation("DELETE", "/v1/pins/{kind}/{value}", its.unpin, summary="Unpin it", status=204, errors=changing),
        Operation(
            "GET", "/v1/boots", its.list_boots, summary="Boots", query=BootsQuery, answer=BootsAnswer, errors=reading
        ),
        Operation("GET", "/v1/boots/{id}", its.one_boot, summary="A boot", answer=Boot, errors=reading),
        Operation(
            "GET",
            "/v1/bootlogs",
            its.bootlogs,
            summary="Logs of failed boots",
            query=BootsQuery,
            answer=Bootlogs,
            errors=reading,
        ),
        Operation("GET", "/v1/aliens", its.aliens, summary="Unknown machines", answer=Aliens, errors=[401, 403]),
        Operation("GET", "/v1/hostkeys", its.hostkeys, summary="known_hosts of machines", media_type="text/plain"),
        Operation(
            "GET",
            "/v1/why/{name}",
            its.why,
            summary="Why a machine boots what it boots",
            answer=WhyAnswer,
            errors=reading,
        ),
    ]


def _of_the_living(its: Living) -> list[Route]:
    return [
        Operation(
            "PUT",
            "/v1/boots/{id}/heartbeat",
            its.heartbeat,
            summary="A machine is up",
            body=Heartbeat,
            answer=Orders,
            errors=_READING,
        ),
        Operation("GET", "/v1/leases", its.leases, summary="Leases", answer=Leases, errors=[401, 403]),
        Operation(
            "DELETE", "/v1/leases/{machine}", its.mark_off, summary="Mark a machine off", status=204, errors=_READING
        ),
        Operation(
            "GET",
            "/v1/seats",
            its.seats,
            summary="Machines, and how they are",
            query=SeatsQuery,
            answer=Seats,
            errors=[401, 403],
        ),
        Operation(
            "POST",
            "/v1/orders",
            its.order,
            summary="Ask machines to restart",
            body=NewOrder,
            status=204,
            errors=[401, 403],
        ),
    ]


def _take(machines: Machines, batch: Batch) -> None:
    """Hold what mdb says.

    Ten thousand records are half a million objects in which nothing refers back: Python's collector shall not walk them
    (gc.freeze), which would stop every answer for a tenth of a second.
    """
    if batch.first:
        machines.take(batch.state)
        machines.heard = True
    else:
        machines.follow(batch.changes)
    if batch.first or len(batch.changes) > MANY:
        gc.freeze()


async def _revert(store: Store) -> None:
    """Write down what has been taken back by not being committed; it counts already before that."""
    while True:
        await asyncio.sleep(REVERT_SECONDS)
        try:
            for name in await asyncio.to_thread(store.revert_due):
                logger.warning("channel %s was not committed in time: it points to its previous version again", name)
        except BacklineError as error:
            logger.error("channels cannot be looked at: %s", error)


async def _flush(heartbeats: Heartbeats) -> None:
    """Write down who is alive; what a kill of netboot loses is half a minute of it, of 24 hours that a lease lasts."""
    while True:
        await asyncio.sleep(FLUSH_SECONDS)
        try:
            await asyncio.to_thread(heartbeats.flush)
        except BacklineError as error:
            logger.error("signs of life cannot be written down: %s", error)


async def _prune(boots: Boots) -> None:
    while True:
        await asyncio.sleep(PRUNE_SECONDS)
        try:
            if count := await asyncio.to_thread(boots.prune):
                logger.info("%s old boots dropped", count)
        except BacklineError as error:
            logger.error("old boots cannot be dropped: %s", error)
