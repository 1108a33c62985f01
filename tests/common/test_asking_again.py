"""Every service that follows a feed: one that refuses it is asked again, and what it says then counts."""

from __future__ import annotations

import ast
import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager as Block
from pathlib import Path

import pytest
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from services.common.access import Access
from services.common.app import create_app
from services.common.database import Database
from services.common.errors import AccessError, HostError
from services.common.feed import client
from services.common.feed.client import Batch, Follower
from services.common.feed.mirror import Mirror
from services.common.feed.server import Feed
from services.common.identity import ImageIdentity
from services.common.metrics import Metrics
from services.common.notify import Notifier
from services.common.serve import UnixAddress, listening, serve_on
from tests.common.feed_rig import TOPICS, Owner
from tests.common.test_mirror import Thing, until

ROOT = Path(__file__).parents[2]


class Refusing:
    """An owner that refuses everybody until it is told not to."""

    def __init__(self, owner: Owner, topics: frozenset[str] = TOPICS) -> None:
        self.feed = Feed(owner.database, owner.outbox, owner.source, topics=topics)
        self.refuses = True
        self.refused = 0

    async def subscribe(self, request: Request) -> Response:
        if self.refuses:
            self.refused += 1
            raise AccessError("auth.denied", "not you")
        return await self.feed.subscribe(request)

    @contextlib.asynccontextmanager
    async def serving(self, path: Path) -> AsyncIterator[None]:
        paths = ("/v1/feed", "/v1/feed/private")
        app = create_app(
            service="owner",
            routes=[Route(path, self.subscribe) for path in paths],
            lifespan=self.feed.run,
            identity=ImageIdentity(None, None),
        )
        stop = asyncio.Event()
        with listening([UnixAddress(path)]) as listeners:
            task = asyncio.create_task(serve_on(app, listeners, Notifier({}), grace_seconds=1, stop=stop))
            try:
                yield
            finally:
                stop.set()
                await task


def _metrics() -> Metrics:
    return Metrics(service="test", version="", role="", image="")


def _dns(folder: Path, address: str) -> tuple[Block[object], list[Follower]]:
    from msgspec.structs import replace

    from services.dns.work import make_applier, make_worker
    from tests.dns.hall import SETTINGS

    settings = replace(SETTINGS, folder=str(folder), mdb=address)
    worker = make_worker(settings, make_applier(settings))
    return worker.run(_metrics()), [worker.follower]


def _dhcp(folder: Path, address: str) -> tuple[Block[object], list[Follower]]:
    from services.dhcp.app import make_app
    from services.dhcp.apply import Applier
    from services.dhcp.kea import Kea
    from services.dhcp.schema import Settings
    from services.dhcp.store import Store

    settings = Settings(mdb=address, state=folder, kea=folder / "kea")
    store = Store(settings, Applier(settings, Kea(settings.kea)), None)
    app = make_app(store)
    return app.router.lifespan_context(app), [store.follower]


def _identity(folder: Path, address: str) -> tuple[Block[object], list[Follower]]:
    from services.identity.accounts import Own
    from services.identity.folder import Folder
    from services.identity.schema import Settings
    from services.identity.work import Worker, make_follower

    follower = make_follower(Settings(udb=address), {})
    return Worker(Folder(folder / "identity"), follower, own=Own).run(_metrics()), [follower]


def _roots(folder: Path, address: str) -> tuple[Block[object], list[Follower]]:
    from services.roots.app import make_app
    from services.roots.held import Folder
    from services.roots.keeper import Keeper
    from services.roots.schema import Settings

    settings, follower = Settings(folder=folder, depot=address), Follower(address, topics=["publications"])
    app = make_app(Keeper(settings, Folder(folder)), follower, access=Access())
    return app.router.lifespan_context(app), [follower]


def _netboot(folder: Path, address: str) -> tuple[Block[object], list[Follower]]:
    from netboot.app import make_app
    from netboot.machines import Machines
    from netboot.schema import Settings
    from netboot.store import Store

    @contextlib.asynccontextmanager
    async def run() -> AsyncIterator[None]:
        with Database(f"sqlite:///{folder}/netboot.db") as database:
            app = make_app(Store(database, Machines()), follower, Settings(), Access())
            async with app.router.lifespan_context(app):
                yield

    follower = Follower(address)
    return run(), [follower]


def _presence(folder: Path, address: str) -> tuple[Block[object], list[Follower]]:
    from services.presence.app import make_app
    from services.presence.schema import Settings
    from services.presence.work import make_work

    database = Database(f"sqlite:///{folder}/presence.db")
    work = make_work(database, Settings(mdb=address, udb=address, memory=""))
    app = make_app(work, Access())

    @contextlib.asynccontextmanager
    async def run() -> AsyncIterator[None]:
        with database:
            async with app.router.lifespan_context(app):
                yield

    return run(), [work.users.follower, work.machines.follower]


def _sso(folder: Path, address: str) -> tuple[Block[object], list[Follower]]:
    from services.sso.app import make_app, make_who
    from services.sso.schema import Settings

    who = make_who(Settings(mdb=address, presence=address, memory=str(folder)))
    app = make_app(who, Access())
    return app.router.lifespan_context(app), [who.machines.follower, who.sessions.follower]


def _firewall(folder: Path, address: str) -> tuple[Block[object], list[Follower]]:
    from services.firewall.schema import Settings
    from services.firewall.work import make_worker

    feeds = make_worker(Settings(folder=str(folder), mdb=address, udb=address, presence=address)).feeds
    return feeds.run(_metrics()), [each.follower for each in feeds.mirrors.values()]  # the rest wants a kernel


