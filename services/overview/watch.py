"""Asks everybody: each host's hostd, netboot, the rollout service and the depot, all at once, whoever is looking.

There is one round of questions for all viewers, every few seconds while somebody looks and seldom otherwise. Each
question has a connection of its own, so that one that died with its host delays nothing: the next question finds the
host again. Who has not answered when the time is over is silent, and told to be so.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from netboot.client import AsyncNetboot
from netboot.schema import Liveness
from services.common.errors import BacklineError, HostError, MissingError
from services.depot.client import AsyncDepot
from services.depot.schema import Publication
from services.hostd.client import AsyncHostd
from services.hostd.schema import Units
from services.overview.schema import Hall, Place, Settings
from services.overview.view import Everything, Heard, Netboot, Told, host_state, view
from services.rollout.client import AsyncRolloutClient
from services.rollout.schema import Rollout

logger = logging.getLogger(__name__)
T = TypeVar("T")

IRON = "iron"
MACHINES = "systemd-nspawn@*.service"
LOOKED_SECONDS = 60.0
"""How long after somebody has looked everybody is asked often."""
UNITS_SECONDS = 3.0
"""How long the units of a host serve for whoever asks."""
FIRST_SECONDS = 5.0
PUBLICATIONS = 50
ROLLOUTS = 20


class Watch:
    """What was heard of everybody, kept fresh while `run` runs."""

    def __init__(self, settings: Settings, *, clock: Callable[[], float] = time.time) -> None:
        self.settings = settings
        self.clock = clock
        self.rounds = 0
        self.heard = Everything({place.name: Heard() for place in settings.hosts})
        self.places = {place.name: place for place in settings.hosts}
        self._began = time.monotonic()
        self._finished = float("-inf")
        self._wanted = float("-inf")
        self._wake = asyncio.Event()
        self._round = asyncio.Event()
        self._made: tuple[int, Hall] | None = None
        self._units: dict[str, tuple[float, asyncio.Task[Units]]] = {}

    async def run(self) -> None:
        """Ask for ever."""
        while True:
            self._wake.clear()
            await self.ask()
            watched = time.monotonic() - self._wanted < LOOKED_SECONDS
            wait = self.settings.look_seconds if watched else self.settings.idle_seconds
            try:
                async with asyncio.timeout(wait):
                    await self._wake.wait()
            except TimeoutError:
                continue

    async def ask(self) -> None:
        """One round: everybody at once."""
        heard = self.heard
        await asyncio.gather(
            *(self._listen(heard.hosts[name], self._host(place), host_state) for name, place in self.places.items()),
            self._listen(heard.netboot, self._netboot()),
            self._listen(heard.rollout, self._rollouts()),
            self._listen(heard.depot, self._publications()),
        )
        self.rounds += 1
        self._finished = time.monotonic()
        self._round.set()

    async def hall(self) -> Hall:
        """The hall now, for somebody who looks at it: what is older than two rounds is asked anew first."""
        now = time.monotonic()
        self._wanted = now
        if now - self._finished > 2 * self.settings.look_seconds:
            self._round.clear()
            self._wake.set()
            try:
                async with asyncio.timeout(self.settings.answer_seconds + FIRST_SECONDS):
                    await self._round.wait()
            except TimeoutError:
                pass
        return self.now(patience=2 * self.settings.look_seconds)

    def now(self, *, patience: float) -> Hall:
        """The hall as it was heard; when nobody has been asked for longer than that, everybody is unknown."""
        settings = self.settings
        age = time.monotonic() - self._finished
        if age > patience + settings.answer_seconds + FIRST_SECONDS:
            return view(self._silenced(), settings, self.clock())
        if self._made is None or self._made[0] != self.rounds:
            self._made = self.rounds, view(self.heard, settings, self.clock())
        return self._made[1]

    async def well(self) -> None:
        """Raises HostError("overview.late") when nobody has been asked for longer than should be."""
        age = time.monotonic() - max(self._finished, self._began)
        if age > self.settings.idle_seconds + self.settings.answer_seconds + FIRST_SECONDS:
            raise HostError("overview.late", f"nobody has been asked for {age:.0f} s")

    def _silenced(self) -> Everything:
        def quiet(each: Heard[T]) -> Heard[T]:
            return Heard(each.value, each.at, each.why or "the overview has not asked for a while", each.changed)

        heard = self.heard
        hosts = {name: quiet(each) for name, each in heard.hosts.items()}
        return Everything(hosts, quiet(heard.netboot), quiet(heard.rollout), quiet(heard.depot))

    async def units(self, name: str) -> Units:
        """The loaded units of a host, asked once for all who look. Raises MissingError and other BacklineErrors."""
        place, now = self.places.get(name), time.monotonic()
        if place is None:
            raise MissingError("host.unknown", f"{name} is no host of hall.toml")
        at, task = self._units.get(name, (float("-inf"), None))
        if task is None or now - at > UNITS_SECONDS:
            task = asyncio.create_task(self._all_units(place), name=f"units of {name}")
            task.add_done_callback(lambda done: done.cancelled() or done.exception())
            self._units[name] = now, task
        return await asyncio.shield(task)

    async def _listen(
        self, heard: Heard[T], question: Awaitable[T], state: Callable[[T], Liveness] | None = None
    ) -> None:
        def standing() -> Liveness | None:
            if heard.value is None or heard.why is not None:
                return Liveness.UNKNOWN
            return state(heard.value) if state is not None else None

        before, seconds = standing(), self.settings.answer_seconds
        try:
            async with asyncio.timeout(seconds):
                heard.value = await question
            heard.at, heard.why = self.clock(), None
        except TimeoutError:
            heard.why = f"no answer within {seconds:g} s"
        except BacklineError as error:
            heard.why = error.message.partition("\n")[0]
        except Exception:  # a bug of ours, or of whoever answers, shall not end the questions to everybody else
            logger.exception("unexpected failure")
            heard.why = "asking failed unexpectedly; the overview's journal says more"
        if standing() is not before or not heard.changed:
            heard.changed = self.clock()

    async def _host(self, place: Place) -> Told:
        async with self._hostd(place) as client:
            host = await client.host()
            if host.hostname != place.name:
                raise MissingError("host.other", f"{host.hostname} answers at its address")
            failed = await client.units(state=["failed"])
            machines = await client.units(match=[MACHINES]) if IRON in (place.role, host.role) else Units([])
        return Told(host, [unit.name for unit in failed.units], machines.units)

    async def _all_units(self, place: Place) -> Units:
        seconds = self.settings.answer_seconds
        try:
            async with asyncio.timeout(seconds), self._hostd(place) as client:
                return await client.units()
        except TimeoutError as error:
            raise MissingError("remote.late", f"{place.name} did not answer within {seconds:g} s") from error

    def _hostd(self, place: Place) -> AsyncHostd:
        return AsyncHostd(f"http://{place.address}:{place.port}", seconds=self.settings.answer_seconds)

    async def _netboot(self) -> Netboot:
        async with AsyncNetboot(self.settings.netboot, seconds=self.settings.answer_seconds) as client:
            seats, channels, quarantines = await asyncio.gather(client.seats(), client.channels(), client.quarantines())
        return Netboot(seats.seats, channels.channels, quarantines.quarantines)

    async def _rollouts(self) -> list[Rollout]:
        async with AsyncRolloutClient(self.settings.rollout, seconds=self.settings.answer_seconds) as client:
            return (await client.rollouts(limit=ROLLOUTS)).rollouts

    async def _publications(self) -> list[Publication]:
        async with AsyncDepot(self.settings.depot, seconds=self.settings.answer_seconds) as client:
            return (await client.publications(limit=PUBLICATIONS)).publications
