"""What the map is now, for all who look: three feeds, netboot asked every few seconds, and a template on disk.

`changed` wakes every open page; each then looks at what is new to it. There is one map, made once a change.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

from markupsafe import Markup

from netboot.client import AsyncNetboot
from netboot.schema import Seat as NetbootSeat
from services.common.errors import BacklineError, HostError
from services.common.feed.mirror import Mirror, Mirrors
from services.common.metrics import Metrics
from services.usermap import drawing
from services.usermap.schema import Map, Seat, Settings, Source
from services.usermap.template import Template
from services.usermap.view import Machine, Session, User, by_name, public, view

logger = logging.getLogger(__name__)

QUIET = 0.05
"""Changes that come within it are one."""


class Shown:
    """The map for one audience, with its drawing: what the template draws, and the rest by rooms and rows.

    `parts` are the pieces of it that change, by the id of their element. `layout` is another one when there are other
    pieces. Seats that are what they were `before` are not drawn again: with a thousand of them, that takes the time.
    """

    def __init__(self, map: Map, template: Template | None, number: float, before: Shown | None = None) -> None:
        self.map = map
        self.layout = map.layout if template is None else f"{map.layout}-{number:.6f}"
        seats = by_name(map)
        self.drawn = template.draw(seats) if template is not None else None
        drawn = template.parts(seats) if template is not None else {}
        known = before.pictures if before is not None else {}
        self.pictures: dict[str, tuple[Seat, Markup]] = {}
        """The seats that are drawn by us, by the id of their element."""
        for seat in map.seats():
            id = f"s{seat.machine}"
            if id not in drawn:
                old = known.get(id)
                self.pictures[id] = old if old is not None and old[0] == seat else (seat, drawing.seat(seat))
        rest = {id: picture for id, (_, picture) in self.pictures.items()}
        self.rooms = [
            (room.name, rows)
            for room in map.rooms
            if (
                rows := [
                    (row.name, found)
                    for row in room.rows
                    if (found := [rest[id] for seat in row.seats if (id := f"s{seat.machine}") in rest])
                ]
            )
        ]
        self.parts: dict[str, Markup] = {id: Markup("<svg>{}</svg>").format(part) for id, part in drawn.items()} | rest


class Watch:
    """Everything that is watched. `run` is part of the lifespan."""

    def __init__(self, settings: Settings, *, clock: Callable[[], float] = time.time) -> None:
        self.settings = settings
        self.clock = clock
        folder = Path(settings.folder)
        self.machines = Mirror.at(settings.mdb, "machines", Machine, memory=folder / "mdb.json")
        self.users = Mirror.at(settings.udb, "users", User, memory=folder / "udb.json")
        self.sessions = Mirror.at(settings.presence, "sessions", Session, memory=folder / "presence.json")
        self.feeds = Mirrors({"mdb": self.machines, "udb": self.users, "presence": self.sessions})
        self.viewers = 0
        self._problem: BacklineError | None = None
        self._seats: list[NetbootSeat] = []
        self._netboot: str | None = "it has not answered yet"
        self._template: tuple[float, Template | None] = (0.0, None)
        self._looked = asyncio.Event()
        self._changed = asyncio.Condition()
        self.full, self.open = self._made(None, None)

    def shown(self, *, full: bool) -> Shown:
        """The map for organizers, or for everybody."""
        return self.full if full else self.open

    @contextlib.asynccontextmanager
    async def run(self, metrics: Metrics) -> AsyncIterator[None]:
        """Watch while the block lasts."""
        async with self.feeds.run(metrics):
            tasks = [
                asyncio.create_task(self._ask(), name="netboot"),
                asyncio.create_task(self._work(), name="map"),
            ]
            try:
                yield
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    async def wait(self, revision: str, *, full: bool, seconds: float) -> Shown | None:
        """The map, once it is another one than `revision`; None when the time is over."""
        try:
            async with asyncio.timeout(seconds), self._changed:
                await self._changed.wait_for(lambda: self.shown(full=full).map.revision != revision)
        except TimeoutError:
            return None
        return self.shown(full=full)

    @contextlib.contextmanager
    def looking(self) -> Iterator[None]:
        """While somebody looks, netboot is asked often."""
        self.viewers += 1
        self._looked.set()
        try:
            yield
        finally:
            self.viewers -= 1

    def look(self) -> None:
        """Somebody has just looked."""
        self._looked.set()

    async def _ask(self) -> None:
        while True:
            self._looked.clear()
            seats, why = self._seats, None
            seconds = self.settings.answer_seconds
            try:
                async with asyncio.timeout(seconds), AsyncNetboot(self.settings.netboot, seconds=seconds) as client:
                    seats = (await client.seats()).seats
            except TimeoutError:
                why = f"no answer within {seconds:g} s"
            except BacklineError as error:
                why = error.message.partition("\n")[0]
            except Exception:  # a bug of ours, or of netboot, shall not end the map
                logger.exception("netboot cannot be asked")
                why = "asking failed unexpectedly"
            if (seats, why) != (self._seats, self._netboot):
                self._seats, self._netboot = seats, why
                self.feeds.changed.set()
            await asyncio.sleep(self.settings.look_seconds)
            if self.viewers == 0:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(max(0.0, self.settings.idle_seconds - self.settings.look_seconds)):
                        await self._looked.wait()

    async def _work(self) -> None:
        silent: list[str] = []
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self.settings.look_seconds):
                    await self.feeds.changed.wait()
                    await asyncio.sleep(QUIET)
            now_silent = [each.name for each in self.feeds.standings() if each.stale]
            new = await asyncio.to_thread(self._read_template)
            if not self.feeds.changed.is_set() and now_silent == silent and not new:
                continue
            silent = now_silent
            self.feeds.changed.clear()
            try:
                self.full, self.open = self._made(self.full, self.open)
            except Exception:  # what is shown then is old, and /healthz says so
                logger.exception("the map cannot be made")
                self._problem = HostError("map.bug", "the map cannot be made; the journal says more")
                continue
            self._problem = None
            async with self._changed:
                self._changed.notify_all()

    async def well(self) -> None:
        """A check for /healthz. Raises what keeps the map from being made."""
        if self._problem is not None:
            raise self._problem

    def _made(self, full: Shown | None, open: Shown | None) -> tuple[Shown, Shown]:
        sources = [
            Source(name=each.name, why=f"silent for {each.silence:.0f} s" if each.revision is not None else "silent")
            if each.stale
            else Source(name=each.name, why=None)
            for each in self.feeds.standings()
        ]
        sources.append(Source(name="netboot", why=self._netboot))
        everything = view(
            self.machines,
            self.users,
            self.sessions,
            self._seats,
            sources,
            hall=self.settings.hall,
            now=self.clock(),
        )
        number, template = self._template
        return Shown(everything, template, number, full), Shown(public(everything), template, number, open)

    def _read_template(self) -> bool:
        """Read the template if it is another one; True then. One that is no good is as if there were none."""
        path = self.settings.template
        try:
            changed = path.stat().st_mtime
        except OSError:
            changed = 0.0
        if changed == self._template[0]:
            return False
        template = None
        if changed:
            try:
                template = Template.parse(path.read_bytes())
            except (OSError, BacklineError) as error:
                logger.error("rooms are drawn from host names: %s", error)
        self._template = changed, template
        return True
