"""The depot's application: versions come in, deltas are made, statements are published, receivers say how far they are.

Everybody in the hall may see what is here. Bringing and publishing is for root (by user, or by session), and what is
published counts only with a signature: the depot itself has no key. Files are nginx's to serve.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator

from prometheus_client import Gauge
from starlette.requests import Request
from starlette.routing import Route

from netboot.client import Netboot
from netboot.schema import NewVersion
from services.common import manifest as manifests
from services.common import signing, statement
from services.common.access import Access, Role, require
from services.common.app import Application, create_app
from services.common.collecting import GcAnswer, GcRequest
from services.common.edge import Operation, pour, read_body, read_query
from services.common.errors import (
    AccessError,
    BacklineError,
    BusyError,
    HostError,
    IntegrityError,
    MissingError,
)
from services.common.feed.server import Feed
from services.common.names import label_problem
from services.common.serve import stopping
from services.common.statement import Statement
from services.common.versions import Ref, human
from services.depot.collecting import Collector
from services.depot.deltas import Deltas, Job, Stopped
from services.depot.files import Files, Whole, ref_of
from services.depot.models import outbox
from services.depot.schema import (
    LARGEST,
    PIECE_BYTES,
    ChangedQuery,
    Channel,
    NewProgress,
    NewPublication,
    NewUpload,
    PieceQuery,
    Progress,
    Publication,
    Publications,
    PublicationsQuery,
    Received,
    Settings,
    Upload,
    Version,
    Versions,
    WaitQuery,
)
from services.depot.store import TOPIC, Store

logger = logging.getLogger(__name__)

SCOPE = "rfs"
"""The scope of a receiver's certificate."""
TIDY_SECONDS = 3600.0
MANIFEST_BYTES = 9 * 1024 * 1024

_CHANGING = [400, 401, 403, 404, 409, 422, 503]


