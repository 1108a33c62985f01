"""The subscriber's side of a feed: hold the state, say what changed, and come back after every interruption.

`Follower` is the asynchronous face: `await follower.follow(take)` calls `take` with the state after each batch and what
changed since the last one, deletions included, even those of a time without connection: a snapshot is compared with the
state that is held. It lasts: whoever refuses us may be on its way to another version, and is asked again. `batches` is
for those who would rather fail then; `follow_in_thread` is the face for programs without a loop.

A stream that is silent for longer than its keep-alives allow is taken for dead. The time since the last sign of life is
a metric and, past a limit, a failing health check: who serves from stale state says so.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import random
import threading
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import httpx2
import msgspec

from services.common.client import Endpoint, secured
from services.common.codec import decode_json
from services.common.errors import BacklineError, HostError, IntegrityError, MissingError
from services.common.feed.wire import KEEP_ALIVE_SECONDS, Change, Event, Item, Kind, Parser, Position, Record, Snapshot
from services.common.metrics import Metrics
from services.common.problem import RemoteError, decode_problem
from services.common.tls import TlsSettings

logger = logging.getLogger(__name__)

SILENCE_SECONDS = 3 * KEEP_ALIVE_SECONDS
STALE_SECONDS = 60.0
_SLICE = 250
MEMORY_SECONDS = 1.0
_FIRST_WAIT, _LONGEST_WAIT = 0.2, 10.0
_FIRST_REFUSED, _LONGEST_REFUSED = 1.0, 30.0

Key = tuple[str, str]
"""Topic and key of a record."""


@dataclass(frozen=True)
class Changed:
    """What happened to a record since the last batch; `before` is None for one that is new, `after` for one gone."""

    topic: str
    key: str
    kind: Kind
    before: Record | None
    after: Record | None


@dataclass(frozen=True)
class Batch:
    """The state after some changes. `state` is the follower's own: read it, do not change or keep it."""

    state: Mapping[Key, Record]
    changes: list[Changed]
    position: Position
    first: bool
    """The first batch of this process: `state` is all there is, `changes` what differs from the remembered state."""


@dataclass
class State:
    """Records by topic and key, and what a batch does to them. Pure."""

    records: dict[Key, Record] = field(default_factory=dict)
    position: Position | None = None
    _parts: list[Item] = field(default_factory=list)

    def snapshot(self, part: Snapshot, position: Position | None) -> list[Changed] | None:
        """Take a part of a snapshot. With the last one, what differs from before; None until then."""
        self._parts += part.items
        if not part.last or position is None:
            return None
        fresh = {(item.topic, item.key): item.record for item in self._parts}
        self._parts = []
        changes = [
            Changed(*key, Kind.DELETED, record, None) for key, record in self.records.items() if key not in fresh
        ]
        for key, record in fresh.items():
            before = self.records.get(key)
            if before != record:
                kind = Kind.CREATED if before is None else Kind.UPDATED
                changes.append(Changed(*key, kind, before, record))
        self.records, self.position = fresh, position
        return changes

    def change(self, change: Change, position: Position) -> Changed | None:
        """Apply one change; None for one that is known already. Raises IntegrityError("feed.order")."""
        if self.position is None or self.position.log != position.log:
            raise IntegrityError("feed.order", "the feed sent a change before its snapshot")
        if position.revision <= self.position.revision:
            return None
        self._parts = []
        key = (change.topic, change.key)
        before = self.records.get(key)
        self.position = position
        if change.record is None:
            self.records.pop(key, None)
            return Changed(*key, Kind.DELETED, before, None) if before is not None else None
        self.records[key] = change.record
        return Changed(*key, Kind.CREATED if before is None else Kind.UPDATED, before, change.record)


