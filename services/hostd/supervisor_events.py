"""The supervisor's events: what `services.common.feed` streams, without a database.

A subscriber gets a snapshot and then every change; it comes back with its Last-Event-ID and goes on where it was, as
long as the ring in memory reaches back and the supervisor is the same process. Else it gets a snapshot again. The
format is `services.common.feed.wire`'s, so its client follows this stream as any other.

systemd's signals are followed only while somebody listens: at rest there is no connection and nothing to do.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from services.common.bus import Events, Manager, Resync, UnitChanged, UnitStatus
from services.common.codec import encode_json, to_builtins
from services.common.edge import read_query
from services.common.errors import BacklineError, BusyError
from services.common.feed.wire import KEEP_ALIVE_SECONDS, PART, Change, Item, Kind, Position, Record, Snapshot, encode
from services.common.serve import stopping
from services.hostd.supervisor_schema import EventsQuery

logger = logging.getLogger(__name__)

RING = 4096
SUBSCRIBERS = 64
TOPICS = frozenset({"units", "jobs", "generations", "machines"})
MACHINE_UNITS = ("systemd-nspawn@", "backline-hostd-machine@", "backline-hostd-machine-ask@")
"""Whenever one of these changes, a machine may have: every change of one is done by the second."""
PAUSE_SECONDS = 1.0


@dataclass(frozen=True)
class _Entry:
    revision: int
    topic: str
    text: bytes


class Hub:
    """The ring, and who listens. `state` gives what jobs and generations are now, as items, and `machines` those."""

    def __init__(
        self,
        manager: Manager,
        events: Events,
        state: Callable[[], list[Item]],
        machines: Callable[[], list[Item]],
    ) -> None:
        self.manager, self.events, self.state, self.machines = manager, events, state, machines
        self.log = secrets.token_hex(8)
        self.revision = 0
        self.subscribers = 0
        self._ring: deque[_Entry] = deque(maxlen=RING)
        self._grown = asyncio.Event()
        self._units: dict[str, Record] = {}
        self._machines: dict[str, Record] = {}
        self._follower: asyncio.Task[None] | None = None
        self._following = asyncio.Event()

    def publish(self, topic: str, key: str, kind: Kind, record: Record | None) -> None:
        """Tell everybody. In the event loop."""
        self.revision += 1
        change = Change(self.revision, topic, key, kind, time.time(), record)
        text = encode("change", encode_json(change), position=Position(self.log, self.revision))
        self._ring.append(_Entry(self.revision, topic, text))
        grown, self._grown = self._grown, asyncio.Event()
        grown.set()

    async def subscribe(self, request: Request) -> Response:
        """Stream the topics that are asked for, from Last-Event-ID on."""
        topics = frozenset[str](read_query(request, EventsQuery).topic) or TOPICS
        if self.subscribers >= SUBSCRIBERS:
            raise BusyError("feed.full", f"{SUBSCRIBERS} subscribers are connected already")
        place = Position.parse(request.headers.get("last-event-id"))
        headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
        stream = self._stream(request, topics, place)
        return StreamingResponse(stream, media_type="text/event-stream", headers=headers)

    async def _stream(self, request: Request, topics: frozenset[str], place: Position | None) -> AsyncIterator[bytes]:
        self.subscribers += 1
        ending = stopping(request)
        try:
            if topics & {"units", "machines"}:
                await self._follow()
            first = self._ring[0].revision if self._ring else self.revision + 1
            if place is None or place.log != self.log or not first - 1 <= place.revision <= self.revision:
                revision = self.revision
                for piece in self._snapshot(topics, revision):
                    yield piece
            else:
                revision = place.revision
            while not ending.is_set():
                grown = self._grown
                entries = [entry for entry in self._ring if entry.revision > revision]
                if entries and entries[0].revision > revision + 1:
                    return  # too slow: it comes back, and gets a snapshot
                text = b"".join(entry.text for entry in entries if entry.topic in topics)
                revision = self.revision
                if text:
                    yield text
                elif not entries and not await _either(grown, ending):
                    yield b":\n\n"
        finally:
            self.subscribers -= 1
            if self.subscribers == 0 and self._follower is not None:
                self._follower.cancel()
                self._follower = None

    def _snapshot(self, topics: frozenset[str], revision: int) -> list[bytes]:
        items = [item for item in self.state() if item.topic in topics]
        if "units" in topics:
            items += [Item("units", name, record) for name, record in self._units.items()]
        if "machines" in topics:
            items += [Item("machines", name, record) for name, record in self._machines.items()]
        pieces = []
        for begin in range(0, max(1, len(items)), PART):
            last = begin + PART >= len(items)
            content = encode_json(Snapshot(revision, items[begin : begin + PART], last))
            pieces.append(encode("snapshot", content, position=Position(self.log, revision) if last else None))
        return pieces

    async def _follow(self) -> None:
        """Follow systemd, and return when its units are known, and machines. Raises BusError."""
        if self._follower is None or self._follower.done():
            self._following = asyncio.Event()
            await self._look()
            await self._look_at_machines()
            self._follower = asyncio.create_task(self._following_systemd(), name="units")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(5):
                await self._following.wait()

    async def _following_systemd(self) -> None:
        while True:
            try:
                async with self.events.subscribe() as stream:
                    async for event in stream:
                        if isinstance(event, Resync):
                            await self._look()
                            await self._look_at_machines()
                            self._following.set()
                        elif isinstance(event, UnitChanged) and event.active and event.sub:
                            self._changed(event)
                            if event.unit.startswith(MACHINE_UNITS):
                                await self._look_at_machines()
            except BacklineError as error:
                logger.warning("units cannot be followed: %s", error)
                await asyncio.sleep(PAUSE_SECONDS)

    async def _look(self) -> None:
        """Read all units, and tell what is not as it was."""
        found = {unit.name: _unit(unit) for unit in await asyncio.to_thread(self.manager.list_units)}
        known, self._units = self._units, found
        if known:
            self._tell("units", known, found)

    async def _look_at_machines(self) -> None:
        """Read all machines, and tell what is not as it was."""
        found = {item.key: item.record for item in await asyncio.to_thread(self.machines)}
        known, self._machines = self._machines, found
        if self._following.is_set():
            self._tell("machines", known, found)

    def _tell(self, topic: str, known: Mapping[str, Record], found: Mapping[str, Record]) -> None:
        for name in sorted({*known, *found}):
            if name not in found:
                self.publish(topic, name, Kind.DELETED, None)
            elif found[name] != known.get(name):
                self.publish(topic, name, Kind.UPDATED if name in known else Kind.CREATED, found[name])

    def _changed(self, event: UnitChanged) -> None:
        known = self._units.get(event.unit)
        record = {**(known or {"name": event.unit, "description": ""}), "active": event.active, "sub": event.sub}
        if record != known:
            self._units[event.unit] = record
            self.publish("units", event.unit, Kind.UPDATED if known else Kind.CREATED, record)


def _unit(unit: UnitStatus) -> Record:
    record = to_builtins(unit)
    assert isinstance(record, dict)
    return record


async def _either(grown: asyncio.Event, ending: asyncio.Event) -> bool:
    """Wait for one of the two; False when neither came in time."""
    waits = [asyncio.create_task(grown.wait()), asyncio.create_task(ending.wait())]
    try:
        done, _ = await asyncio.wait(waits, timeout=KEEP_ALIVE_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        return bool(done)
    finally:
        for wait in waits:
            wait.cancel()