class Api:
    """The handlers, and the one worker that makes deltas."""

    def __init__(self, store: Store, deltas: Deltas, settings: Settings) -> None:
        self.store = store
        self.files: Files = store.files
        self.deltas = deltas
        self.settings = settings
        self.collector = Collector(store, netboot=settings.netboot, keep=settings.keep, busy=self._busy)
        self._jobs: asyncio.Queue[Job] = asyncio.Queue()
        self._pending: dict[str, int] = {}
        self._queued: set[Job] = set()
        self._news = asyncio.Event()  # set, and replaced, whenever a delta is made or a receiver speaks

    # Versions

    async def versions(self, request: Request) -> Versions:  # noqa: ARG002
        """Every version that is here as a whole, by role, the newest arrival first."""
        return Versions(versions=await asyncio.to_thread(lambda: [self._view(one) for one in self.files.versions()]))

    async def version(self, request: Request) -> Version:
        """One version, and the deltas to it."""
        ref = ref_of(request.path_params["role"], request.path_params["version"])
        deadline = time.monotonic() + read_query(request, WaitQuery).wait
        while True:
            news = self._news
            view = self._view(await asyncio.to_thread(self.files.need, ref))
            if not view.pending or not await self._more(request, news, deadline):
                return view

    async def begin(self, request: Request) -> Upload:
        """Announce a version by its signed manifest. The answer says which bytes are still to be brought."""
        require(request, Role.ROOT)
        new = await read_body(request, NewUpload)
        ref = ref_of(new.role, new.version)
        data = new.manifest.encode()
        signatures = await asyncio.to_thread(self._verified, data, new.signatures)
        missing = await asyncio.to_thread(self._begin, ref, data, signatures)
        return Upload(role=ref.role, version=ref.version, complete=missing is None, missing=missing or {})

    def _verified(self, data: bytes, given: list[str]) -> dict[str, bytes]:
        """The good ones of the signatures over a manifest, by signer. Raises IntegrityError("depot.signature")."""
        signers, good = self.store.signers(), {}
        space = manifests.SIGNATURE_NAMESPACE
        statement.signed(data, given, signers, namespace=space, code="depot.signature")
        for text in given:
            with contextlib.suppress(IntegrityError):
                good[signing.verify(data, text.encode(), signers, space)] = text.encode()
        return good

    async def put(self, request: Request) -> Received:
        """A piece of a file, from `offset` on: as much as is here. What was sent before a cut is kept."""
        require(request, Role.ROOT)
        name = request.path_params["name"]
        ref = ref_of(request.path_params["role"], request.path_params["version"])
        offset = read_query(request, PieceQuery).offset
        receiving = self.files.receive(ref, name, offset)
        sink = await asyncio.to_thread(receiving.__enter__)
        try:
            await pour(request, sink.write)
        except BaseException as error:
            if not await asyncio.to_thread(receiving.__exit__, type(error), error, error.__traceback__):
                raise
        else:
            await asyncio.to_thread(receiving.__exit__, None, None, None)
        return Received(name=name, bytes=sink.size)

    async def complete(self, request: Request) -> Version:
        """Verify what was brought against the manifest, and put the version in its place, as a whole."""
        caller = require(request, Role.ROOT)
        ref = ref_of(request.path_params["role"], request.path_params["version"])
        whole = await asyncio.to_thread(self.files.complete, ref)
        logger.info("%s is here, brought by %s", ref, caller.name)
        for job in await asyncio.to_thread(self.deltas.missing, whole):
            self._enqueue(job)
        return self._view(whole)

    async def remove(self, request: Request) -> None:
        """Delete a version that is not the last one of any channel."""
        caller = require(request, Role.ROOT)
        ref = ref_of(request.path_params["role"], request.path_params["version"])
        await asyncio.to_thread(self._remove, ref)
        logger.info("%s was deleted by %s", ref, caller.name)

    def _remove(self, ref: Ref) -> None:
        with self.store.no_publishing():
            if channels := self.store.published(ref):
                message = f"{ref} is what {', '.join(channels)} got last"
                raise BusyError("depot.published", message, hint="publish another version first")
            self.files.remove(ref)

    async def collect(self, request: Request) -> GcAnswer:
        """Delete every version that nobody needs and that is not among the newest."""
        require(request, Role.ROOT)
        return await asyncio.to_thread(self.collector.collect, await read_body(request, GcRequest))

    def _make_room(self) -> bool:
        """Collect, as often as there is a lack of room; whether anything came of it."""
        answer = self.collector.collect(GcRequest())
        if answer.removed:
            logger.warning("room was short: %s deleted, %s freed", ", ".join(answer.removed), human(answer.bytes))
        return bool(answer.removed)

    def _begin(self, ref: Ref, data: bytes, signatures: dict[str, bytes]) -> dict[str, int] | None:
        try:
            return self.files.begin(ref, data, signatures)
        except HostError as error:
            if error.code != "depot.full" or not self._make_room():
                raise
            return self.files.begin(ref, data, signatures)

    def _busy(self) -> set[Ref]:
        return {ref for job in list(self._queued) for ref in (job.old, job.new)}

    def _view(self, whole: Whole) -> Version:
        return Version(
            role=whole.ref.role,
            version=whole.ref.version,
            manifest_sha256=whole.manifest_sha256,
            root_hash=whole.manifest.root_hash,
            bytes=whole.size,
            files={name: artefact.size for name, artefact in whole.files.items()},
            added=whole.added,
            deltas=self.deltas.of(whole.ref),
            pending=self._pending.get(str(whole.ref), 0),
        )

    # Publications

    async def channel(self, request: Request) -> Channel:
        """What was published on a channel, and the number of its next publication."""
        name = request.path_params["name"]
        if (problem := label_problem(name)) is not None:
            raise MissingError("publish.channel", problem)
        return await asyncio.to_thread(self.store.channel, name)

    async def publish(self, request: Request) -> Publication:
        """Publish a version: a statement that somebody whom hall.toml trusts has signed."""
        actor = require(request, Role.ROOT).name
        new = await read_body(request, NewPublication)
        made = await asyncio.to_thread(self.store.publish, actor, new, self._announce)
        logger.info("publication %s by %s, signed by %s", made.id, actor, ", ".join(made.signed_by))
        return made

    def _announce(self, whole: Whole, said: Statement) -> None:
        """Make netboot know a version that machines can boot."""
        if "vmlinuz" not in whole.files:
            return
        with Netboot(self.settings.netboot) as netboot:
            netboot.add_version(
                NewVersion(version=said.version, role=said.role, root_hash=whole.manifest.root_hash, size=whole.size)
            )

    async def publications(self, request: Request) -> Publications:
        """Publications, the newest first."""
        asked = read_query(request, PublicationsQuery)
        found = await asyncio.to_thread(
            lambda: self.store.publications(channel=asked.channel, since=asked.since, limit=asked.limit)
        )
        return Publications(publications=found)

    async def publication(self, request: Request) -> Publication:
        """One publication, and how far its receivers are."""
        asked = read_query(request, ChangedQuery)
        deadline = time.monotonic() + asked.wait
        while True:
            news = self._news
            found = await asyncio.to_thread(self.store.publication, _number(request))
            if asked.revision != found.revision or not await self._more(request, news, deadline):
                return found

    async def progress(self, request: Request) -> Progress:
        """A receiver says how far it is: the host itself, by its certificate, or root."""
        host = request.path_params["host"]
        caller = require(request, Role.ROOT, scope=SCOPE)
        if not caller.has(Role.ROOT) and caller.name != host:
            raise AccessError("auth.denied", f"{caller.name} does not speak for {host}")
        said = await asyncio.to_thread(
            self.store.progress, _number(request), host, await read_body(request, NewProgress)
        )
        self._tell()
        return said

    # Waiting, and making deltas

    async def _more(self, request: Request, news: asyncio.Event, deadline: float) -> bool:
        """Wait for news until the deadline, or until the service stops; False when there is none."""
        waits = [asyncio.ensure_future(event.wait()) for event in (news, stopping(request))]
        try:
            await asyncio.wait(
                waits, timeout=max(0.0, deadline - time.monotonic()), return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            for each in waits:
                each.cancel()
        return news.is_set() and not stopping(request).is_set()

    def _tell(self) -> None:
        news, self._news = self._news, asyncio.Event()
        news.set()

    def _enqueue(self, job: Job) -> None:
        if job in self._queued:
            return
        self._queued.add(job)
        key = str(job.new)
        self._pending[key] = self._pending.get(key, 0) + 1
        self._jobs.put_nowait(job)

    async def work(self) -> None:
        """Make deltas, one after the other, for as long as the service runs."""
        for job in await asyncio.to_thread(lambda: list(self.deltas.all_missing())):
            self._enqueue(job)
        while True:
            job = await self._jobs.get()
            try:
                await asyncio.to_thread(self.deltas.make, job)
            except Stopped:
                return
            except BacklineError as error:  # receivers pull the whole file instead
                logger.error("no delta to %s of %s from %s: %s", job.name, job.new, job.old.version, error)
            finally:
                self._pending[str(job.new)] -= 1
                self._queued.discard(job)
                self._tell()

    async def tidy(self) -> None:
        """Forget uploads that nobody went on with, and versions that nobody needs when room is short."""
        older = self.settings.upload_days * 86400.0
        while True:
            try:
                for ref in await asyncio.to_thread(lambda: self.files.forget_uploads(older=older)):
                    logger.info("the upload of %s was never finished, and is deleted", ref)
                if await asyncio.to_thread(self.files.free) < self.settings.room_bytes:
                    await asyncio.to_thread(self._make_room)
            except (BacklineError, OSError) as error:
                logger.error("what is old cannot be deleted: %s", error)
            await asyncio.sleep(TIDY_SECONDS)


def _number(request: Request) -> int:
    number = int(request.path_params["id"])
    if number > LARGEST:
        raise MissingError("publish.unknown", "there is no such publication")
    return number


def make_app(store: Store, settings: Settings, access: Access) -> Application:
    """The depot's application."""
    deltas = Deltas(store.files, count=settings.deltas, limit=settings.delta_bytes)
    api = Api(store, deltas, settings)
    feed = Feed(store.database, outbox, store.source, topics=frozenset({TOPIC}))

    @contextlib.asynccontextmanager
    async def lifespan(app: Application) -> AsyncIterator[None]:
        await asyncio.to_thread(store.files.prepare)
        await asyncio.to_thread(store.prepare)
        pending = Gauge("backline_depot_pending_deltas", "Deltas to be made", registry=app.metrics.registry)
        pending.set_function(lambda: sum(api._pending.values()))
        async with feed.run(app):
            tasks = [asyncio.create_task(api.work(), name="deltas"), asyncio.create_task(api.tidy(), name="tidy")]
            try:
                yield
            finally:
                deltas.stop()
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    return create_app(
        service="depot",
        access=access,
        description="Versions of images for the hall, deltas between them, and what is published on which channel.",
        checks={"feed": feed.healthy},
        lifespan=lifespan,
        max_body_size=MANIFEST_BYTES,
        routes=[*_of_versions(api), *_of_publications(api), Route("/v1/feed", feed.subscribe)],
    )


def _of_versions(its: Api) -> list[Operation]:
    one = "/v1/versions/{role}/{version}"
    return [
        Operation("GET", "/v1/versions", its.versions, summary="Versions", answer=Versions),
        Operation(
            "POST",
            "/v1/versions",
            its.begin,
            summary="Announce a version",
            body=NewUpload,
            answer=Upload,
            errors=[*_CHANGING, 413],
        ),
        Operation("GET", one, its.version, summary="One version", query=WaitQuery, answer=Version, errors=[400, 404]),
        Operation("DELETE", one, its.remove, summary="Delete a version", status=204, errors=_CHANGING),
        Operation(
            "POST",
            "/v1/gc",
            its.collect,
            summary="Delete what nobody needs",
            body=GcRequest,
            answer=GcAnswer,
            errors=_CHANGING,
        ),
        Operation(
            "POST",
            f"{one}/complete",
            its.complete,
            summary="Verify a version, and put it in its place",
            answer=Version,
            errors=_CHANGING,
        ),
        Operation(
            "PUT",
            f"{one}/{{name}}",
            its.put,
            summary="A piece of a file",
            query=PieceQuery,
            texts=["application/octet-stream"],
            answer=Received,
            errors=[*_CHANGING, 408, 413],
            max_body_size=PIECE_BYTES,
        ),
    ]


def _of_publications(its: Api) -> list[Operation]:
    one = "/v1/publications/{id:int}"
    return [
        Operation("GET", "/v1/channels/{name}", its.channel, summary="A channel", answer=Channel, errors=[404]),
        Operation(
            "GET",
            "/v1/publications",
            its.publications,
            summary="Publications",
            query=PublicationsQuery,
            answer=Publications,
            errors=[400],
        ),
        Operation(
            "POST",
            "/v1/publications",
            its.publish,
            summary="Publish a version",
            body=NewPublication,
            answer=Publication,
            errors=_CHANGING,
        ),
        Operation(
            "GET",
            one,
            its.publication,
            summary="One publication",
            query=ChangedQuery,
            answer=Publication,
            errors=[400, 404],
        ),
        Operation(
            "PUT",
            f"{one}/progress/{{host}}",
            its.progress,
            summary="How far a receiver is",
            body=NewProgress,
            answer=Progress,
            errors=[400, 401, 403, 404, 422],
        ),
    ]
