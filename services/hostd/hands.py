"""What does the steps of a plan on a real host: unit files by `UnitFiles`, everything else by asking systemd."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable

from services.common.bus import Events, Manager
from services.common.bus.jobs import JobFailed, finish
from services.common.errors import BacklineError
from services.hostd.history import Failure
from services.hostd.journal import JournalReader
from services.hostd.planner import Kind, Step
from services.hostd.unit_files import UnitFiles

LINES = 10
"""Lines of a unit's journal that a failure shows."""


class SystemHands:
    """Implements `applying.Hands`. A job of systemd may take `job_seconds`."""

    def __init__(
        self, manager: Manager, events: Events, files: UnitFiles, journal: JournalReader, *, job_seconds: float
    ) -> None:
        self.manager, self.events, self.files, self.journal = manager, events, files, journal
        self.job_seconds = job_seconds
        self._running: str | None = None
        self._unwanted = False

    async def do(self, step: Step) -> None:
        """Do one step. Raises BacklineError, OSError."""
        if step.unit is None:
            await asyncio.to_thread(self.manager.reload_manager)
            return
        unit, manager = step.unit, self.manager
        match step.kind:
            case Kind.WRITE:
                await asyncio.to_thread(self.files.write, unit, step.drop_in, step.text or "")
            case Kind.REMOVE:
                await asyncio.to_thread(self.files.remove, unit, step.drop_in)
            case Kind.RESET:
                await asyncio.to_thread(manager.reset_failed, unit)
            case Kind.ENABLE:
                await asyncio.to_thread(manager.enable, unit)
            case Kind.DISABLE:
                await asyncio.to_thread(manager.disable, unit)
            case Kind.START:
                await self.job(lambda: manager.start(unit))
            case Kind.STOP:
                await self.job(lambda: manager.stop(unit))
            case Kind.RESTART:
                await self.job(lambda: manager.restart(unit))
            case Kind.RELOAD:
                await asyncio.to_thread(manager.reload_manager)

    async def job(self, action: Callable[[], str]) -> str:
        """Run a job of systemd to its end, and return its result. Raises JobFailed, BusError."""

        self._unwanted = False

        def remembered() -> str:
            self._running = action()
            if self._unwanted:  # since before there was anything to cancel
                self.manager.cancel(self._running)
            return self._running

        try:
            return (await finish(self.events, remembered, deadline=time.monotonic() + self.job_seconds)).result
        finally:
            self._running = None

    async def cancel(self) -> None:
        """Cancel the job of systemd that runs, or that is about to."""
        self._unwanted = True
        if self._running is not None:
            await asyncio.to_thread(self.manager.cancel, self._running)

    async def explain(self, error: BacklineError, step: Step) -> Failure:
        """A failure, with the end of the unit's journal."""
        return await self.failure(error, step.unit if step.kind not in (Kind.WRITE, Kind.REMOVE) else None)

    async def going_down(self) -> bool:
        """Is systemd stopping everything, or gone, so that there is no way back either?"""
        try:
            return await asyncio.to_thread(self.manager.system_state) == "stopping"
        except BacklineError:
            return True

    async def failure(self, error: BacklineError, unit: str | None) -> Failure:
        """A failure about `unit`; what cannot be read of its journal is left out."""
        lines: list[str] = []
        if unit is not None:
            with contextlib.suppress(BacklineError):
                journal = await asyncio.to_thread(self.journal.read, unit, lines=LINES)
                lines = [entry.message for entry in journal.entries if entry.message is not None]
        result = error.result if isinstance(error, JobFailed) else None
        return Failure(error.code, error.message, error.hint, unit, result, lines)
