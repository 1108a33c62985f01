"""The supervisor of one host: generations, jobs, and what runs of them. No HTTP; runs in one event loop.

One generation at a time comes into force; actions on units run beside it, a few at once. Jobs are in memory, those of
generations also on disk as their journals: the id of such a job finds it after any restart.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Literal

import msgspec

from services.common.bus import Manager, TransientService
from services.common.codec import to_builtins
from services.common.errors import BacklineError, BusyError, HostError, MissingError, UsageError
from services.common.feed.wire import Item, Kind, Record
from services.hostd import durable, history, staging
from services.hostd.applying import Applier, GoingDown
from services.hostd.desired import UNTOUCHABLE, Desired, check
from services.hostd.hands import SystemHands
from services.hostd.history import Generation, History, Outcome, State
from services.hostd.host_planner import Plan, concerned, plan
from services.hostd.machines_asking import UNIT, Ask
from services.hostd.machines_seen import MachineDetail, Machines, Viewer
from services.hostd.observing import Observer
from services.hostd.store import checked
from services.hostd.supervisor_events import Hub
from services.hostd.supervisor_schema import (
    Action,
    GenerationDetail,
    Generations,
    InForce,
    Job,
    MachineAction,
    Observed,
    Planned,
    Summary,
    Transient,
)

logger = logging.getLogger(__name__)

KEPT = 200
"""Jobs that are remembered."""
RETRY_SECONDS = 3.0
AT_ONCE = 8
"""Actions on units and machines that run at the same time."""
_STATES: Mapping[Outcome, Literal["running", "done", "failed", "reverted", "cancelled"]] = {
    Outcome.RUNNING: "running",
    Outcome.DONE: "done",
    Outcome.REVERTED: "reverted",
    Outcome.CANCELLED: "cancelled",
    Outcome.FAILED: "failed",
}


class StaleError(BacklineError):
    """If-Match names another generation than the newest: somebody else was here."""

    def __init__(self, expected: int, newest: int) -> None:
        hint = "look at it, and wish again: backline host show"
        super().__init__("generation.stale", f"the newest generation is {newest}, not {expected}", hint=hint)


class Supervisor:
    """One host. `run` is part of the application's lifespan."""

    def __init__(
        self,
        *,
        history: History,
        hands: SystemHands,
        boot: str,
        settle_seconds: float,
        viewer: Viewer | None = None,
        verifier: str = "systemd-analyze",
    ) -> None:
        self.history, self.hands, self.viewer, self.verifier = history, hands, viewer, verifier
        self.manager: Manager = hands.manager
        self.observe = Observer(self.manager, hands.files, viewer=viewer, roots=hands.root_server)
        self.applier = Applier(history, hands, self.observe, boot=boot, settle_seconds=settle_seconds, tell=self._heard)
        self.hub = Hub(self.manager, hands.events, self._state, self._machines)
        self._jobs: OrderedDict[str, Job] = OrderedDict()
        self._ends: dict[str, asyncio.Event] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._cancels: dict[str, SystemHands] = {}
        self._applying: str | None = None
        self._writing = asyncio.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None

    @contextlib.asynccontextmanager
    async def run(self) -> AsyncIterator[None]:
        """Go on with what a dead supervisor left, and end what runs when the block ends: its journal stays."""
        self._loop = asyncio.get_running_loop()
        await asyncio.to_thread(self._open)
        left = await asyncio.to_thread(self.history.unfinished)
        if left is not None:
            logger.warning("generation %d was being applied: going on", left.generation)
            self._start_applying(left)
        try:
            yield
        finally:
            tasks = list(self._tasks.values())
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    @property
    def busy(self) -> bool:
        """Is there anything to stay for?"""
        return bool(self._tasks) or self.hub.subscribers > 0

    # What is

    def generations(self) -> Generations:
        """Every generation that is kept, newest first. Blocks."""
        found = []
        for number in reversed(self.history.numbers()):
            each, record = self.history.generation(number), self.history.record(number)
            outcome = record.outcome if record is not None else None
            found.append(Summary(number, each.by, each.why, each.at, each.restores, outcome))
        return Generations(self.history.newest(), self.history.force().generation, found)

    def generation(self, number: int) -> GenerationDetail:
        """One generation. Blocks. Raises MissingError("generation.unknown")."""
        found = self.history.generation(number)
        return GenerationDetail(found, self.history.record(number), self.history.force().generation == number)

    def in_force(self) -> InForce:
        """The document in force. Blocks."""
        force = self.history.force()
        return InForce(force.generation, self.history.newest(), self.history.desired(force.generation), force.originals)

    def observed(self) -> Observed:
        """What the document in force is about as it is, and what is not as it says. Blocks."""
        force = self.history.force()
        desired = self.history.desired(force.generation)
        seen = self.observe(concerned(desired, force.originals), desired)
        drift = plan(seen, desired, force.originals).steps
        return Observed(force.generation, seen.units, drift, seen.machines, seen.roots)

    def planned(self, desired: Desired) -> Planned:
        """What applying a document would do: all of it but the last step. Blocks.

        Raises InputError: "desired.*", "plan.*", "unit.invalid"; BusError.
        """
        return Planned(self.history.newest(), self._plan(Generation(0, desired, "", "", 0.0)).steps)

    def _plan(self, generation: Generation) -> Plan:
        check(generation.desired)
        planned = self.applier.plan(generation)
        staging.verify(planned.steps, self.hands.files, program=self.verifier)
        return planned

    # Generations

    async def apply(
        self, desired: Desired, *, why: str, by: str, expected: int | None, restores: int | None = None
    ) -> Job:
        """Make a document a generation, and begin to bring it into force.

        `expected` is the newest generation as the caller knows it. Raises StaleError, BusyError("apply.running"), and
        what `planned` raises; then nothing has changed.
        """
        async with self._writing:
            if self._applying is not None:
                raise BusyError("apply.running", f"job {self._applying} is bringing a generation into force")
            newest = await asyncio.to_thread(self.history.newest)
            if expected is not None and expected != newest:
                raise StaleError(expected, newest)
            if await asyncio.to_thread(self.history.unfinished) is not None:
                hint = "systemctl restart backline-hostd-supervisor.service"
                raise BusyError(
                    "apply.unfinished", "an earlier generation is not finished, and was given up", hint=hint
                )
            generation = Generation(newest + 1, desired, by, why, time.time(), restores)
            planned = await asyncio.to_thread(self._plan, generation)
            try:
                await asyncio.to_thread(self.history.add, generation)
                record = await asyncio.to_thread(
                    lambda: self.applier.begin(generation, planned, job=f"apply-{secrets.token_hex(6)}", by=by)
                )
            except OSError as error:
                raise HostError("host.files", f"the generation cannot be kept: {error.strerror}") from error
            summary = Summary(generation.number, by, why, generation.at, restores, Outcome.RUNNING)
            self.hub.publish("generations", str(generation.number), Kind.CREATED, _plain(summary))
            return self._start_applying(record)

    async def again(self, *, by: str) -> Job | None:
        """Bring the generation in force into force again, as after a boot; None when there is nothing to do."""
        async with self._writing:
            force = await asyncio.to_thread(self.history.force)
            if self._applying is not None or force.generation == 0:
                return self._jobs.get(self._applying or "")
            generation = await asyncio.to_thread(self.history.generation, force.generation)
            planned = await asyncio.to_thread(self.applier.plan, generation)
            if not planned.steps:
                return None
            job = f"apply-{secrets.token_hex(6)}"
            record = await asyncio.to_thread(lambda: self.applier.begin(generation, planned, job=job, by=by))
            return self._start_applying(record)

    async def rollback(self, *, why: str, by: str, to: int | None, expected: int | None) -> Job:
        """Bring back what was in force before, or generation `to`, as a new generation.

        Raises MissingError("generation.unknown", "generation.none"), and what `apply` raises.
        """
        force = await asyncio.to_thread(self.history.force)
        if to is None and force.generation == 0:
            raise MissingError("generation.none", "no generation is in force: there is nothing to go back from")
        target = force.before if to is None else to
        desired = await asyncio.to_thread(self.history.desired, target)
        return await self.apply(desired, why=why, by=by, expected=expected, restores=target)

    def _start_applying(self, record: history.Record) -> Job:
        job = _job_of(record)
        self._applying = job.id

        async def work() -> None:
            current: history.Record | None = record
            try:
                while current is not None:
                    try:
                        await self.applier.run(current)
                    except GoingDown:
                        logger.warning("the host goes down, or systemd is away: generation %d waits", record.generation)
                        await asyncio.sleep(RETRY_SECONDS)
                        current = await asyncio.to_thread(self.history.record, record.generation)
                    else:
                        current = None
            except OSError as error:
                failure = history.Failure("host.files", f"the journal cannot be written: {error.strerror}")
                self._put(
                    msgspec.structs.replace(self._jobs[job.id], state="failed", failure=failure, ended=time.time())
                )
            finally:
                self._applying = None

        self._begin(job, work)
        return job

    def _heard(self, record: history.Record) -> None:
        """A journal changed; called in whatever thread."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._note, record)

    def _note(self, record: history.Record) -> None:
        job = _job_of(record)
        self._put(job)
        if job.ended is not None:
            key = str(record.generation)
            with contextlib.suppress(BacklineError):
                each = self.history.generation(record.generation)
                summary = Summary(each.number, each.by, each.why, each.at, each.restores, record.outcome)
                self.hub.publish("generations", key, Kind.UPDATED, _plain(summary))

    # Units

    async def act(self, name: str, action: Action, *, by: str) -> Job:
        """Begin an action on a unit. Raises UsageError("unit.name"), MissingError("unit.unknown"), BusError."""
        checked(name)
        if name in UNTOUCHABLE and action.action == "stop":
            raise UsageError("unit.protected", f"{name} carries the supervisor itself")
        await asyncio.to_thread(self.manager.unit, name)
        call = getattr(self.manager, action.action)
        return self._start_unit_job(name, action.action, lambda: call(name, mode=action.mode), by=by)

    async def transient(self, wanted: Transient, *, by: str) -> Job:
        """Start a transient service. Raises UsageError("unit.name", "unit.properties")."""
        service = TransientService(
            checked(wanted.name),
            wanted.argv,
            wanted.description,
            wanted.user,
            wanted.environment,
            remain_after_exit=wanted.remain_after_exit,
            properties=wanted.properties,
        )
        if not wanted.name.endswith(".service"):
            raise UsageError("unit.name", f"{wanted.name} is no service", hint="write it as NAME.service")
        return self._start_unit_job(
            wanted.name, "start-transient", lambda: self.manager.start_transient(service), by=by
        )

    def _start_unit_job(self, unit: str, action: str, call: Callable[[], str], *, by: str) -> Job:
        job = Job(f"unit-{secrets.token_hex(6)}", "unit", action, "running", by, time.time(), unit=unit)
        return self._start_job(job, lambda hands: hands.job(call, unit, stops=action == "stop"), unit)

    def _start_job(self, job: Job, call: Callable[[SystemHands], Awaitable[str | None]], unit: str) -> Job:
        if sum(each.kind != "apply" for name in self._tasks if (each := self._jobs.get(name))) >= AT_ONCE:
            raise BusyError("jobs.full", f"{AT_ONCE} actions are running already", hint="wait for one to end")
        hands = self.hands.another()
        self._cancels[job.id] = hands

        async def work() -> None:
            try:
                result = await call(hands)
                ended = msgspec.structs.replace(job, state="done", done=1, result=result, ended=time.time())
            except BacklineError as error:
                failure = await hands.failure(error, unit)
                state: Literal["cancelled", "failed"] = "cancelled" if failure.result == "canceled" else "failed"
                ended = msgspec.structs.replace(
                    job, state=state, failure=failure, result=failure.result, ended=time.time()
                )
            finally:
                self._cancels.pop(job.id, None)
            self._put(ended)

        self._begin(job, work)
        return job

    # Machines

    def machines(self) -> Machines:
        """The machines of this iron; none elsewhere. Blocks."""
        return Machines([], []) if self.viewer is None else self.viewer.machines()

    def machine(self, name: str) -> MachineDetail:
        """One machine. Blocks. Raises MissingError("machine.unknown")."""
        return self._viewer(name).machine(name)

    async def change(self, name: str, action: MachineAction, *, by: str) -> Job:
        """Begin to start, stop, upgrade or revert a machine, once.

        Raises MissingError("machine.unknown", "machine.version"), UsageError, BusyError("machine.asked").
        """
        viewer = self._viewer(name)
        record = await asyncio.to_thread(viewer.records.load, name)
        version = action.version or ""
        if action.action == "upgrade":
            version = await asyncio.to_thread(viewer.images.find, record.machine.role, version)
        elif version:
            raise UsageError("machine.version", f"a version says what to upgrade to, and this is a {action.action}")
        self.hands.busy_with(name)
        id = f"machine-{secrets.token_hex(6)}"
        why = f"{by}: {action.why}" if action.why else by
        ask = Ask(id, action.action, None, version, why)
        job = Job(id, "machine", action.action, "running", by, time.time(), machine=name)
        return self._start_job(job, lambda hands: hands.ask(name, ask), UNIT.format(name=name))

    def _viewer(self, name: str) -> Viewer:
        if self.viewer is None:
            raise MissingError("machine.unknown", f"there is no machine {name[:80]}: no machines run on this host")
        return self.viewer

    # Jobs

    def jobs(self) -> list[Job]:
        """Jobs that are remembered, newest first."""
        return list(reversed(self._jobs.values()))

    async def job(self, name: str, *, wait: float = 0) -> Job:
        """A job, at its end or after `wait` seconds. Raises MissingError("job.unknown")."""
        end = self._ends.get(name)
        if end is not None and wait > 0:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await end.wait()
        if name in self._jobs:
            return self._jobs[name]
        for record in await asyncio.to_thread(lambda: list(self.history.all_records())):
            if record.job == name:
                return _job_of(record)
        raise MissingError(
            "job.unknown", f"there is no job {name[:80]}", hint="jobs of units and machines are not kept for long"
        )

    async def cancel(self, name: str) -> Job:
        """Ask a job to end; what a generation has changed already is taken back. Raises MissingError, UsageError."""
        job = await self.job(name)
        if name not in self._tasks:
            raise UsageError("job.ended", f"job {name} has ended: {job.state}")
        if job.action == "revert":
            return job  # on its way back already, and there it shall get
        if name == self._applying:
            self.applier.cancel.set()
            await self.hands.cancel()
        elif name in self._cancels:
            await self._cancels[name].cancel()
        return job

    def _begin(self, job: Job, work: Callable[[], Awaitable[None]]) -> None:
        self._ends[job.id] = asyncio.Event()
        self._put(job)

        async def whole() -> None:
            try:
                await work()
            except Exception:
                logger.exception("unexpected failure in job %s", job.id)
                failure = history.Failure("internal", "an unexpected failure; the supervisor's log has it")
                self._put(
                    msgspec.structs.replace(self._jobs[job.id], state="failed", failure=failure, ended=time.time())
                )
            finally:
                self._tasks.pop(job.id, None)
                await asyncio.sleep(0)  # what a thread has told comes first
                self._ends.pop(job.id).set()

        self._tasks[job.id] = asyncio.create_task(whole(), name=job.id)

    def _put(self, job: Job) -> None:
        known = job.id in self._jobs
        self._jobs[job.id] = job
        self.hub.publish("jobs", job.id, Kind.UPDATED if known else Kind.CREATED, _plain(job))
        while len(self._jobs) > KEPT:
            oldest = next((name for name in self._jobs if name not in self._tasks), None)
            if oldest is None:
                return
            del self._jobs[oldest]
            self.hub.publish("jobs", oldest, Kind.DELETED, None)

    # Helpers

    def _open(self) -> None:
        self.history.open()
        with contextlib.suppress(OSError):
            durable.sweep(self.hands.files.folder)

    def _machines(self) -> list[Item]:
        """Machines, as events tell them. Blocks."""
        if self.viewer is None:
            return []
        return [Item("machines", each.name, _plain(each)) for each in self.viewer.machines().machines]

    def _state(self) -> list[Item]:
        items = [Item("jobs", job.id, _plain(job)) for job in self._jobs.values()]
        return items + [Item("generations", str(each.number), _plain(each)) for each in self.generations().generations]


def _job_of(record: history.Record) -> Job:
    """A journal as a job."""
    entries = record.entries if record.back is None else record.back
    running = next((entry for entry in entries if entry.state is State.BEGUN), None)
    return Job(
        id=record.job,
        kind="apply",
        action="apply" if record.back is None else "revert",
        state=_STATES[record.outcome],
        by=record.by,
        began=record.began,
        generation=record.generation,
        done=sum(entry.state is State.DONE for entry in entries),
        total=len(entries),
        step=str(running.step) if running is not None else None,
        failure=record.failure,
        ended=record.ended,
    )


def _plain(value: msgspec.Struct) -> Record:
    record = to_builtins(value)
    assert isinstance(record, dict)
    return record
