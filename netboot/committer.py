"""Boot records in groups: whoever asks while a transaction is written shares the next one.

A hall that is switched on asks five hundred times a second, and each record is on the disk before its answer leaves.
One transaction a question would wait for the disk five hundred times.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from netboot.boots import Answered, Asked

GROUP = 200
GATHER_SECONDS = 0.003
"""How long the first of all waits for others: a transaction costs more than what it writes. Those who come while a
transaction is written have waited for each other by then."""


class Committer:
    """Hands questions to `write`, a blocking call that answers all of them, one group at a time."""

    def __init__(self, write: Callable[[Sequence[Asked]], list[Answered]]) -> None:
        self._write = write
        self._waiting: list[tuple[Asked, asyncio.Future[Answered]]] = []
        self._writer: asyncio.Task[None] | None = None

    async def answer(self, asked: Asked) -> Answered:
        """Raises whatever `write` raises, for everybody of its group."""
        future: asyncio.Future[Answered] = asyncio.get_running_loop().create_future()
        self._waiting.append((asked, future))
        if self._writer is None:
            self._writer = asyncio.create_task(self._work(), name="boot records")
        return await future

    async def _work(self) -> None:
        await asyncio.sleep(GATHER_SECONDS)
        while self._waiting:
            group, self._waiting = self._waiting[:GROUP], self._waiting[GROUP:]
            try:
                answers = await asyncio.to_thread(self._write, [asked for asked, _ in group])
            except Exception as error:
                for _, future in group:
                    if not future.done():  # its client may be gone
                        future.set_exception(error)
            else:
                for (_, future), answer in zip(group, answers, strict=True):
                    if not future.done():
                        future.set_result(answer)
        self._writer = None