class Follower:
    """Follows topics of one feed. `fields` limits which updates are told: those that change one of these fields.

    With `memory`, a file, the state is remembered across restarts: the first batch then tells what changed meanwhile.
    """

    def __init__(
        self,
        address: str,
        *,
        path: str = "/v1/feed",
        topics: Collection[str] = (),
        fields: Collection[str] | None = None,
        memory: Path | None = None,
        client: Callable[[], httpx2.AsyncClient] | None = None,
        tls: TlsSettings | None = None,
    ) -> None:
        self.endpoint = Endpoint.parse(address)
        self.path = path
        self.topics = tuple(sorted(topics))
        self.fields = None if fields is None else frozenset(fields)
        self.memory = memory
        self.tls = tls
        self.state = State()
        self._client = client or self._plain
        self.refused: BacklineError | None = None
        """Why nothing is told: a refusal, until the feed serves us again."""
        self._heard = time.monotonic()
        self._problem: BacklineError | None = None
        self._said: str | None = None
        self._wake = asyncio.Event()
        self._writing: asyncio.Task[None] | None = None

    # Health

    @property
    def staleness(self) -> float:
        """Seconds since the feed last gave a sign of life."""
        return time.monotonic() - self._heard

    async def fresh(self) -> None:
        """A check for /healthz. Raises MissingError("feed.stale")."""
        if self.state.position is None or self.staleness > STALE_SECONDS:
            why = f": {self._problem.message}" if self._problem else ""
            raise MissingError("feed.stale", f"nothing from {self.endpoint} for {self.staleness:.0f} s{why}")

    def measure(self, metrics: Metrics, name: str) -> None:
        """Export staleness and revision, under the label `feed`."""
        stale = metrics.gauge("backline_feed_staleness_seconds", "Silence of a feed", "feed")
        stale.labels(feed=name).set_function(lambda: self.staleness)
        revision = metrics.gauge("backline_feed_followed_revision", "Revision", "feed")
        revision.labels(feed=name).set_function(lambda: self.state.position.revision if self.state.position else 0)

    # Following

    def recall(self) -> Mapping[Key, Record] | None:
        """The remembered state, for those who can work with it before the feed answers; None when there is none."""
        if self.state.position is None:
            self._recall()
        return self.state.records if self.state.position is not None else None

    async def follow(self, take: Callable[[Batch], Awaitable[None] | None]) -> None:
        """Call `take` with every batch, for ever: who refuses us is asked again, later each time.

        What `take` raises is logged, and it is given all of the state again after a while.
        """
        wait = _FIRST_REFUSED
        again = False
        while True:
            try:
                if again and self.state.position is not None:
                    await _taken(take, Batch(self.state.records, [], self.state.position, first=True))
                again = False
                async with contextlib.aclosing(self.batches()) as batches:
                    async for batch in batches:
                        again = True
                        await _taken(take, batch)
                        again, wait = False, _FIRST_REFUSED
            except BacklineError as error:
                if again:
                    self._say(logging.ERROR, f"what {self.endpoint} says cannot be taken: {error}")
                else:
                    self.refused = error
                    self._say(logging.ERROR, f"the feed of {self.endpoint} refuses us: {error}")
            except Exception:  # a bug of ours, or of whoever answers, shall end neither this feed nor others
                logger.exception("the feed of %s cannot be followed", self.endpoint)
            await self._pause(wait)
            wait = min(wait * 2, _LONGEST_REFUSED)

    def wake(self) -> None:
        """Ask at once, if it is being waited to ask again: there is a reason to believe that it is worth it."""
        self._wake.set()

    async def batches(self) -> AsyncGenerator[Batch, None]:
        """State and changes, for ever. Only what the feed can never serve is raised: RemoteError of a refusal."""
        self.recall()
        try:
            async for batch in self._batches():
                yield batch
        finally:
            if self._writing is not None:
                self._writing.cancel()
                self._writing = None

    async def _batches(self) -> AsyncGenerator[Batch, None]:
        first, wait = True, _FIRST_WAIT
        while True:
            try:
                async for changes in self._stream():
                    wait = _FIRST_WAIT
                    told = [change for change in changes if self._tells(change)]
                    if first or told:
                        assert self.state.position is not None
                        yield Batch(self.state.records, told, self.state.position, first)
                        first = False
                    await self._remember_now_and_then()
                logger.info("the feed of %s ended, coming back", self.endpoint)
            except RemoteError as error:
                self._problem = error
                if error.problem.status < 500 and error.problem.status not in (408, 409, 423, 429):
                    raise
                self._say(logging.WARNING, f"the feed of {self.endpoint} is not served: {error}")
            except BacklineError as error:
                self._problem = error
                if isinstance(error, IntegrityError):  # what came makes no sense: begin with a snapshot
                    self.state.position = None
                self._say(logging.WARNING, f"the feed of {self.endpoint} was lost: {error}")
            await self._pause(wait)
            wait = min(wait * 2, _LONGEST_WAIT)

    def _say(self, level: int, text: str) -> None:
        """Log what keeps us from following, once until it is something else."""
        if text != self._said:
            logger.log(level, "%s", text)
        self._said = text

    def _served(self) -> None:
        """The feed gives something."""
        self._heard, self._problem = time.monotonic(), None
        if self._said is not None:
            logger.info("the feed of %s is followed again", self.endpoint)
        self._said = self.refused = None

    async def _pause(self, seconds: float) -> None:
        self._wake.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds * random.uniform(0.5, 1.5)):
                await self._wake.wait()

    async def _stream(self) -> AsyncGenerator[list[Changed], None]:
        headers = {"accept": "text/event-stream"}
        if self.state.position is not None:
            headers["last-event-id"] = str(self.state.position)
        parser, current = Parser(), False
        self.state._parts = []
        async with self._client() as client:
            try:
                async with client.stream(
                    "GET",
                    self.path,
                    params=httpx2.QueryParams(tuple(("topic", each) for each in self.topics)),
                    headers=headers,
                ) as response:
                    if response.is_error:
                        content = await response.aread()
                        problem = decode_problem(content, status=response.status_code)
                        raise RemoteError(problem, where=str(self.endpoint))
                    async for piece in response.aiter_bytes():
                        self._served()
                        changes: list[Changed] = []
                        complete = False
                        for event in parser.feed(piece):
                            told = self._take(event)
                            complete = complete or told is not None
                            changes += told or []
                        # The first comment tells that the position that we came with is the newest.
                        if complete or (parser.comments and not current and self._whole):
                            current = True
                            yield changes
            except httpx2.TimeoutException as error:
                raise MissingError("feed.silent", f"silent for {SILENCE_SECONDS:.0f} s") from error
            except httpx2.HTTPError as error:
                raise MissingError("feed.lost", str(error) or type(error).__name__) from error

    @property
    def _whole(self) -> bool:
        return self.state.position is not None and not self.state._parts

    def _take(self, event: Event) -> list[Changed] | None:
        """What an event changes; None for one that completes nothing."""
        position = Position.parse(event.id)
        try:
            if event.kind == "snapshot":
                return self.state.snapshot(decode_json(event.data.encode(), Snapshot), position)
            if event.kind == "change" and position is not None:
                told = self.state.change(decode_json(event.data.encode(), Change), position)
                return [] if told is None else [told]
        except msgspec.DecodeError as error:
            raise IntegrityError("feed.event", f"an event of the feed is broken: {error}") from error
        return None

    def _tells(self, change: Changed) -> bool:
        if self.fields is None or change.before is None or change.after is None:
            return True
        before, after = change.before, change.after
        return any(before.get(name) != after.get(name) for name in self.fields)

    def _plain(self) -> httpx2.AsyncClient:
        uds = str(self.endpoint.path) if self.endpoint.path else None
        timeout = httpx2.Timeout(SILENCE_SECONDS, connect=5.0)
        verify, headers = secured(self.endpoint, self.tls)  # anew: certificates are renewed
        return httpx2.AsyncClient(
            base_url=self.endpoint.base,
            transport=httpx2.AsyncHTTPTransport(uds=uds, verify=verify),
            headers=headers,
            timeout=timeout,
            trust_env=False,
        )

    # Memory

    def _recall(self) -> None:
        """Take up the remembered state; one that cannot be read is as good as none."""
        if self.memory is not None and (kept := _recalled(self.memory)) is not None and kept.topics == self.topics:
            self.state.records, self.state.position = kept.records, kept.position

    async def _remember_now_and_then(self) -> None:
        """Write the state down, once `MEMORY_SECONDS` after it has changed: an import is a hundred batches.

        An older state is as good: from its position the feed tells the rest. Raises HostError("feed.memory").
        """
        if self.memory is None:
            return
        if self._writing is not None:
            if not self._writing.done():
                return
            self._writing.result()
        self._writing = asyncio.create_task(self._remember(self.memory), name=f"memory of {self.endpoint}")

    async def _remember(self, memory: Path) -> None:
        await asyncio.sleep(MEMORY_SECONDS)
        head = {"topics": list(self.topics), "position": str(self.state.position)}
        records = list(self.state.records.items())  # of that position: a record is replaced, never changed
        pieces = [msgspec.json.encode(head)[:-1] + b',"records":[']
        for begin in range(0, len(records), _SLICE):  # whoever is asked something meanwhile does not wait for all of it
            part = msgspec.json.encode([[*key, record] for key, record in records[begin : begin + _SLICE]])
            pieces.append((b"," if begin else b"") + part[1:-1])
            await asyncio.sleep(0)
        await asyncio.to_thread(_write_whole, memory, [*pieces, b"]}"])


