"""Starting, stopping and waiting for the result: the manager's calls and the bus's signals joined.

The subscription comes first, then the call, then the wait (systemd#4973): no result can slip between.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from services.common.bus.model import BusError, Events, JobRemoved, Resync
from services.common.errors import BacklineError

GOOD = frozenset({"done", "skipped"})


class JobFailed(BacklineError):
    """A job of systemd ended otherwise than done; `result` says how (org.freedesktop.systemd1(5), JobRemoved)."""

    def __init__(self, unit: str, result: str) -> None:
        super().__init__("unit.job", f"the job of {unit} ended: {result}", hint=f"journalctl --unit={unit}")
        self.unit = unit
        self.result = result


async def finish(events: Events, action: Callable[[], str], *, deadline: float) -> JobRemoved:
    """Run `action` (a call of `Manager` that returns a job) in a thread, and wait until that job has ended.

    `deadline` is a `time.monotonic()` value. Raises JobFailed, BusError("bus.late") past the deadline and
    BusError("bus.gap") when the bus was lost meanwhile and the result cannot be known, and what `action` raises.
    """
    try:
        async with asyncio.timeout_at(deadline), events.subscribe() as stream:
            await anext(stream)  # the Resync that says that we are subscribed
            job = await asyncio.to_thread(action)
            async for event in stream:
                if isinstance(event, Resync):
                    raise BusError("bus.gap", f"the bus was lost while job {job} ran; its result is not known")
                if isinstance(event, JobRemoved) and event.job == job:
                    if event.result not in GOOD:
                        raise JobFailed(event.unit, event.result)
                    return event
    except TimeoutError as error:
        raise BusError("bus.late", "the job did not end before its deadline") from error
    raise BusError("bus.gap", "the events ended")
