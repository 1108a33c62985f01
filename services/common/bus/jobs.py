"""Starting, stopping and waiting for the result: the manager's calls and the bus's signals joined.

The subscription comes first, then the call, then the wait (systemd#4973): no result can slip between.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from services.common.bus.model import BusError, Events, JobRemoved, Manager, Resync
from services.common.errors import BacklineError, MissingError

logger = logging.getLogger(__name__)

GOOD = frozenset({"done", "skipped"})
LOOK_SECONDS = 0.2


class JobFailed(BacklineError):
    """A job of systemd ended otherwise than done; `result` says how (org.freedesktop.systemd1(5), JobRemoved)."""

    def __init__(self, unit: str, result: str) -> None:
        super().__init__("unit.job", f"the job of {unit} ended: {result}", hint=f"journalctl --unit={unit}")
        self.unit = unit
        self.result = result


async def finish(
    events: Events,
    action: Callable[[], str],
    *,
    deadline: float,
    ended: Callable[[str], JobRemoved | None] | None = None,
) -> JobRemoved:
    """Run `action` (a call of `Manager` that returns a job) in a thread, and wait until that job has ended.

    When the bus is lost meanwhile (a systemd that is upgraded comes back under another name), the end may go unheard;
    then `ended` is asked every `LOOK_SECONDS`, until it says how the job ended.

    `deadline` is a `time.monotonic()` value. Raises JobFailed, BusError("bus.late") past the deadline and, without
    `ended`, BusError("bus.gap") when the result cannot be known, and what `action` raises.
    """
    try:
        async with asyncio.timeout_at(deadline), events.subscribe(jobs_only=True) as stream:
            await anext(stream)  # the Resync that says that we are subscribed
            job = await asyncio.to_thread(action)
            async for event in stream:
                if isinstance(event, Resync):
                    if ended is None:
                        raise BusError("bus.gap", f"the bus was lost while job {job} ran; its result is not known")
                    return _good(await _look(lambda: ended(job)))
                if isinstance(event, JobRemoved) and event.job == job:
                    return _good(event)
    except TimeoutError as error:
        raise BusError("bus.late", "the job did not end before its deadline") from error
    raise BusError("bus.gap", "the events ended")


def _good(event: JobRemoved) -> JobRemoved:
    if event.result not in GOOD:
        raise JobFailed(event.unit, event.result)
    return event


async def _look(ended: Callable[[], JobRemoved | None]) -> JobRemoved:
    while True:
        try:
            if (found := await asyncio.to_thread(ended)) is not None:
                return found
        except BusError as error:
            logger.warning("%s; looking again", error)
        await asyncio.sleep(LOOK_SECONDS)


def end_of(manager: Manager, job: str, unit: str, *, stops: bool = False) -> JobRemoved | None:
    """How a job ended whose end was not heard, as its unit tells; None while it goes on. Blocks.

    A job that was cancelled meanwhile cannot be told from one that has done its work: who must know reads what the
    work leaves. Raises BusError.
    """
    if manager.job_goes_on(job):
        return None
    try:
        now = manager.unit(unit)
    except MissingError:  # a transient one is gone when it has ended well
        return JobRemoved(job, unit, "done")
    if stops:
        good = now.active in ("inactive", "failed")
    else:
        good = now.active in ("active", "reloading") or (now.active == "inactive" and now.result in ("success", ""))
    return JobRemoved(job, unit, "done" if good else "failed")
