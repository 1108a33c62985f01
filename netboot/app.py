"""The HTTP face of netboot: scripts for machines that boot, and the tables behind them.

What a machine asks without knowing anything (the scripts, hall.toml) is for everybody who reaches gw. Changing
versions, holdings, channels and pins is for role root.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from prometheus_client import Counter, Gauge
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from netboot import scripts
from netboot.aliens import Strangers
from netboot.callers import origin_of, reader, writer
from netboot.committer import Committer
from netboot.machines import Machines
from netboot.models import outbox
from netboot.schema import (
    Aliens,
    Boot,
    Boots,
    BootsQuery,
    Channel,
    ChannelHistory,
    Channels,
    Holding,
    Holdings,
    Move,
    NewPin,
    NewPointer,
    NewVersion,
    Outcome,
    Pin,
    PinKind,
    Pins,
    Settings,
    Version,
    Versions,
)
from netboot.scripts import Place
from netboot.store import TOPICS, Asked, Store
from services.common.access import Access
from services.common.app import Application, create_app
from services.common.edge import Operation, read_body, read_query
from services.common.errors import BacklineError, HostError, MissingError, UsageError
from services.common.feed.client import Follower
from services.common.feed.server import Feed
from services.common.names import normal_mac

logger = logging.getLogger(__name__)

REVERT_SECONDS = 5.0
REFUSED_SECONDS = 10.0


class Netboot:
    """The handlers, around one store."""

    def __init__(self, store: Store, machines: Machines, settings: Settings) -> None:
        self.store = store
        self.machines = machines
        self.settings = settings
        self.strangers = Strangers(store.clock)
        self.committer = Committer(store.boot)
        self._gateways = [(IPv4Network(net), gw) for net, _, gw in (t.partition("=") for t in settings.gateways)]
        self.answers: Counter | None = None

    def place(self, address: str) -> Place:
        """The hall as the machine at `address` reaches it. Raises HostError("netboot.gateway")."""
        with contextlib.suppress(ValueError):
            for network, gateway in self._gateways:
                if IPv4Address(address) in network:
                    return Place(self.settings.hall, gateway)
        if not self._gateways:
            raise HostError("netboot.gateway", "no gateway is set", hint="setting netboot.gateways")
        return Place(self.settings.hall, self._gateways[0][1])

    # For machines

    async def bootstrap(self, request: Request) -> Response:
        """The iPXE script that every machine begins with."""
        place = self.place(origin_of(request))
        return _script(scripts.bootstrap(place, self.machines.switches, [*self.machines.rooms, "other"]))

    async def boot(self, request: Request) -> Response:
        """The iPXE script of one machine: one version, or why there is none."""
        try:
            mac = normal_mac(request.path_params["mac"])
        except ValueError as error:
            raise UsageError("request.path", str(error)) from error
        origin = origin_of(request)
        machine = self.machines.by_mac(mac)
        if machine is None:
            if not self.machines.ready:
                self._count(Outcome.NOT_READY)
                return _script(scripts.refusal(Outcome.NOT_READY, ""))
            self.strangers.seen(mac, origin)
            self._count(Outcome.UNKNOWN)
            return _script(scripts.unknown())
        answer = await self.committer.answer(Asked(machine, origin))
        machine, decision = answer.machine, answer.decision
        self._count(decision.outcome)
        if not decision.boots:
            return _script(
                scripts.refusal(decision.outcome, decision.detail, hostname=machine.hostname, more=decision.passed)
            )
        try:
            return _script(scripts.boot(machine, decision, answer.boot, self.place(machine.ip)))
        except ValueError as error:  # what got past every check before: shown, never run
            logger.error("no script for %s: %s", machine.hostname, error)
            return _script(scripts.refusal(Outcome.BAD_RECORD, str(error), hostname=machine.hostname))

    async def hall_toml(self, request: Request) -> Response:  # noqa: ARG002
        """The hall.toml of this hall, which holds no secret."""
        try:
            content = await asyncio.to_thread(Path(self.settings.hall_toml).read_bytes)
        except OSError as error:
            raise MissingError("hall.missing", f"there is no hall.toml here: {error.strerror}") from error
        return Response(content, media_type="application/toml")

    def _count(self, outcome: Outcome) -> None:
        if self.answers is not None:
            self.answers.labels(outcome=outcome.value).inc()

    # Versions, holdings, channels, pins

    async def versions(self, request: Request) -> Versions:  # noqa: ARG002
        """Every version that netboot knows, the newest first."""
        return Versions(versions=await asyncio.to_thread(self.store.versions))

    async def add_version(self, request: Request) -> Version:
        """Make a version known; the same one again changes nothing."""
        actor = writer(request)
        return await asyncio.to_thread(self.store.add_version, actor, await read_body(request, NewVersion))

    async def remove_version(self, request: Request) -> None:
        """Forget a version that no channel, pin, server or running machine uses."""
        writer(request)
        await asyncio.to_thread(self.store.remove_version, request.path_params["version"])

    async def holdings(self, request: Request) -> Holdings:  # noqa: ARG002
        """Which root file server has confirmed which version."""
        return Holdings(holdings=await asyncio.to_thread(self.store.holdings))

    async def hold(self, request: Request) -> Holding:
        """A root file server holds a version, whole and verified."""
        writer(request)
        rfs, version = int(request.path_params["rfs"]), request.path_params["version"]
        if rfs > 9999:
            raise UsageError("request.path", f"there is no rfs{rfs}")
        return await asyncio.to_thread(self.store.hold, rfs, version)

    async def release(self, request: Request) -> None:
        """A root file server holds a version no longer."""
        writer(request)
        rfs, version = int(request.path_params["rfs"]), request.path_params["version"]
        if rfs > 9999:
            raise UsageError("request.path", f"there is no rfs{rfs}")
        await asyncio.to_thread(self.store.release, rfs, version)

    async def channels(self, request: Request) -> Channels:  # noqa: ARG002
        """Every channel's pointer."""
        return Channels(channels=await asyncio.to_thread(self.store.channels))

    async def set_channel(self, request: Request) -> Channel:
        """Move a channel's pointer, for good or until it is not committed in time."""
        actor = writer(request)
        new = await read_body(request, NewPointer)
        return await asyncio.to_thread(self.store.set_channel, actor, request.path_params["name"], new)

    async def commit_channel(self, request: Request) -> Channel:
        """Keep what a channel points to."""
        actor = writer(request)
        move = await read_body(request, Move)
        return await asyncio.to_thread(self.store.commit_channel, actor, request.path_params["name"], move)

    async def revert_channel(self, request: Request) -> Channel:
        """Point a channel to what it pointed to before."""
        actor = writer(request)
        move = await read_body(request, Move)
        return await asyncio.to_thread(self.store.revert_channel, actor, request.path_params["name"], move)

    async def channel_history(self, request: Request) -> ChannelHistory:
        """Who moved a channel, when and why; the newest first."""
        changes = await asyncio.to_thread(self.store.channel_history, request.path_params["name"])
        return ChannelHistory(changes=changes)

    async def pins(self, request: Request) -> Pins:  # noqa: ARG002
        """Pins of rooms and types; a machine's own is in mdb."""
        return Pins(pins=await asyncio.to_thread(self.store.pins))

    async def pin(self, request: Request) -> Pin:
        """Have a room or type boot one version, whatever its channels say."""
        actor = writer(request)
        new = await read_body(request, NewPin)
        return await asyncio.to_thread(self.store.pin, actor, _kind(request), request.path_params["value"], new)

    async def unpin(self, request: Request) -> None:
        """Take a pin away."""
        writer(request)
        await asyncio.to_thread(self.store.unpin, _kind(request), request.path_params["value"])

    # Boots

    async def boots(self, request: Request) -> Boots:
        """What machines were answered, and what became of it; the newest first."""
        reader(request)
        asked = read_query(request, BootsQuery)
        machine = None if asked.machine is None else self._find(asked.machine)
        return Boots(boots=await asyncio.to_thread(self.store.boots, machine=machine, limit=asked.limit))

    async def one_boot(self, request: Request) -> Boot:
        """One boot by its id."""
        reader(request)
        return await asyncio.to_thread(self.store.one_boot, request.path_params["id"])

    async def aliens(self, request: Request) -> Aliens:
        """MAC addresses that asked and are unknown, the newest first."""
        reader(request)
        return Aliens(aliens=self.strangers.all())

    def _find(self, text: str) -> int:
        found = self.machines.find(text)
        if found is None:
            raise MissingError("machine.unknown", f"mdb has told netboot of no machine {text}")
        return found.id