def _usermap(folder: Path, address: str) -> tuple[Block[object], list[Follower]]:
    from services.usermap.app import make_app
    from services.usermap.schema import Settings
    from services.usermap.watch import Watch

    watch = Watch(Settings(folder=str(folder), mdb=address, udb=address, presence=address, netboot=address))
    app = make_app(watch, Access())
    return app.router.lifespan_context(app), [each.follower for each in watch.feeds.mirrors.values()]


Service = Callable[[Path, str], tuple[Block[object], list[Follower]]]
SERVICES: list[Service] = [_dhcp, _dns, _firewall, _identity, _netboot, _presence, _roots, _sso, _usermap]


@pytest.mark.parametrize("service", SERVICES, ids=lambda service: service.__name__.removeprefix("_"))
def test_a_feed_that_refuses_a_service_is_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, service: Service
) -> None:
    monkeypatch.setattr(client, "_FIRST_REFUSED", 0.05)
    path, folder = tmp_path / "feed.sock", tmp_path / "service"
    folder.mkdir()

    async def run(owner: Owner) -> None:
        topics = frozenset({"machines", "users", "sessions", "publications", "switches"})
        refusing = Refusing(owner, topics)
        async with refusing.serving(path):
            block, followers = service(folder, f"unix:{path}")
            async with block:
                await until(lambda: all(each.refused is not None for each in followers))
                before = refusing.refused
                await until(lambda: refusing.refused > before)  # without anybody's doing
                refusing.refuses = False
                await until(lambda: all(each.refused is None for each in followers))
                await until(lambda: all(each.state.position is not None for each in followers))

    with Database(f"sqlite:///{tmp_path}/owner.db") as database:
        asyncio.run(run(Owner(database)))


def _of_its_parent(node: ast.Attribute) -> bool:
    """Whether a kind of follower says what its batches are, by those that every follower has."""
    return isinstance(node.value, ast.Call) and ast.unparse(node.value) == "super()"


def test_every_service_that_follows_a_feed_does_so_for_ever() -> None:
    impatient = {
        f"{file.relative_to(ROOT)}:{node.lineno}"
        for folder in ("services", "netboot")
        for file in (ROOT / folder).rglob("*.py")
        if file != ROOT / "services/common/feed/client.py"
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Attribute) and node.attr == "batches" and not _of_its_parent(node)
    }
    assert impatient == set(), "Follower.batches() ends with a refusal: follow(take) lasts"


def test_a_refusal_is_said_once_until_it_is_another_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(client, "_FIRST_REFUSED", 0.01)
    monkeypatch.setattr(client, "_LONGEST_REFUSED", 0.02)
    caplog.set_level(logging.INFO)

    async def run(owner: Owner) -> None:
        refusing = Refusing(owner)
        heard: list[Batch] = []
        async with refusing.serving(tmp_path / "feed.sock"):
            follower = Follower(f"unix:{tmp_path}/feed.sock")
            task = asyncio.create_task(follower.follow(heard.append))
            await until(lambda: refusing.refused > 5)
            assert caplog.text.count("refuses us") == 1
            refusing.refuses = False
            await until(lambda: bool(heard))
            assert caplog.text.count("is followed again") == 1
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    with Database(f"sqlite:///{tmp_path}/owner.db") as database:
        asyncio.run(run(Owner(database)))


def test_who_waits_to_ask_again_asks_at_once_when_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "_FIRST_REFUSED", 3600.0)

    async def run(owner: Owner) -> None:
        refusing = Refusing(owner)
        heard: list[Batch] = []
        async with refusing.serving(tmp_path / "feed.sock"):
            follower = Follower(f"unix:{tmp_path}/feed.sock")
            task = asyncio.create_task(follower.follow(heard.append))
            await until(lambda: follower.refused is not None)
            refusing.refuses = False
            follower.wake()
            await until(lambda: bool(heard) and follower.refused is None)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    with Database(f"sqlite:///{tmp_path}/owner.db") as database:
        asyncio.run(run(Owner(database)))


def test_what_could_not_be_taken_is_given_again_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "_FIRST_REFUSED", 0.01)

    async def run(owner: Owner) -> None:
        refusing = Refusing(owner)
        refusing.refuses = False
        heard: list[tuple[bool, list[str]]] = []

        def take(batch: Batch) -> None:
            heard.append((batch.first, sorted(key for _, key in batch.state)))
            if len(heard) < 4:
                raise HostError("disk.full", "no") if len(heard) % 2 else RuntimeError("a bug")

        async with refusing.serving(tmp_path / "feed.sock"):
            owner.put("a", "1")
            task = asyncio.create_task(Follower(f"unix:{tmp_path}/feed.sock").follow(take))
            await until(lambda: len(heard) >= 4)
            assert heard[:4] == [(True, ["a"])] * 4
            owner.put("b", "1")
            await until(lambda: heard[-1][1] == ["a", "b"])
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    with Database(f"sqlite:///{tmp_path}/owner.db") as database:
        asyncio.run(run(Owner(database)))


def test_who_comes_back_to_nothing_new_knows_it_at_once(tmp_path: Path) -> None:
    async def run(owner: Owner) -> None:
        refusing = Refusing(owner)
        refusing.refuses = False
        owner.put("a", "1")
        address, memory = f"unix:{tmp_path}/feed.sock", tmp_path / "memory.json"
        async with refusing.serving(tmp_path / "feed.sock"):
            for _ in range(2):
                mirror: Mirror[Thing] = Mirror.at(address, "things", Thing, memory=memory)
                task = asyncio.create_task(mirror.follower.follow(mirror.hear))
                async with asyncio.timeout(5):  # keep-alives are further apart
                    while not mirror.heard or not memory.exists():
                        await asyncio.sleep(0.01)
                await mirror.fresh()
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

    with Database(f"sqlite:///{tmp_path}/owner.db") as database:
        asyncio.run(run(Owner(database)))
