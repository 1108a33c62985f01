"""Presence over HTTP: the login decision, heartbeats from netboot, sessions for who may see them, the feed.

A machine shows the token of its boot, and speaks for itself alone. Heartbeats come from this host's netboot. Who is
where is for organizers, for services of this host, and for hosts with the scope `feed`; no machine is told of others.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from prometheus_client import Gauge
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from services.common.access import LOCAL, Access, Caller, Role, access_of, require
from services.common.app import Application, create_app
from services.common.edge import Operation, read_body
from services.common.errors import AccessError
from services.common.feed.server import Feed
from services.presence.models import outbox
from services.presence.schema import Answer, Beats, Ends, Logout, NewLogin, Reason, Sessions, Stage
from services.presence.store import TOPICS
from services.presence.work import At, Work

BATCH_BYTES = 8 * 1024 * 1024


class Handlers:
    """The handlers, around what is at work."""

    def __init__(self, work: Work) -> None:
        self.work = work

    async def login(self, request: Request) -> Answer:
        """Whether somebody may log in on the machine that asks, and why not."""
        at = _machine(request)
        new = await read_body(request, NewLogin)
        if new.stage is Stage.AUTH and not access_of(request).hop(request).secure:
            hint = "ask https://presence, with the hall's CA"
            raise AccessError("auth.insecure", "a password travels over HTTPS only", hint=hint)
        return await self.work.login(new, at)

    async def logout(self, request: Request) -> None:
        """Somebody's last session on the machine that asks has ended; root ends a session wherever it is."""
        caller = require(request, Role.ROOT, scope="login")
        gone = await read_body(request, Logout)
        if caller.machine is None and not caller.has(Role.ROOT):
            raise AccessError("auth.denied", "only a machine says who has left it")
        if caller.machine is not None:
            told = self.work.not_there(caller.machine, caller.origin)
            if told is not None:
                raise AccessError("auth.denied", told)
        await self.work.logout(gone.login, machine=caller.machine)

    async def sessions(self, request: Request) -> Sessions:
        """Who is logged in where."""
        reader(request)
        return self.work.sessions()

    async def heartbeats(self, request: Request) -> Ends:
        """Heartbeats of machines, in batches; an empty one says that there were none. Says who has to end what."""
        caller = require(request, Role.ROOT, Role.SERVICE)
        if caller.origin != LOCAL:
            raise AccessError("auth.denied", f"{caller.name} may not do this", hint="for: netboot of this host")
        beats = await read_body(request, Beats)
        return Ends(ends=await self.work.hear(beats.beats, trusted=caller.has(Role.ROOT)))


def reader(request: Request) -> Caller:
    """Who may see who is where. Raises AccessError of `require`."""
    caller = require(request)
    if caller.machine is None and (caller.origin == LOCAL or caller.has(Role.ORGANIZER) or "feed" in caller.scopes):
        return caller
    raise AccessError("auth.denied", f"{caller.name} may not see who is where", hint="for: organizers, scope feed")


def _machine(request: Request) -> At:
    """The machine that asks, by the token of its boot. Raises AccessError of `require`."""
    caller = require(request, scope="login")
    if caller.machine is None or caller.boot is None:
        raise AccessError("auth.denied", "only a machine asks this, with the token of its boot")
    return At(caller.machine, caller.boot, caller.origin)


class _Counted(Collector):
    """What the service has counted, for Prometheus."""

    def __init__(self, work: Work) -> None:
        self.work = work

    def collect(self) -> list[CounterMetricFamily]:
        """Logins, refusals by reason, heartbeats, and claims of heartbeats that were not believed."""
        work = self.work
        refused = CounterMetricFamily("backline_presence_refused", "Logins refused", labels=["reason"])
        for reason in Reason:
            refused.add_metric([reason.value], work.refused[reason])
        claims = CounterMetricFamily("backline_presence_unbelieved", "Claims of heartbeats", labels=["why"])
        for why in ("unproven", "elsewhere", "busy"):
            claims.add_metric([why], work.claims[why])
        return [
            refused,
            claims,
            CounterMetricFamily("backline_presence_admitted", "Logins that were allowed", value=work.admitted),
            CounterMetricFamily("backline_presence_heartbeats", "Heartbeats of machines", value=work.beats),
        ]


def make_app(work: Work, access: Access) -> Application:
    """The service's application; it follows mdb and udb while it lives."""
    its = Handlers(work)
    feed = Feed(work.store.database, outbox, work.store.source, topics=TOPICS)

    async def subscribe(request: Request) -> Response:
        reader(request)
        return await feed.subscribe(request)

    @contextlib.asynccontextmanager
    async def lifespan(app: Application) -> AsyncIterator[None]:
        await asyncio.to_thread(work.prepare)
        registry = app.metrics.registry
        registry.register(_Counted(work))
        live = Gauge("backline_presence_sessions", "Sessions", registry=registry)
        live.set_function(lambda: len(work.hall.sessions()))
        silent = Gauge("backline_presence_silence_seconds", "Since netboot passed heartbeats on", registry=registry)
        silent.set_function(lambda: work.listening.silence(work.clock()))
        users = Gauge("backline_presence_users", "Users that udb told of", registry=registry)
        users.set_function(lambda: len(work.users))
        async with feed.run(app), work.feeds.run(app.metrics):
            looking = asyncio.create_task(work.look(), name="expiry")
            try:
                yield
            finally:
                looking.cancel()
                await asyncio.gather(looking, return_exceptions=True)
                work.close()

    known = [401, 403]
    return create_app(
        service="presence",
        access=access,
        description="Who is logged in where, and whether somebody may log in.",
        checks={"feed": feed.healthy, **work.feeds.checks(), "heartbeats": work.bringing},
        lifespan=lifespan,
        routes=[
            Operation(
                "POST",
                "/v1/login",
                its.login,
                summary="May somebody log in?",
                body=NewLogin,
                answer=Answer,
                errors=[*known, 503],
            ),
            Operation(
                "POST",
                "/v1/logout",
                its.logout,
                summary="Somebody has left",
                body=Logout,
                status=204,
                errors=[*known, 503],
            ),
            Operation("GET", "/v1/sessions", its.sessions, summary="Who is where", answer=Sessions, errors=known),
            Operation(
                "POST",
                "/v1/heartbeats",
                its.heartbeats,
                summary="Machines are up",
                body=Beats,
                answer=Ends,
                errors=[*known, 503],
                max_body_size=BATCH_BYTES,
            ),
            Route("/v1/feed", subscribe),
        ],
    )