def _kind(request: Request) -> PinKind:
    try:
        return PinKind(request.path_params["kind"])
    except ValueError as error:
        raise MissingError("pin.kind", "there are pins of rooms and types", hint="room or type") from error


def _script(text: str) -> Response:
    return Response(text, media_type=scripts.TYPE, headers={"cache-control": "no-store"})


def make_app(store: Store, machines: Machines, follower: Follower, settings: Settings, access: Access) -> Application:
    """netboot's application; it follows mdb while it runs."""
    netboot = Netboot(store, machines, settings)
    feed = Feed(store.database, outbox, store.source, topics=TOPICS)

    @contextlib.asynccontextmanager
    async def lifespan(app: Application) -> AsyncIterator[None]:
        await asyncio.to_thread(store.prepare)
        remembered = await asyncio.to_thread(follower.recall)
        if remembered is not None:  # mdb may be down: what it said last is better than nothing
            machines.take(remembered)
        follower.measure(app.metrics, "mdb")
        netboot.answers = Counter("backline_netboot_answers", "Answers", ["outcome"], registry=app.metrics.registry)
        unreadable = Gauge("backline_netboot_unreadable", "Records of mdb left out", registry=app.metrics.registry)
        unreadable.set_function(lambda: len(machines.unreadable))
        async with feed.run(app), asyncio.TaskGroup() as tasks:
            running = [tasks.create_task(_follow(follower, machines)), tasks.create_task(_revert(store))]
            try:
                yield
            finally:
                for task in running:
                    task.cancel()

    changing = [401, 403, 404, 409, 422]
    return create_app(
        service="netboot",
        access=access,
        description="What machines boot, from where, and why: scripts, versions, channels, boots.",
        checks={"feed": feed.healthy, "mdb": follower.fresh},
        lifespan=lifespan,
        routes=[
            Operation("GET", "/bootstrap", netboot.bootstrap, summary="The first script", media_type=scripts.TYPE),
            Operation(
                "GET", "/boot/{mac}", netboot.boot, summary="A machine's script", media_type=scripts.TYPE, errors=[400]
            ),
            Route("/boot/{mac}/", netboot.boot, methods=["GET"]),
            Operation(
                "GET",
                "/hall.toml",
                netboot.hall_toml,
                summary="hall.toml",
                media_type="application/toml",
                errors=[404],
            ),
            Operation("GET", "/v1/versions", netboot.versions, summary="Versions", answer=Versions),
            Operation(
                "POST",
                "/v1/versions",
                netboot.add_version,
                summary="Make a version known",
                body=NewVersion,
                answer=Version,
                errors=changing,
            ),
            Operation(
                "DELETE",
                "/v1/versions/{version}",
                netboot.remove_version,
                summary="Forget a version",
                status=204,
                errors=changing,
            ),
            Operation("GET", "/v1/holdings", netboot.holdings, summary="Who holds what", answer=Holdings),
            Operation(
                "PUT",
                "/v1/holdings/{rfs:int}/{version}",
                netboot.hold,
                summary="A server holds a version",
                answer=Holding,
                errors=changing,
            ),
            Operation(
                "DELETE",
                "/v1/holdings/{rfs:int}/{version}",
                netboot.release,
                summary="A server holds it no longer",
                status=204,
                errors=changing,
            ),
            Operation("GET", "/v1/channels", netboot.channels, summary="Channels", answer=Channels),
            Operation(
                "PUT",
                "/v1/channels/{name}",
                netboot.set_channel,
                summary="Move a channel",
                body=NewPointer,
                answer=Channel,
                errors=changing,
            ),
            Operation(
                "POST",
                "/v1/channels/{name}/commit",
                netboot.commit_channel,
                summary="Commit a channel",
                body=Move,
                answer=Channel,
                errors=changing,
            ),
            Operation(
                "POST",
                "/v1/channels/{name}/revert",
                netboot.revert_channel,
                summary="Take a channel back",
                body=Move,
                answer=Channel,
                errors=changing,
            ),
            Operation(
                "GET",
                "/v1/channels/{name}/history",
                netboot.channel_history,
                summary="History of a channel",
                answer=ChannelHistory,
                errors=[404],
            ),
            Operation("GET", "/v1/pins", netboot.pins, summary="Pins", answer=Pins),
            Operation(
                "PUT",
                "/v1/pins/{kind}/{value}",
                netboot.pin,
                summary="Pin a room or type",
                body=NewPin,
                answer=Pin,
                errors=changing,
            ),
            Operation(
                "DELETE", "/v1/pins/{kind}/{value}", netboot.unpin, summary="Unpin it", status=204, errors=changing
            ),
            Operation(
                "GET",
                "/v1/boots",
                netboot.boots,
                summary="Boots",
                query=BootsQuery,
                answer=Boots,
                errors=[401, 403, 404],
            ),
            Operation("GET", "/v1/boots/{id}", netboot.one_boot, summary="A boot", answer=Boot, errors=[401, 403, 404]),
            Operation(
                "GET", "/v1/aliens", netboot.aliens, summary="Unknown machines", answer=Aliens, errors=[401, 403]
            ),
            Route("/v1/feed", feed.subscribe),
        ],
    )


async def _follow(follower: Follower, machines: Machines) -> None:
    """Hold what mdb says. A refusal is no reason to end: machines boot from what is known, and /healthz says it."""
    while True:
        try:
            async for batch in follower.batches():
                if batch.first:
                    machines.take(batch.state)
                else:
                    machines.follow(batch.changes)
        except BacklineError as error:
            logger.error("mdb refuses its feed: %s", error)
        await asyncio.sleep(REFUSED_SECONDS)


async def _revert(store: Store) -> None:
    """Write down what has been taken back by not being committed; it counts already before that."""
    while True:
        await asyncio.sleep(REVERT_SECONDS)
        for name in await asyncio.to_thread(store.revert_due):
            logger.warning("channel %s was not committed in time: it points to its previous version again", name)
