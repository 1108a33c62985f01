"""Feeds of whatever records a test wants told, over sockets as those of mdb, udb and presence; each can go away."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from pathlib import Path

from sqlalchemy import Column, MetaData, String, Table, Text, delete, insert, select
from sqlalchemy.orm import Session
from starlette.routing import Route

from services.common.app import create_app
from services.common.database import Database, metadata
from services.common.feed.outbox import Outbox
from services.common.feed.server import Feed
from services.common.feed.wire import Item, Kind, Record
from services.common.identity import ImageIdentity
from services.common.notify import Notifier
from services.common.serve import UnixAddress, listening, serve_on


class Teller:
    """One feed with one topic, served from a thread."""

    def __init__(self, folder: Path, name: str, topic: str) -> None:
        self.topic = topic
        self.socket = folder / f"{name}.sock"
        self.database = Database(f"sqlite:///{folder}/{name}.db")
        tables: MetaData = metadata()
        self.records = Table("records", tables, Column("key", String(64), primary_key=True), Column("record", Text))
        self.outbox = Outbox.of(tables)
        with self.database.write() as session:
            tables.create_all(session.connection())
            self.outbox.begin(session)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._thread: threading.Thread | None = None

    @property
    def address(self) -> str:
        return f"unix:{self.socket}"

    def tell(self, records: Mapping[str, Record | None]) -> None:
        """Create, change or (None) delete records, in one transaction."""
        with self.database.write() as session:
            self.outbox.lock(session)
            there = {key for (key,) in session.execute(select(self.records.c.key))}
            session.execute(delete(self.records).where(self.records.c.key.in_(list(records))))
            changes: list[tuple[str, str, Kind, Record | None]] = []
            for key, record in records.items():
                if record is not None:
                    session.execute(insert(self.records).values(key=key, record=json.dumps(record)))
                    kind = Kind.UPDATED if key in there else Kind.CREATED
                    changes.append((self.topic, key, kind, record))
                elif key in there:
                    changes.append((self.topic, key, Kind.DELETED, None))
            self.outbox.append(session, changes)

    def _source(self, session: Session, topics: frozenset[str]) -> Iterable[Item]:
        if self.topic not in topics:
            return []
        rows = session.execute(select(self.records.c.key, self.records.c.record)).all()
        return [Item(self.topic, key, json.loads(record)) for key, record in rows]

    def start(self) -> None:
        """Serve, until `stop`."""
        ready = threading.Event()

        async def serve() -> None:
            self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
            feed = Feed(self.database, self.outbox, self._source, topics=frozenset({self.topic}))

            @contextlib.asynccontextmanager
            async def lifespan(app: object) -> AsyncIterator[None]:
                async with feed.run(app):  # type: ignore[arg-type]
                    ready.set()
                    yield

            app = create_app(
                service="teller",
                routes=[Route("/v1/feed", feed.subscribe)],
                lifespan=lifespan,
                identity=ImageIdentity(None, None),
            )
            with listening([UnixAddress(self.socket)], mode=0o666) as listeners:
                await serve_on(app, listeners, Notifier({}), grace_seconds=1, stop=self._stop)

        self._thread = threading.Thread(target=lambda: asyncio.run(serve()), name=f"teller of {self.topic}")
        self._thread.start()
        assert ready.wait(20)

    def stop(self) -> None:
        """Idempotent."""
        if self._thread is not None and self._loop is not None and self._stop is not None:
            self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join(20)
            assert not self._thread.is_alive()
            self._thread = None


@contextlib.contextmanager
def telling(folder: Path, **topics: str) -> Iterator[dict[str, Teller]]:
    """Feeds by name, each with its topic, while the block lasts."""
    with contextlib.ExitStack() as stack:
        made = {}
        for name, topic in topics.items():
            made[name] = Teller(folder, name, topic)
            stack.callback(made[name].database.close)
            stack.callback(made[name].stop)
            made[name].start()
        yield made
