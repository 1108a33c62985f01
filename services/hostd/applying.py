"""Bringing a generation into force: step by step, with a journal on disk that whoever comes next goes on with.

A step is journalled as begun before it is done and as done afterwards, and doing it twice is as good as once. When one
fails, when what was started does not stay up, or when it is cancelled, the way back is planned from what is then to the
generation in force, and goes the same way, into the same journal. `force.json` moves when everything is done, in one
step. Nothing here knows HTTP.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from typing import Protocol

import msgspec

from services.common.errors import BacklineError, HostError
from services.hostd.desired import Desired
from services.hostd.history import Entry, Failure, Force, Generation, History, Outcome, Record, State
from services.hostd.host_planner import HostSeen, Originals, Plan, concerned, merged, plan
from services.hostd.planner import Kind, Step

Observe = Callable[[Iterable[str], Desired], HostSeen]
"""A host as it is: the units that are named, and what of the rest a document is about."""
STARTING = (Kind.START, Kind.RESTART, Kind.CREATE, Kind.UPGRADE, Kind.REVERT)


class Hands(Protocol):
    """What does steps."""

    async def do(self, step: Step, token: str) -> None:
        """Do one step, and return when it is done. Raises BacklineError, OSError.

        A step that is done once more, since who did it has died, has the same `token`; no other step has it.
        """

    async def explain(self, error: BacklineError, step: Step) -> Failure:
        """What a person wants to know of a step that failed."""

    async def going_down(self) -> bool:
        """Does the host shut down, or does systemd not answer? What fails then says nothing of the generation."""


class GoingDown(Exception):
    """The host shuts down, or its systemd cannot be asked: the journal stays as it is, for later or the next boot."""


class Cancelled(Exception):
    """Somebody does not want it any more."""


class Applier:
    """Applies one generation at a time. `tell` hears of every change of a record."""

    def __init__(
        self,
        history: History,
        hands: Hands,
        observe: Observe,
        *,
        boot: str,
        settle_seconds: float,
        tell: Callable[[Record], object],
    ) -> None:
        self.history, self.hands, self.observe, self.boot = history, hands, observe, boot
        self.settle_seconds = settle_seconds
        self.tell = tell
        self.cancel = asyncio.Event()

    def plan(self, generation: Generation) -> Plan:
        """The steps from now to a generation. Blocks. Raises what `planner.plan` raises, BusError, OSError."""
        return self._planned(generation.desired, self.history.force().originals)

    def begin(self, generation: Generation, planned: Plan, *, job: str, by: str) -> Record:
        """A journal for a plan, on disk; nothing is done yet."""
        self.cancel.clear()
        entries = [Entry(step) for step in planned.steps]
        record = Record(generation.number, job, by, self.boot, time.time(), entries, planned.originals)
        self._save(record)
        return record

    async def run(self, record: Record) -> Record:
        """Go on with a journal until its end, and return it.

        Raises GoingDown, and OSError when the journal cannot be written.
        """
        generation = await asyncio.to_thread(self.history.generation, record.generation)
        if record.boot != self.boot:
            record = await asyncio.to_thread(self._after_a_boot, record, generation)
        if record.back is None:
            try:
                record = await self._forward(record, generation)
            except _Failed as failed:
                record = await asyncio.to_thread(self._turn, failed.record)
            except Cancelled:
                current = self.history.record(record.generation) or record
                current = msgspec.structs.replace(current, cancelled=True)
                record = await asyncio.to_thread(self._turn, current)
            else:
                return record
        return await self._back(record)

    async def _forward(self, record: Record, generation: Generation) -> Record:
        record = await self._steps(record, back=False)
        if any(entry.step.kind in STARTING for entry in record.entries):
            await self._settle()
        left = await asyncio.to_thread(self.plan, generation)
        if all(step.kind is Kind.RESET for step in left.steps):  # it was stopped, and said that it failed
            for step in left.steps:
                await self.hands.do(step, "")
            left = Plan([], left.originals)
        if left.steps:
            if await self.hands.going_down():
                raise GoingDown
            raise _Failed(await self._unsettled(record, left.steps))
        return await asyncio.to_thread(self._in_force, record)

    async def _unsettled(self, record: Record, steps: list[Step]) -> Record:
        first = steps[0]
        message = f"what was asked for did not last; it still takes: {', '.join(str(step) for step in steps[:5])}"
        error = HostError("apply.unsettled", message, hint="see the journals of these units")
        return msgspec.structs.replace(record, failure=await self.hands.explain(error, first))

    def _in_force(self, record: Record) -> Record:
        force = self.history.force()
        before = force.before if force.generation == record.generation else force.generation
        self.history.set_force(Force(record.generation, record.originals, before))
        return self._save(msgspec.structs.replace(record, outcome=Outcome.DONE, ended=time.time()))

    def _turn(self, record: Record) -> Record:
        """Plan the way back from wherever this got to."""
        try:
            back = [Entry(step) for step in self._way_back(record).steps]
        except BacklineError as error:
            failure = Failure("apply.stuck", f"there is no way back: {error.message}", error.hint)
            failed = msgspec.structs.replace(
                record, back=[], outcome=Outcome.FAILED, failure=record.failure or failure, ended=time.time()
            )
            return self._save(failed)
        return self._save(msgspec.structs.replace(record, back=back))

    def _way_back(self, record: Record) -> Plan:
        force = self.history.force()
        known = merged(force.originals, record.originals)
        return self._planned(self.history.desired(force.generation), known)

    def _planned(self, desired: Desired, originals: Originals) -> Plan:
        return plan(self.observe(concerned(desired, originals), desired), desired, originals)

    async def _back(self, record: Record) -> Record:
        if record.outcome is not Outcome.RUNNING:
            return record
        try:
            record = await self._steps(record, back=True)
        except _Failed as failed:
            record = failed.record
            outcome = Outcome.FAILED
        else:
            outcome = Outcome.CANCELLED if record.cancelled else Outcome.REVERTED
        ended = msgspec.structs.replace(record, outcome=outcome, ended=time.time())
        return await asyncio.to_thread(self._save, ended)

    def _after_a_boot(self, record: Record, generation: Generation) -> Record:
        """A new boot may have forgotten what was done: plan again from what is."""
        if record.back is not None:
            return self._turn(msgspec.structs.replace(record, boot=self.boot))
        known = merged(self.history.force().originals, record.originals)
        try:
            again = self._planned(generation.desired, known)
        except BacklineError as error:
            failure = Failure(error.code, error.message, error.hint)
            return self._turn(msgspec.structs.replace(record, boot=self.boot, failure=failure))
        entries = [Entry(step) for step in again.steps]
        return self._save(msgspec.structs.replace(record, boot=self.boot, entries=entries, originals=again.originals))

    async def _steps(self, record: Record, *, back: bool) -> Record:
        """Do the steps that are not done. Raises _Failed, Cancelled (on the way forward)."""
        for index, entry in enumerate((record.back if back else record.entries) or []):
            if entry.state is State.DONE:
                continue
            if self.cancel.is_set() and not back:
                raise Cancelled
            record = await asyncio.to_thread(self._mark, record, index, State.BEGUN, back=back)
            if self.cancel.is_set() and not back:
                raise Cancelled
            try:
                await self.hands.do(entry.step, f"{record.job}-{record.boot}-{'back' if back else 'step'}-{index}")
            except (BacklineError, OSError) as error:
                if self.cancel.is_set() and not back:
                    raise Cancelled from error
                if await self.hands.going_down():
                    raise GoingDown from error
                expected = error if isinstance(error, BacklineError) else HostError("host.files", str(error))
                failure = await self.hands.explain(expected, entry.step)
                record = msgspec.structs.replace(record, failure=record.failure or failure)
                raise _Failed(await asyncio.to_thread(self._mark, record, index, State.FAILED, back=back)) from error
            record = await asyncio.to_thread(self._mark, record, index, State.DONE, back=back)
        return record

    def _mark(self, record: Record, index: int, state: State, *, back: bool) -> Record:
        entries = list((record.back if back else record.entries) or [])
        entries[index] = msgspec.structs.replace(entries[index], state=state)
        if back:
            return self._save(msgspec.structs.replace(record, back=entries))
        return self._save(msgspec.structs.replace(record, entries=entries))

    async def _settle(self) -> None:
        """Give what was started the time to fall over."""
        try:
            async with asyncio.timeout(self.settle_seconds):
                await self.cancel.wait()
        except TimeoutError:
            return
        raise Cancelled

    def _save(self, record: Record) -> Record:
        self.history.save(record)
        self.tell(record)
        return record


class _Failed(Exception):
    """A step of this record failed."""

    def __init__(self, record: Record) -> None:
        super().__init__(record.generation)
        self.record = record
