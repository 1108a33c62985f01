"""Topics of feeds as structs, found by key or by one other name, and kept current: one feed, or several at once.

`Mirror` holds one topic of one feed. `Mirrors` runs several, each by its feed's name, with one event for whatever
changes: who works from all of them does not care who spoke. Each feed keeps what it told last while it is away, and
says for how long it has been. A record that cannot be read is left out and named; the others stay.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import msgspec

from services.common.codec import convert
from services.common.errors import MissingError
from services.common.feed.client import STALE_SECONDS, Batch, Follower, Key
from services.common.feed.wire import Record
from services.common.metrics import Metrics

logger = logging.getLogger(__name__)

T = TypeVar("T", bound=msgspec.Struct)


@dataclass(frozen=True)
class Told(Generic[T]):
    """What happened to a record: `before` is None for one that is new, `after` for one that is gone."""

    key: str
    before: T | None
    after: T | None


@dataclass(frozen=True)
class Standing:
    """How a feed is: the revision that it told last (None: never anything), and how long it has been silent."""

    name: str
    revision: int | None
    silence: float

    @property
    def stale(self) -> bool:
        return self.revision is None or self.silence > STALE_SECONDS


class Mirror(Generic[T]):
    """Records of `topic`, each a `type`, which takes the fields that it knows. `by` is their second name.

    `changed` is awaited with what each batch did, and with the first one in any case.
    """

    def __init__(
        self,
        follower: Follower,
        topic: str,
        type: type[T],
        *,
        by: Callable[[T], str] | None = None,
        changed: Callable[[list[Told[T]]], Awaitable[None]] | None = None,
    ) -> None:
        self.follower = follower
        self.topic = topic
        self.type = type
        self.by = by
        self.changed = changed
        self.ready = False
        """Whether the owner has ever told us, in this life or a remembered one: until then nobody is unknown."""
        self.heard = False
        """Whether it has told us in this life."""
        self.unreadable: dict[str, str] = {}
        """Keys of the records that are left out, and why."""
        self._records: dict[str, T] = {}
        self._by: dict[str, T] = {}

    @classmethod
    def at(
        cls,
        address: str,
        topic: str,
        type: type[T],
        *,
        path: str = "/v1/feed",
        memory: Path | None = None,
        by: Callable[[T], str] | None = None,
    ) -> Mirror[T]:
        """A mirror of the feed at `address`; only changes of the type's own fields are told."""
        fields = type.__struct_encode_fields__
        return cls(Follower(address, path=path, topics=[topic], fields=fields, memory=memory), topic, type, by=by)

    def __len__(self) -> int:
        return len(self._records)

    def __iter__(self) -> Iterator[T]:
        return iter(list(self._records.values()))

    def get(self, key: str) -> T | None:
        """By the feed's key."""
        return self._records.get(key)

    def find(self, name: str) -> T | None:
        """By the second name."""
        return self._by.get(name)

    async def fresh(self) -> None:
        """A check for /healthz. Raises MissingError("feed.stale")."""
        await self.follower.fresh()
        if not self.heard:  # what is remembered may be older than the follower is
            raise MissingError("feed.stale", f"{self.follower.endpoint} has not been heard since this service started")

    def recall(self) -> None:
        """Hold what the follower remembers, if it does; blocks."""
        remembered = self.follower.recall()
        if remembered is not None:
            self.take(remembered)

    async def hear(self, batch: Batch) -> None:
        """Take a batch of the follower, and tell of it."""
        told = self.batch(batch)
        if self.changed is not None and (told or batch.first):
            await self.changed(told)

    def batch(self, batch: Batch) -> list[Told[T]]:
        """Take a batch of the follower."""
        if batch.first:
            self.heard = True
            return self.take(batch.state)
        return self._records_of((each.topic, each.key, each.after) for each in batch.changes)

    def take(self, state: Mapping[Key, Record]) -> list[Told[T]]:
        """Hold exactly `state`."""
        self.ready = True
        known = {*self._records, *self.unreadable}
        gone = [(self.topic, key, None) for key in known if (self.topic, key) not in state]
        return self._records_of([*gone, *((topic, key, record) for (topic, key), record in state.items())])

    def _records_of(self, changes: Iterable[tuple[str, str, Record | None]]) -> list[Told[T]]:
        told = []
        for topic, key, record in changes:
            if topic != self.topic:
                continue
            before, after = self._drop(key), self._read(key, record)
            if after is not None:
                self._records[key] = after
                if self.by is not None:
                    self._by[self.by(after)] = after
            if before != after:
                told.append(Told(key, before, after))
        return told

    def _read(self, key: str, record: Record | None) -> T | None:
        self.unreadable.pop(key, None)
        if record is None:
            return None
        try:
            return convert(record, self.type)
        except msgspec.ValidationError as error:
            self.unreadable[key] = str(error)
            logger.warning("record %s of %s at %s is left out: %s", key, self.topic, self.follower.endpoint, error)
            return None

    def _drop(self, key: str) -> T | None:
        """Forget a record; a name that another one has taken over meanwhile stays with that one."""
        gone = self._records.pop(key, None)
        if gone is not None and self.by is not None and self._by.get(self.by(gone)) is gone:
            del self._by[self.by(gone)]
        return gone


class Mirrors:
    """Mirrors by the name of their feed. `changed` is set by whatever one of them tells; whoever waits clears it."""

    def __init__(self, mirrors: Mapping[str, Mirror[Any]]) -> None:
        self.mirrors = dict(mirrors)
        self.changed = asyncio.Event()
        self.live = asyncio.Event()
        """Set once each of them has been heard in this life."""

    @contextlib.asynccontextmanager
    async def run(self, metrics: Metrics) -> AsyncIterator[None]:
        """Follow all of them while the block lasts; what they remember is there at once."""
        for name, mirror in self.mirrors.items():
            await asyncio.to_thread(mirror.recall)
            mirror.follower.measure(metrics, name)
        self.changed.set()
        tasks = [
            asyncio.create_task(mirror.follower.follow(functools.partial(self._hear, mirror)), name=f"feed {name}")
            for name, mirror in self.mirrors.items()
        ]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _hear(self, mirror: Mirror[Any], batch: Batch) -> None:
        if not mirror.heard:  # who is there again is seldom alone: gw has started, or its nginx
            for other in self.mirrors.values():
                other.follower.wake()
        try:
            await mirror.hear(batch)
        finally:
            self.changed.set()
            if all(each.heard for each in self.mirrors.values()):
                self.live.set()

    def checks(self) -> dict[str, Callable[[], Awaitable[None]]]:
        """For /healthz, by the feed's name."""
        return {name: mirror.fresh for name, mirror in self.mirrors.items()}

    def standings(self) -> list[Standing]:
        """How each of them is."""
        return [
            Standing(
                name,
                None if mirror.follower.state.position is None else mirror.follower.state.position.revision,
                round(mirror.follower.staleness, 1),
            )
            for name, mirror in self.mirrors.items()
        ]
