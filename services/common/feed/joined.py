"""Several feeds at once: the records of each, kept as their owners say, and one event for whatever changes.

Each feed keeps what it told last while it is away, and says for how long it has been. One that refuses us is asked
again: whoever answers there may be on its way to a newer version.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass

from services.common.errors import BacklineError
from services.common.feed.client import STALE_SECONDS, Follower
from services.common.feed.wire import Record
from services.common.metrics import Metrics

logger = logging.getLogger(__name__)

REFUSED_SECONDS = 5.0
"""Until a feed that refuses us is asked again."""


@dataclass(frozen=True)
class Standing:
    """How a feed is: the revision that it told last (None: never anything), and how long it has been silent."""

    name: str
    revision: int | None
    silence: float

    @property
    def stale(self) -> bool:
        return self.revision is None or self.silence > STALE_SECONDS


class Joined:
    """Followers by the name of their feed. `changed` is set by whatever one of them tells; whoever waits clears it."""

    def __init__(self, followers: Mapping[str, Follower]) -> None:
        self.followers = dict(followers)
        self.changed = asyncio.Event()
        self.live = asyncio.Event()
        """Set once each of them has told something in this life, which takes its time where nothing is new."""
        self._heard: set[str] = set()

    @contextlib.asynccontextmanager
    async def run(self, metrics: Metrics) -> AsyncIterator[None]:
        """Follow all of them while the block lasts; what they remember is there at once."""
        for name, follower in self.followers.items():
            await asyncio.to_thread(follower.recall)
            follower.measure(metrics, name)
        self.changed.set()
        tasks = [
            asyncio.create_task(self._follow(name, follower), name=f"feed {name}")
            for name, follower in self.followers.items()
        ]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _follow(self, name: str, follower: Follower) -> None:
        while True:
            try:
                async for _ in follower.batches():
                    self.changed.set()
                    self._heard.add(name)
                    if len(self._heard) == len(self.followers):
                        self.live.set()
            except BacklineError as error:
                logger.error("the feed of %s refuses us: %s", follower.endpoint, error)
            except Exception:  # a bug of ours, or of whoever answers, shall not end the other feeds
                logger.exception("the feed of %s cannot be followed", follower.endpoint)
            await asyncio.sleep(REFUSED_SECONDS)

    @property
    def known(self) -> bool:
        """Has each of them told its state, now or in an earlier life?"""
        return all(follower.state.position is not None for follower in self.followers.values())

    def records(self, name: str, topic: str) -> dict[str, Record]:
        """The records of a topic by key."""
        state = self.followers[name].state.records
        return {key: record for (told, key), record in state.items() if told == topic}

    def standings(self) -> list[Standing]:
        """How each of them is."""
        return [
            Standing(
                name,
                None if follower.state.position is None else follower.state.position.revision,
                round(follower.staleness, 1),
            )
            for name, follower in self.followers.items()
        ]