async def _taken(take: Callable[[Batch], Awaitable[None] | None], batch: Batch) -> None:
    done = take(batch)
    if done is not None:
        await done


def _write_whole(path: Path, pieces: Sequence[bytes]) -> None:
    """Write a file so that it is there whole or not at all. Raises HostError("feed.memory")."""
    aside = path.with_name(f"{path.name}.new")
    try:
        with aside.open("wb") as file:
            file.writelines(pieces)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    except OSError as error:
        raise HostError("feed.memory", f"the state cannot be kept: {error.strerror}", where=str(aside)) from error


@dataclass(frozen=True)
class _Kept:
    """What a memory file holds."""

    topics: tuple[str, ...]
    position: Position | None
    records: dict[Key, Record]


def _recalled(memory: Path) -> _Kept | None:
    """What a memory file holds; None when there is none, or it cannot be read."""
    try:
        kept = json.loads(memory.read_bytes())
        records = {(topic, key): record for topic, key, record in kept["records"]}
        return _Kept(tuple(kept["topics"]), Position.parse(kept["position"]), records)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        logger.warning("%s is no remembered feed: %s", memory, error)
        return None


def remembered(memory: Path) -> dict[Key, Record] | None:
    """The records that a follower had when it last wrote its memory; None when there is no memory that can be read."""
    kept = _recalled(memory)
    return None if kept is None else kept.records


@contextlib.contextmanager
def follow_in_thread(follower: Follower, take: Callable[[Batch], None]) -> Iterator[threading.Thread]:
    """Call `take` with every batch, in a thread with a loop of its own, while the block lasts.

    What `take` raises, or a feed that refuses us, is raised at the end of the block: a thread never dies unheard.
    """
    loop = asyncio.new_event_loop()
    failures: list[BaseException] = []

    async def run() -> None:
        async for batch in follower.batches():
            take(batch)

    def main() -> None:
        try:
            loop.run_until_complete(task)
        except asyncio.CancelledError:
            pass
        except BaseException as error:
            failures.append(error)
        finally:
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.close()

    task = loop.create_task(run())
    thread = threading.Thread(target=main, name=f"feed {follower.endpoint}", daemon=True)
    thread.start()
    try:
        yield thread
    finally:
        with contextlib.suppress(RuntimeError):  # it has ended by itself
            loop.call_soon_threadsafe(task.cancel)
        thread.join()
        if failures:
            raise failures[0]
