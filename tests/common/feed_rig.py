"""A small owner of records with a feed, served in the test's own loop; and a subscriber that notes what it is told."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable, Sequence
from pathlib import Path

from sqlalchemy import Column, MetaData, String, Table, delete, insert, select, update
from sqlalchemy.orm import Session
from starlette.routing import Route

from services.common.app import create_app
from services.common.database import Database, metadata
from services.common.feed.client import Batch, Follower
from services.common.feed.outbox import Outbox
from services.common.feed.server import Feed
from services.common.feed.wire import Item, Kind, Record
from services.common.identity import ImageIdentity
from services.common.notify import Notifier
from services.common.serve import UnixAddress, listening, serve_on

TOPICS = frozenset({"things", "others"})
State = dict[tuple[str, str], Record]


class Owner:
    """Records in a table, each change of which goes into the outbox; `history` has the state at every revision."""

    def __init__(self, database: Database, *, kept: int = 10_000) -> None:
        self.database = database
        tables: MetaData = metadata()
        key = (Column("topic", String(32), primary_key=True), Column("key", String(32), primary_key=True))
        self.things = Table("things", tables, *key, Column("value", String(32)), Column("note", String(32)))
        self.outbox = Outbox.of(tables, kept=kept)
        with database.write() as session:
            tables.create_all(session.connection())
            self.outbox.begin(session)
        self.history: dict[int, State] = {0: self.state()}

    def put(self, key: str, value: str, *, topic: str = "things", note: str = "") -> int:
        """Create or change one."""
        return self._do([(topic, key, {"value": value, "note": note})])

    def remove(self, key: str, *, topic: str = "things") -> int:
        """Delete one, if it is there."""
        return self._do([(topic, key, None)])

    def _do(self, wanted: Sequence[tuple[str, str, Record | None]]) -> int:
        with self.database.write() as session:
            self.outbox.lock(session)
            state = self._read(session, TOPICS)
            changes: list[tuple[str, str, Kind, Record | None]] = []
            for topic, key, record in wanted:
                here = (self.things.c.topic == topic) & (self.things.c.key == key)
                before = state.get((topic, key))
                if record is None and before is None:
                    continue
                if record is None:
                    session.execute(delete(self.things).where(here))
                    changes.append((topic, key, Kind.DELETED, None))
                    del state[topic, key]
                    continue
                if before is None:
                    session.execute(insert(self.things).values(topic=topic, key=key, **record))
                else:
                    session.execute(update(self.things).where(here).values(**record))
                changes.append((topic, key, Kind.UPDATED if before else Kind.CREATED, record))
                state[topic, key] = record
            revision = self.outbox.append(session, changes)
        self.history[revision] = state
        return revision

    def state(self) -> State:
        """Everything now."""
        with self.database.read() as session:
            return self._read(session, TOPICS)

    def source(self, session: Session, topics: frozenset[str]) -> Iterable[Item]:
        """The feed's source."""
        return [Item(topic, key, record) for (topic, key), record in self._read(session, topics).items()]

    def _read(self, session: Session, topics: frozenset[str]) -> State:
        rows = session.execute(select(self.things).where(self.things.c.topic.in_(sorted(topics))))
        return {(row.topic, row.key): {"value": row.value, "note": row.note} for row in rows}


@contextlib.asynccontextmanager
async def serving(owner: Owner, path: Path) -> AsyncIterator[Feed]:
    """Serve the owner's feed on a unix socket while the block lasts."""
    feed = Feed(owner.database, owner.outbox, owner.source, topics=TOPICS)
    app = create_app(
        service="owner",
        routes=[Route("/v1/feed", feed.subscribe)],
        lifespan=feed.run,
        identity=ImageIdentity(None, None),
    )
    stop = asyncio.Event()
    with listening([UnixAddress(path)]) as listeners:
        task = asyncio.create_task(serve_on(app, listeners, Notifier({}), grace_seconds=1, stop=stop))
        try:
            yield feed
        finally:
            stop.set()
            await task


class Subscriber:
    """Follows a feed in a task; `batches` is what it was told, `states` a copy of the state at each of them."""

    def __init__(self, follower: Follower) -> None:
        self.follower = follower
        self.batches: list[Batch] = []
        self.states: list[tuple[int, State]] = []
        self._came = asyncio.Event()
        self._task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        async for batch in self.follower.batches():
            self.batches.append(batch)
            self.states.append((batch.position.revision, dict(batch.state)))
            self._came.set()

    async def reaches(self, revision: int, *, seconds: float = 20.0) -> None:
        """Wait until it has seen `revision`; fails after a deadline, or with what ended it."""
        async with asyncio.timeout(seconds):
            while (
                self.follower.state.position is None
                or self.follower.state.position.revision < revision
                or not self.states
            ):
                self._came.clear()
                waiting = asyncio.create_task(self._came.wait())
                await asyncio.wait({waiting, self._task}, timeout=0.05, return_when=asyncio.FIRST_COMPLETED)
                waiting.cancel()
                if self._task.done():
                    self._task.result()
            await asyncio.sleep(0)

    def _revision(self) -> int:
        position = self.follower.state.position
        return -1 if position is None else position.revision

    async def stop(self) -> None:
        """Idempotent; what ended it is told by `reaches`."""
        self._task.cancel()
        await asyncio.wait({self._task})


@contextlib.asynccontextmanager
async def subscribed(path: Path, **how: object) -> AsyncIterator[Subscriber]:
    """A subscriber while the block lasts; `how` as for Follower."""
    subscriber = Subscriber(Follower(f"unix:{path}", **how))  # type: ignore[arg-type]
    try:
        yield subscriber
    finally:
        await subscriber.stop()
