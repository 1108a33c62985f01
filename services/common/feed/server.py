"""The streaming side of a feed: one reader of the log, and any number of subscribers that cost next to nothing.

A single task reads new changes once, encodes them once, and appends them to a ring in memory. A subscriber is only a
place in that ring: there is no queue of its own that could grow. It is woken, sends what lies between its place and the
end, and waits again. Who does not take what it is sent for `SLOW_SECONDS`, or falls behind the ring, is cut off;
it comes back with its Last-Event-ID and continues from the log, or from a snapshot when that no longer reaches back.

On PostgreSQL the reader also listens (LISTEN), so several servers over one database see each other's changes.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

import msgspec
from prometheus_client import Counter, Gauge
from sqlalchemy.orm import Session
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from services.common.app import Application
from services.common.codec import encode_json
from services.common.database import Database
from services.common.errors import BacklineError, BusyError, UsageError
from services.common.feed.outbox import CHANNEL, Outbox
from services.common.feed.wire import KEEP_ALIVE_SECONDS, PART, Change, Item, Position, Record, Snapshot, encode
from services.common.serve import stopping

logger = logging.getLogger(__name__)

RING_CHANGES = 20_000
RING_BYTES = 8 * 1024 * 1024
SLOW_SECONDS = 20.0
SUBSCRIBERS = 4096
_BATCH = 500
_PIECE = 64 * 1024
_LOOK_SECONDS = 5.0  # how often the log is looked at when nobody says that it grew


class Source(Protocol):
    """What a service gives its feed: its whole state, in the order it likes."""

    def __call__(self, session: Session, topics: frozenset[str]) -> Iterable[Item]: ...


@dataclass(frozen=True)
class _Entry:
    """A change in the ring, encoded."""

    revision: int
    topic: str
    text: bytes


class _Gap(Exception):
    """The log does not reach back to where a subscriber was."""


class _Ring:
    """The newest changes in memory: those after `begin`, up to and including `end`."""

    def __init__(self, position: Position) -> None:
        self.log = position.log
        self.begin = self.end = position.revision
        self._entries: deque[_Entry] = deque()
        self._bytes = 0

    def append(self, change: Change) -> None:
        """Take the next change; the oldest ones go when there are too many."""
        text = encode("change", encode_json(change), position=Position(self.log, change.revision))
        self._entries.append(_Entry(change.revision, change.topic, text))
        self._bytes += len(text)
        self.end = change.revision
        while len(self._entries) > RING_CHANGES or self._bytes > RING_BYTES:
            gone = self._entries.popleft()
            self.begin = gone.revision
            self._bytes -= len(gone.text)

    def after(self, revision: int, topics: frozenset[str]) -> tuple[bytes, int]:
        """The next changes after `revision`, at most `_PIECE` bytes or one change, and how far they reach."""
        pieces: list[bytes] = []
        size, reached = 0, revision
        for index in range(revision - self.begin, len(self._entries)):
            entry = self._entries[index]
            wanted = entry.topic in topics
            if wanted and pieces and size + len(entry.text) > _PIECE:
                break
            reached = entry.revision
            if wanted:
                pieces.append(entry.text)
                size += len(entry.text)
        return b"".join(pieces), reached


@dataclass(frozen=True)
class _Whole:
    """A snapshot as it is sent."""

    topics: frozenset[str]
    position: Position
    pieces: list[bytes]


class Feed:
    """A feed of a running service. `run` is part of the application's lifespan; `subscribe` is a handler.

    `pause` is how many seconds the log is left alone after news, for an owner that writes hundreds of times a second.
    With `shown`, records of changes leave as it makes them, for a feed that tells less than the log has; `source` gives
    records that are made so already. Feeds of one application have a `name` each but one.
    """

    def __init__(
        self,
        database: Database,
        outbox: Outbox,
        source: Source,
        *,
        topics: frozenset[str],
        pause: float = 0.0,
        shown: Callable[[Record], Record] | None = None,
        name: str = "",
    ) -> None:
        self.database = database
        self.outbox = outbox
        self.source = source
        self.topics = topics
        self.pause = pause
        self.shown = shown
        self.name = name
        self._ring: _Ring | None = None
        self._grown = asyncio.Event()  # set, and replaced, when the ring has grown
        self._watcher: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()
        self._subscribers = 0
        self._reading = asyncio.Lock()
        self._kept: _Whole | None = None
        self._failure: BacklineError | None = None

    @contextlib.asynccontextmanager
    async def run(self, app: Application) -> AsyncIterator[None]:
        """Read the log while the block lasts."""
        loop = asyncio.get_running_loop()
        self._ring = _Ring(await asyncio.to_thread(self._position))

        def committed() -> None:
            with contextlib.suppress(RuntimeError):  # the loop has ended, and the feed with it
                loop.call_soon_threadsafe(self._wake.set)

        self.database.after_commit(committed)
        of = f"{self.name}_" if self.name else ""
        subscribers = Gauge(f"backline_feed_{of}subscribers", "Open streams", registry=app.metrics.registry)
        subscribers.set_function(lambda: self._subscribers)
        cut = Counter(f"backline_feed_{of}cut", "Streams ended for being too slow", registry=app.metrics.registry)
        self._count_cut: Callable[[], None] = cut.inc
        revision = Gauge(f"backline_feed_{of}revision", "Newest revision", registry=app.metrics.registry)
        revision.set_function(lambda: self._ring.end if self._ring else 0)
        tasks = [asyncio.create_task(self._read(), name="feed")]
        if not self.database.is_sqlite:
            tasks.append(asyncio.create_task(self._listen(), name="feed listen"))
        try:
            yield
        finally:
            tasks += [self._watcher] if self._watcher else []
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def healthy(self) -> None:
        """Raises the BacklineError for which the log cannot be read."""
        if self._failure is not None:
            raise self._failure

    async def subscribe(self, request: Request) -> Response:
        """Stream the topics that are asked for (`topic=`, repeated; all of them without), from Last-Event-ID on."""
        asked = frozenset(request.query_params.getlist("topic")) or self.topics
        if unknown := sorted(asked - self.topics):
            known = ", ".join(sorted(self.topics))
            raise UsageError("request.query", f"there is no topic {', '.join(unknown)}", hint=f"topics: {known}")
        if self._subscribers >= SUBSCRIBERS:
            raise BusyError("feed.full", f"{SUBSCRIBERS} subscribers are connected already")
        place = Position.parse(request.headers.get("last-event-id"))
        return _Stream(self._events(request, asked, place), media_type="text/event-stream")

    async def _events(self, request: Request, topics: frozenset[str], place: Position | None) -> AsyncIterator[bytes]:
        self._subscribers += 1
        try:
            ending = stopping(request)
            self._wake_at_the_end(ending)
            if place is not None and place.log == self._need_ring().log:
                try:
                    async for piece, revision in self._catch_up(place, topics):
                        place = Position(place.log, revision)
                        if piece:
                            yield piece
                except _Gap:  # whatever was sent is part of the snapshot that follows
                    place = None
            else:
                place = None
            if place is None:
                async for piece, position in self._snapshot(topics):
                    place = position
                    yield piece
                piece, said = b":\n\n", True
                yield piece  # what was sent last stays in memory until there is something new: let it be small
            else:
                said = False
            assert place is not None
            revision = place.revision
            while not ending.is_set():
                ring, grown = self._need_ring(), self._grown
                if ring.log != place.log or revision < ring.begin:
                    self._count_cut()
                    return
                piece, revision = ring.after(revision, topics)
                if piece:
                    yield piece
                elif not said:  # whoever comes back has all there is
                    said = True
                    yield b":\n\n"
                elif revision >= ring.end and not await _within(KEEP_ALIVE_SECONDS, grown):
                    yield b":\n\n"
        finally:
            self._subscribers -= 1

    def _wake_at_the_end(self, ending: asyncio.Event) -> None:
        """Let no stream sleep through the end of the service; one watcher is enough for all of them."""

        async def watch() -> None:
            await ending.wait()
            self._growing()

        if self._watcher is None:
            self._watcher = asyncio.create_task(watch(), name="feed ending")

    def _growing(self) -> None:
        self._kept = None
        grown, self._grown = self._grown, asyncio.Event()
        grown.set()

    async def _catch_up(self, place: Position, topics: frozenset[str]) -> AsyncIterator[tuple[bytes, int]]:
        """What is not in the ring any more, from the log. Raises _Gap when that does not reach back to `place`."""
        revision = place.revision
        if revision > self._need_ring().end:
            raise _Gap
        while revision < self._need_ring().begin:
            changes = await asyncio.to_thread(self._after, revision)
            if not changes:
                raise _Gap
            revision = changes[-1].revision
            wanted = [change for change in changes if change.topic in topics]
            parts = (
                encode("change", encode_json(each), position=Position(place.log, each.revision)) for each in wanted
            )
            yield b"".join(parts), revision

    async def _snapshot(self, topics: frozenset[str]) -> AsyncIterator[tuple[bytes, Position]]:
        """The whole state. Those who come while nothing changes are sent the same bytes: after a restart all come."""
        async with self._reading:
            kept = self._kept
            if kept is None or kept.topics != topics or kept.position != self._newest():
                position, items = await asyncio.to_thread(self._state, topics)
                pieces = []
                for part, last in _parts(items):
                    content = encode_json(Snapshot(position.revision, part, last))
                    pieces.append(encode("snapshot", content, position=position if last else None))
                    await asyncio.sleep(0)
                kept = self._kept = _Whole(topics, position, pieces)
        for piece in kept.pieces:
            yield piece, kept.position
            await asyncio.sleep(0)

    def _newest(self) -> Position:
        ring = self._need_ring()
        return Position(ring.log, ring.end)

    # The database, in threads

    def _position(self) -> Position:
        with self.database.read() as session:
            return self.outbox.position(session)

    def _after(self, revision: int) -> list[Change] | None:
        with self.database.read() as session:
            return self._shown(self.outbox.after(session, revision, limit=_BATCH))

    def _state(self, topics: frozenset[str]) -> tuple[Position, list[Item]]:
        with self.database.read() as session:
            return self.outbox.position(session), list(self.source(session, topics))

    # The reader

    async def _read(self) -> None:
        while True:
            try:
                while await self._read_some():
                    pass
                self._failure = None
            except BacklineError as error:
                self._failure = error
                logger.warning("the feed's log cannot be read: %s", error)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_SECONDS):
                    await self._wake.wait()
            await asyncio.sleep(self.pause)

    async def _read_some(self) -> bool:
        """Take new changes into the ring. True when there may be more."""
        self._wake.clear()
        ring = self._need_ring()
        position, changes = await asyncio.to_thread(self._news, ring.end)
        if position.log != ring.log or changes is None:  # restored, or pruned below us: everybody begins anew
            self._ring = _Ring(position)
            self._growing()
            return True
        for change in changes:
            ring.append(change)
        if changes:
            self._growing()
        return len(changes) == _BATCH

    def _news(self, revision: int) -> tuple[Position, list[Change] | None]:
        with self.database.read() as session:
            return self.outbox.position(session), self._shown(self.outbox.after(session, revision, limit=_BATCH))

    def _shown(self, changes: list[Change] | None) -> list[Change] | None:
        shown = self.shown
        if shown is None or changes is None:
            return changes
        return [
            change if change.record is None else msgspec.structs.replace(change, record=shown(change.record))
            for change in changes
        ]

    async def _listen(self) -> None:
        """Be woken by other servers of the same database; a lost connection is made again."""
        import psycopg

        url = self.database.url.set(drivername="postgresql").render_as_string(hide_password=False)
        while True:
            try:
                async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
                    await connection.execute(f"LISTEN {CHANNEL}")
                    self._wake.set()
                    async for _ in connection.notifies():
                        self._wake.set()
            except (psycopg.Error, OSError) as error:
                logger.warning("the database cannot be listened to: %s", error)
                await asyncio.sleep(1.0)

    def _need_ring(self) -> _Ring:
        assert self._ring is not None, "the feed does not run"
        return self._ring


class _Stream(StreamingResponse):
    """A stream whose reader must take each piece within `SLOW_SECONDS`."""

    def __init__(self, content: AsyncIterator[bytes], *, media_type: str) -> None:
        headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
        super().__init__(content, media_type=media_type, headers=headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def within(message: object) -> None:
            async with asyncio.timeout(SLOW_SECONDS):
                await send(message)  # type: ignore[arg-type]

        try:
            await super().__call__(scope, receive, within)
        except TimeoutError:
            logger.info("a subscriber took nothing for %.0f s: cut off", SLOW_SECONDS)


async def _within(seconds: float, event: asyncio.Event) -> bool:
    """Wait for an event; False when it did not come in time."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
            return True
    return False


def _parts(items: list[Item]) -> Iterator[tuple[list[Item], bool]]:
    """At least one part, and whether it is the last one."""
    for begin in range(0, max(1, len(items)), PART):
        yield items[begin : begin + PART], begin + PART >= len(items)
