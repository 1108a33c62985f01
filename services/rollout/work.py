"""Rollouts at work: look at netboot, take a step, keep it on disk, and only then do what it asks for.

Every step is whole on disk before anything is done, and what is done is conditional on what was seen (the channel's
generation), so this may be killed anywhere: the next life looks again. While no rollout is open nothing is asked.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from netboot.client import AsyncNetboot
from netboot.schema import Action, Channel, Extension, Move, NewOrder, NewPointer, NewQuarantine
from netboot.schema import Rollback as NewRollback
from services.common.errors import BacklineError, BusyError, MissingError
from services.rollout import machine
from services.rollout.machine import Act, Commit, Extend, Order, Quarantine, Rollback, Seen, Switch
from services.rollout.schema import OVER, Phase, Plan, Rollout
from services.rollout.store import Store

logger = logging.getLogger(__name__)


class Work:
    """Takes the rollouts of a store on, through netboot at an address."""

    def __init__(self, store: Store, *, netboot: str, look_seconds: float, clock: Callable[[], float]) -> None:
        self.store = store
        self.netboot = netboot
        self.look_seconds = look_seconds
        self.clock = clock
        self.problem: BacklineError | None = None
        self.steps = 0
        self._lock = asyncio.Lock()
        self._woken = asyncio.Event()

    # What people ask for

    async def start(self, plan: Plan, by: str) -> Rollout:
        """Begin a rollout. Raises MissingError, BusyError("conflict.rollout", "conflict.channel")."""
        async with self._lock, self._client() as client:
            for each in self.store.open():
                if each.plan.channel == plan.channel:
                    told = f"rollout {each.id} of {each.plan.version} is on its way in {plan.channel}"
                    raise BusyError("conflict.rollout", told, hint=f"backline rollout abort {plan.channel}")
            channel = await _channel(client, plan.channel)
            _check(plan, channel)
            await self._check_version(client, plan)
            rollout = machine.begin(self.store.next_id, plan, by, channel, self.clock())
            await self._keep(rollout)
        self._woken.set()
        return rollout

    async def _check_version(self, client: AsyncNetboot, plan: Plan) -> None:
        known = {each.version: each for each in (await client.versions()).versions}
        if plan.version not in known:
            raise MissingError("version.unknown", f"netboot knows no version {plan.version}", hint="backline publish")
        why = known[plan.version].quarantined
        if why is None:
            return
        if not plan.lift_quarantine:
            raise BusyError(
                "conflict.quarantine",
                f"{plan.version} is in quarantine: {why or 'no reason was given'}",
                hint="fix it and publish a new version, or say --lift-quarantine",
            )
        await client.lift_quarantine(plan.version)

    async def change(self, id: int, change: Callable[[Rollout, float], Rollout]) -> Rollout:
        """Pause, resume or abort. Raises MissingError("rollout.unknown"), BusyError("conflict.rollout")."""
        async with self._lock:
            rollout = self.store.one(id)
            if rollout.phase in OVER:
                raise BusyError("conflict.rollout", f"rollout {id} is over: {rollout.phase.value}")
            changed = change(rollout, self.clock())
            if changed is not rollout:
                await self._keep(changed)
        self._woken.set()
        return changed

    # At work

    async def run(self) -> None:
        """Take open rollouts on, for ever."""
        while True:
            self._woken.clear()
            if self.store.open():
                await self.once()
                wait: float | None = self.look_seconds
            else:
                self.problem = None
                wait = None
            try:
                async with asyncio.timeout(wait):
                    await self._woken.wait()
            except TimeoutError:
                continue

    async def once(self) -> None:
        """One step of every open rollout. What goes wrong is told by `healthy`, and tried again at the next step."""
        for rollout in self.store.open():
            try:
                async with self._lock, self._client() as client:
                    await self._step(client, rollout.id)
            except BacklineError as error:
                if self.problem is None or self.problem.code != error.code:
                    logger.warning("rollout %s cannot go on for now: %s", rollout.id, error)
                self.problem = error
            else:
                self.problem = None

    async def _step(self, client: AsyncNetboot, id: int) -> None:
        rollout = self.store.one(id)
        seen = await look(client, rollout, self.clock)
        step = machine.advance(rollout, seen)
        self.steps += 1
        if step.rollout != rollout:
            for event in step.rollout.events[len(rollout.events) :]:
                logger.info("rollout %s: %s", id, event.text)
            await self._keep(step.rollout)
        for act in step.acts:
            await do(client, rollout.plan.channel, rollout.plan, act)

    async def _keep(self, rollout: Rollout) -> None:
        await asyncio.to_thread(self.store.save, rollout)

    async def healthy(self) -> None:
        """A check for /healthz. Raises what the last step failed with."""
        if self.problem is not None:
            raise self.problem

    def _client(self) -> AsyncNetboot:
        return AsyncNetboot(self.netboot, seconds=10.0)


def _check(plan: Plan, channel: Channel) -> None:
    if not channel.committed:
        raise BusyError(
            "conflict.channel", f"{channel.name} tries {channel.current} already: commit it or roll it back"
        )
    if channel.current is None:
        raise BusyError(
            "conflict.channel",
            f"{channel.name} points nowhere, so there is nothing to go back to",
            hint=f"backline netboot channel switch {channel.name} {plan.version}",
        )
    if channel.current == plan.version:
        raise BusyError("conflict.channel", f"{channel.name} points to {plan.version} already")


async def _channel(client: AsyncNetboot, name: str) -> Channel:
    found = next((each for each in (await client.channels()).channels if each.name == name), None)
    if found is None:
        raise MissingError("channel.unknown", f"there is no channel {name}", hint="backline netboot channel list")
    return found


async def look(client: AsyncNetboot, rollout: Rollout, clock: Callable[[], float]) -> Seen:
    """What netboot says of a rollout's channel and its machines. Raises as the client does."""
    plan = rollout.plan
    channel = next((each for each in (await client.channels()).channels if each.name == plan.channel), None)
    action: Action | None = None
    by = ""
    if channel is not None and channel.generation != rollout.generation:
        newest = (await client.channel_history(plan.channel)).changes[0]
        action, by = newest.action, newest.by
    quarantined = False
    if rollout.phase is Phase.REVERTING:
        versions = (await client.versions()).versions
        quarantined = any(each.version == plan.version and each.quarantined is not None for each in versions)
    found = await client.seats(plan.channel, version=plan.version)
    return Seen(clock(), channel, action, by, found.seats, quarantined, found.listening)


