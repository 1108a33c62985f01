"""Passes heartbeats on to presence: who is logged in on which machine, once a second, all that came meanwhile at once.

Presence answers whom machines still name although their sessions have ended; the machine's next heartbeat is told.

It never makes a machine wait, and never grows: of each machine only the newest heartbeat is kept while presence is
away, and one that is older than `OLD_SECONDS` says nothing any more. An empty batch goes out every `QUIET_SECONDS`, so
that presence can tell silent machines from a netboot that is away.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from services.common.errors import BacklineError
from services.presence.client import AsyncPresence
from services.presence.schema import Beat

logger = logging.getLogger(__name__)

PASS_SECONDS = 1.0
QUIET_SECONDS = 5.0
OLD_SECONDS = 20.0
ANSWER_SECONDS = 5.0
BATCH = 5000


class Passing:
    """Heartbeats on their way to presence at `address`."""

    def __init__(self, address: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.address = address
        self.clock = clock
        self.passed = 0
        self._waiting: dict[int, tuple[float, Beat]] = {}
        self._ends: dict[int, tuple[str, set[str]]] = {}
        self._last = float("-inf")
        self._silent = False

    def __len__(self) -> int:
        return len(self._waiting)

    def note(self, beat: Beat) -> None:
        """Keep a heartbeat until the next batch, instead of an older one of the machine."""
        self._waiting[beat.machine] = (self.clock(), beat)

    def ends(self, machine: int, boot: str) -> tuple[str, ...]:
        """Whose sessions on a boot of a machine have to end, as presence said since this was asked last."""
        of, logins = self._ends.pop(machine, ("", set()))
        return tuple(sorted(logins)) if of == boot else ()

    async def run(self) -> None:
        """Pass on for ever."""
        async with AsyncPresence(self.address, seconds=ANSWER_SECONDS) as presence:
            while True:
                await asyncio.sleep(PASS_SECONDS)
                await self.once(presence)

    async def once(self, presence: AsyncPresence) -> None:
        """Send what waits. What could not be sent waits on, unless a newer one has come."""
        now = self.clock()
        self._waiting = {id: each for id, each in self._waiting.items() if now - each[0] <= OLD_SECONDS}
        taken = dict(list(self._waiting.items())[:BATCH])
        if not taken and now - self._last < QUIET_SECONDS:
            return
        for id in taken:
            del self._waiting[id]
        try:
            answer = await presence.heartbeats([beat for _, beat in taken.values()])
        except BacklineError as error:
            self._waiting = {**taken, **self._waiting}
            level = logging.DEBUG if self._silent else logging.WARNING
            logger.log(level, "heartbeats cannot be passed on: %s", error)
            self._silent = True
            return
        if self._silent:
            logger.info("presence takes heartbeats again")
        self._silent, self._last = False, now
        self.passed += len(taken)
        for id in taken:
            self._ends.pop(id, None)
        for end in answer.ends:
            boot, logins = self._ends.get(end.machine, (end.boot, set()))
            self._ends[end.machine] = (end.boot, {end.login} | (logins if boot == end.boot else set()))
