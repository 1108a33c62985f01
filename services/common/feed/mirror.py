"""One topic of a feed as structs, found by key or by one other name, and kept current while `run` runs.

A record that cannot be read is left out and named; the others stay. A feed that refuses us is asked again: whoever
serves from what is held goes on serving, and `fresh` of the follower says in /healthz that it is old.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

import msgspec

from services.common.errors import BacklineError, MissingError
from services.common.feed.client import Batch, Follower, Key
from services.common.feed.wire import Record

logger = logging.getLogger(__name__)

T = TypeVar("T", bound=msgspec.Struct)
REFUSED_SECONDS = 10.0


@dataclass(frozen=True)
class Told(Generic[T]):
    """What happened to a record: `before` is None for one that is new, `after` for one that is gone."""

    key: str
    before: T | None
    after: T | None


class Mirror(Generic[T]):
    """Records of `topic`, each a `type`, which takes the fields that it knows. `by` is their second name."""

    def __init__(self, follower: Follower, topic: str, type: type[T], *, by: Callable[[T], str]) -> None:
        self.follower = follower
        self.topic = topic
        self.type = type
        self.by = by
        self.ready = False
        """Whether the owner has ever told us, in this life or a remembered one: until then nobody is unknown."""
        self.heard = False
        """Whether it has told us in this life."""
        self.unreadable: set[str] = set()
        self._records: dict[str, T] = {}
        self._by: dict[str, T] = {}

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

    async def run(self, changed: Callable[[list[Told[T]]], Awaitable[None]] | None = None) -> None:
        """Follow for ever; `changed` is awaited with what each batch did, and with the first one in any case."""
        while True:
            try:
                async for batch in self.follower.batches():
                    told = self.batch(batch)
                    if changed is not None and (told or batch.first):
                        await changed(told)
            except BacklineError as error:
                logger.error("%s refuses its feed, or what it says cannot be kept: %s", self.follower.endpoint, error)
            await asyncio.sleep(REFUSED_SECONDS)

    def batch(self, batch: Batch) -> list[Told[T]]:
        """Take a batch of the follower."""
        if batch.first:
            self.heard = True
            return self.take(batch.state)
        return self._records_of((each.topic, each.key, each.after) for each in batch.changes)

    def take(self, state: Mapping[Key, Record]) -> list[Told[T]]:
        """Hold exactly `state`."""
        self.ready = True
        gone = [(self.topic, key, None) for key in self._records if (self.topic, key) not in state]
        return self._records_of([*gone, *((topic, key, record) for (topic, key), record in state.items())])

    def _records_of(self, changes: Iterable[tuple[str, str, Record | None]]) -> list[Told[T]]:
        told = []
        for topic, key, record in changes:
            if topic != self.topic:
                continue
            before, after = self._drop(key), self._read(key, record)
            if after is not None:
                self._records[key] = after
                self._by[self.by(after)] = after
            if before != after:
                told.append(Told(key, before, after))
        return told

    def _read(self, key: str, record: Record | None) -> T | None:
        self.unreadable.discard(key)
        if record is None:
            return None
        try:
            return msgspec.convert(record, self.type)
        except msgspec.ValidationError as error:
            self.unreadable.add(key)
            logger.warning("record %s of %s at %s is left out: %s", key, self.topic, self.follower.endpoint, error)
            return None

    def _drop(self, key: str) -> T | None:
        """Forget a record; a name that another one has taken over meanwhile stays with that one."""
        gone = self._records.pop(key, None)
        if gone is not None and self._by.get(self.by(gone)) is gone:
            del self._by[self.by(gone)]
        return gone