async def do(client: AsyncNetboot, channel: str, plan: Plan, act: Act) -> None:
    """Do what a step asks for. Somebody who was quicker is no error: the next step sees what he did."""
    why = f"rollout: {plan.why}" if plan.why else "rollout"
    try:
        match act:
            case Switch():
                only = None if act.only is None else list(act.only)
                new = NewPointer(
                    version=plan.version, why=why, commit_within=act.commit_within, only=only, generation=act.generation
                )
                await client.switch_channel(channel, new)
            case Extend():
                only = None if act.only is None else list(act.only)
                more = Extension(commit_within=act.commit_within, only=only, why=why, generation=act.generation)
                await client.extend_channel(channel, more)
            case Commit():
                await client.commit_channel(channel, Move(why=why, generation=act.generation))
            case Rollback():
                back = NewRollback(why=act.why, quarantine=act.quarantine, generation=act.generation)
                await client.rollback_channel(channel, back)
            case Quarantine():
                await client.quarantine(plan.version, NewQuarantine(why=act.why))
            case Order():
                await client.order(
                    NewOrder(
                        version=act.version,
                        machines=list(act.machines),
                        even_with_user=act.even_with_user,
                        probes=list(act.probes),
                        seconds=machine.ORDER_SECONDS,
                    )
                )
    except BacklineError as error:
        if not error.code.startswith("conflict."):
            raise
        logger.info("netboot: %s", error)
