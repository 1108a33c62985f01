"""What does the steps of a plan on a real host.

Unit files are written by `UnitFiles`, roots held and exported by who serves them (`roots_seen`), machines changed by
the unit that may (`machines_asking`); everything else is asked of systemd.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable

from services.common.bus import Events, Manager
from services.common.bus.jobs import JobFailed, end_of, finish
from services.common.errors import BacklineError, BusyError, HostError
from services.hostd.history import Failure
from services.hostd.journal import JournalReader
from services.hostd.machines_asking import UNIT, Ask, AskFailed, Asks, Verb
from services.hostd.planner import Kind, Step
from services.hostd.roots_seen import RootServer
from services.hostd.unit_files import UnitFiles

LINES = 10
"""Lines of a unit's journal that a failure shows."""


MACHINE_SECONDS = 24 * 3600.0
"""How long a change of a machine may take: it copies a /var of any size, and its gate has a deadline of its own."""
_VERBS: dict[Kind, Verb] = {
    Kind.CREATE: "create",
    Kind.BRING_BACK: "bring-back",
    Kind.LIMITS: "configure",
    Kind.CONFIGURE: "configure",
    Kind.UPGRADE: "upgrade",
    Kind.REVERT: "revert",
    Kind.START: "start",
    Kind.STOP: "stop",
    Kind.SET_ASIDE: "set-aside",
}


class SystemHands:
    """Implements `applying.Hands`. A job of systemd may take `job_seconds`."""

    def __init__(
        self,
        manager: Manager,
        events: Events,
        files: UnitFiles,
        journal: JournalReader,
        *,
        job_seconds: float,
        asks: Asks | None = None,
        roots: RootServer | None = None,
    ) -> None:
        self.manager, self.events, self.files, self.journal = manager, events, files, journal
        self.job_seconds = job_seconds
        self.asks, self.root_server = asks or Asks(), roots or RootServer()
        self._asking: dict[str, asyncio.Lock] = {}
        self._running: str | None = None
        self._unwanted = False

    def another(self) -> SystemHands:
        """Hands for something that goes on beside this, and is cancelled by itself."""
        made = SystemHands(
            self.manager,
            self.events,
            self.files,
            self.journal,
            job_seconds=self.job_seconds,
            asks=self.asks,
            roots=self.root_server,
        )
        made._asking = self._asking
        return made

    async def do(self, step: Step, token: str) -> None:
        """Do one step; the same `token` for the same step, however often. Raises BacklineError, OSError."""
        if step.machine is not None:
            ask = Ask(token, _VERBS[step.kind], step.wish, step.version or "", "a generation of this host's document")
            await self.ask(step.machine, ask)
        elif step.names is not None:
            await asyncio.to_thread(self._serve, step, step.names)
        elif step.unit is None:
            await asyncio.to_thread(self.manager.reload_manager)
        else:
            await self._do(step, step.unit)

    def _serve(self, step: Step, names: list[str]) -> None:
        if step.kind is Kind.HOLD:
            self.root_server.hold(names)
        elif step.kind is Kind.STAGE:
            self.root_server.stage(names[0])
        else:
            self.root_server.export(names[0])

    async def ask(self, name: str, ask: Ask) -> None:
        """Have a machine changed, and wait for the verdict. Raises AskFailed, JobFailed, BusError, OSError."""
        unit = UNIT.format(name=name)
        async with self._asking.setdefault(name, asyncio.Lock()):
            before = await asyncio.to_thread(self.asks.ask, name)
            if before is None or before.id != ask.id:
                if before is not None and await asyncio.to_thread(self._runs, unit):
                    # Somebody asked for something else, and is gone. What it has begun is in the machine's record.
                    await self.job(lambda: self.manager.stop(unit), unit, stops=True)
                await asyncio.to_thread(self.asks.put, name, ask)
            await self.job(lambda: self.manager.start(unit), unit, seconds=MACHINE_SECONDS)
            verdict = await asyncio.to_thread(self.asks.verdict, name)
        if verdict is None or verdict.id != ask.id:
            raise HostError("machine.verdict", f"{unit} ended and said nothing", hint=f"journalctl --unit={unit}")
        if (failure := verdict.failure) is not None:
            raise AskFailed(failure.code, failure.message, hint=failure.hint)

    def _runs(self, unit: str) -> bool:
        return self.manager.unit(unit).active in ("activating", "active", "deactivating")

    def busy_with(self, name: str) -> None:
        """Raises BusyError("machine.asked") while something is asked of a machine."""
        if name in self._asking and self._asking[name].locked():
            raise BusyError("machine.asked", f"{name} is being changed", hint="backline host show, or wait for it")

    async def _do(self, step: Step, unit: str) -> None:
        manager = self.manager
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
                await self.job(lambda: manager.start(unit), unit)
            case Kind.STOP:
                await self.job(lambda: manager.stop(unit), unit, stops=True)
            case Kind.RESTART:
                await self.job(lambda: manager.restart(unit), unit)
            case _:
                raise HostError("host.step", f"nobody knows how to {step}")

    async def job(
        self, action: Callable[[], str], unit: str, *, stops: bool = False, seconds: float | None = None
    ) -> str:
        """Run a job of systemd about `unit` to its end, and return its result. Raises JobFailed, BusError."""

        self._unwanted = False

        def remembered() -> str:
            self._running = action()
            if self._unwanted:  # since before there was anything to cancel
                self.manager.cancel(self._running)
            return self._running

        try:
            return (
                await finish(
                    self.events,
                    remembered,
                    deadline=time.monotonic() + (seconds or self.job_seconds),
                    ended=lambda job: end_of(self.manager, job, unit, stops=stops),
                )
            ).result
        finally:
            self._running = None

    async def cancel(self) -> None:
        """Cancel the job of systemd that runs, or that is about to."""
        self._unwanted = True
        if self._running is not None:
            await asyncio.to_thread(self.manager.cancel, self._running)

    async def explain(self, error: BacklineError, step: Step) -> Failure:
        """A failure, with the end of the unit's journal."""
        if step.machine is not None:
            return await self.failure(error, UNIT.format(name=step.machine))
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
