"""Presence at work: decides logins, takes heartbeats, and keeps what changes on disk before anybody is told.

One change at a time. When the disk refuses, what it has counts, and whoever asked is told so: no session is believed
that a restart would forget. Passwords are verified in threads of their own, as many as there are processors: each takes
30 ms of one and 16 MB, and nothing else waits for them.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from services.common.database import Database
from services.common.errors import BacklineError, HostError
from services.common.feed.mirror import Mirror, Mirrors, Told
from services.common.rate import Rate
from services.common.yescrypt import verify_password
from services.presence.rules import EXPIRY_SECONDS, Change, Hall, Listening, Refusal, Row
from services.presence.schema import Answer, Beat, End, Machine, NewLogin, Reason, Sessions, Settings, Stage, User
from services.presence.store import Store

logger = logging.getLogger(__name__)

EARLY_SECONDS = EXPIRY_SECONDS
"""How long an empty database waits for heartbeats before it lets anybody begin a session."""
CHECKS, CHECKS_PER_MINUTE = 120, 60.0
"""Passwords of one machine that are verified at once, and then in a minute, also right ones: each costs gw 30 ms."""
VERIFIED_SECONDS = 300.0
"""How long after the auth stage the account stage may come: PAM may have asked something in between."""
LOOK_SECONDS = 1.0
SILENT_SECONDS = 60.0
_LATER = "Logins cannot be checked right now. Try again in a moment, or tell an organizer."


@dataclass(frozen=True)
class At:
    """Where a login comes from: the machine and boot of a token, and the address that it was sent from."""

    machine: int
    boot: str
    origin: str


class Work:
    """The service without HTTP. `clock` never stands still, `wall` is the time for people."""

    def __init__(
        self,
        store: Store,
        users: Mirror[User],
        machines: Mirror[Machine],
        *,
        tries: int = 20,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.store = store
        self.users = users
        self.machines = machines
        self.feeds = Mirrors({"mdb": machines, "udb": users})
        users.changed, machines.changed = self.users_changed, self.machines_changed
        self.clock = clock
        self.wall = wall
        self.hall = Hall()
        self.listening = Listening(clock())
        self.began = clock()
        self.rate = Rate(per_minute=tries, burst=tries, clock=clock)
        self.checks = Rate(per_minute=CHECKS_PER_MINUTE, burst=CHECKS, clock=clock)
        self.refused: Counter[Reason] = Counter()
        self.admitted = 0
        self.claims: Counter[str] = Counter()
        self.beats = 0
        self._verified: dict[tuple[str, int, str], tuple[float, str | None]] = {}
        """Until when somebody may begin a session on a boot of a machine, if the hash is still that one."""
        self._changing = asyncio.Lock()
        self._verifiers = ThreadPoolExecutor(os.process_cpu_count() if hasattr(os, "process_cpu_count") else None)

    def prepare(self) -> None:
        """Read what is known; blocks. Called once, before anything else."""
        rows = self.store.prepare()
        self.began = self.clock()
        self.listening = Listening(self.began)
        self.hall = Hall(rows, now=self.now)
        self.users.recall()
        self.machines.recall()

    def close(self) -> None:
        """Let the threads go."""
        self._verifiers.shutdown(wait=False, cancel_futures=True)

    @property
    def now(self) -> float:
        """The clock of whoever listens to heartbeats."""
        return self.listening.at(self.clock())

    @property
    def early(self) -> bool:
        """Whether the database is new, and seats have not had the time to say who is there."""
        return self.store.new and self.clock() - self.began < EARLY_SECONDS

    # Logins

    async def login(self, new: NewLogin, at: At) -> Answer:
        """Decide. Raises BacklineError when a session that was allowed cannot be kept."""
        user = self.users.find(new.login)
        refusal = self._who_and_where(new.login, user, at)
        if refusal is None and user is not None:
            refusal = await (self._auth(user, new, at) if new.stage is Stage.AUTH else self._account(user, at))
        answer = Answer(allowed=refusal is None)
        if refusal is not None:
            self.refused[refusal.reason] += 1
            known = user.login if user is not None else "somebody unknown"  # people type passwords where logins go
            logger.info("%s may not log in on machine %s: %s", known, at.machine, refusal.reason.value)
            answer = Answer(allowed=False, reason=refusal.reason, message=refusal.message)
        elif new.stage is Stage.ACCOUNT:
            self.admitted += 1
        if user is not None:
            answer = _of(user, answer)
        return answer

    def _who_and_where(self, login: str, user: User | None, at: At) -> Refusal | None:
        if not self.users.ready or not self.machines.ready:
            return Refusal(Reason.UNAVAILABLE, _LATER)
        if (told := self.not_there(at.machine, at.origin)) is not None:
            return Refusal(Reason.MACHINE, told)
        if user is None:
            return Refusal(Reason.USER, f"There is no user {login}.")
        return None

    def not_there(self, id: int, origin: str) -> str | None:
        """Why a machine is not believed to be the one that asks, by the address that it asks from; None when it is."""
        machine = self.machines.get(str(id))
        if machine is None:
            return "This machine is not registered."
        if origin != machine.ip:
            told = f"{machine.hostname} is registered with address {machine.ip}, and this came from {origin}."
            return f"{told} Restart the machine."
        return None

    async def _auth(self, user: User, new: NewLogin, at: At) -> Refusal | None:
        # Who guesses over ssh does not lock the console of those who sit there.
        guesser = f"{at.machine} over ssh" if new.remote else str(at.machine)
        if not self.rate.allow(guesser) or not self.checks.allow(guesser):
            return Refusal(Reason.PASSWORD, "Too many passwords were tried here. Wait a minute.")
        hash = user.hash
        if new.password is None or not await self._verify(new.password, hash):
            return Refusal(Reason.PASSWORD, "The password is wrong.")
        machine = self.machines.get(str(at.machine))
        if machine is None:
            return Refusal(Reason.MACHINE, "This machine is not registered.")
        self.rate.give_back(guesser)
        self._verified = {key: each for key, each in self._verified.items() if each[0] > self.clock()}
        self._verified[user.login, at.machine, at.boot] = self.clock() + VERIFIED_SECONDS, hash
        refusal = self.hall.place(user, machine, early=self.early)
        if refusal is not None and refusal.reason is Reason.EARLY:  # whoever is told so tries again and again
            self.checks.give_back(guesser)
        return refusal

    async def _verify(self, password: str, hash: str | None) -> bool:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._verifiers, verify_password, password, hash)

    async def _account(self, user: User, at: At) -> Refusal | None:
        async with self._changing:
            machine = self.machines.get(str(at.machine))
            known = self.users.find(user.login)
            if machine is None or known is None:
                return Refusal(Reason.UNAVAILABLE, _LATER)
            until, hash = self._verified.get((user.login, at.machine, at.boot), (0.0, None))
            verified = until > self.clock() and hash == known.hash
            if not verified and not self.hall.has(user.login, at.machine, at.boot):
                return Refusal(Reason.PASSWORD, "Log in with your password first.")
            await self._keep(self.hall.expire(now=self.now))
            refusal = self.hall.place(user, machine, early=self.early)
            if refusal is None:
                await self._keep(self.hall.admit(user, machine, at.boot, now=self.now, at=self.wall()))
                self._verified.pop((user.login, at.machine, at.boot), None)  # it has been used
            return refusal

    async def logout(self, login: str, *, machine: int | None = None) -> bool:
        """End a session, if it is on `machine` when that is given. False when there was none."""
        async with self._changing:
            for key in [key for key in self._verified if key[0] == login and machine in (None, key[1])]:
                del self._verified[key]
            changes = self.hall.end(login, machine=machine, lost=machine is None)
            await self._keep(changes)
            return bool(changes)

    # Heartbeats

    async def hear(self, beats: Sequence[Beat], *, trusted: bool = False) -> list[End]:
        """Take a batch of heartbeats, and say what shall end; `trusted`: of a developer's tool, which is root here."""
        async with self._changing:
            self.listening.bring(self.clock())
            self.beats += len(beats)
            named = {login for beat in beats for login in beat.users or ()}
            users = [user for login in named if (user := self.users.find(login)) is not None]
            heard = self.hall.hear(beats, now=self.now, at=self.wall(), users=users, early=self.early, trusted=trusted)
            self.claims.update(heard.refused)
            await self._keep([*heard.changes, *self.hall.expire(now=self.now)])
            return heard.ends

    def sessions(self) -> Sessions:
        """Who is logged in where."""
        silence = self.listening.silence(self.clock()) if self.listening.heard else None
        return Sessions(sessions=self.hall.sessions(), heard=silence)

    async def bringing(self) -> None:
        """A check for /healthz. Raises HostError("presence.silent") when nobody brings heartbeats."""
        silence = self.listening.silence(self.clock())
        if silence > SILENT_SECONDS:
            told = f"netboot has passed no heartbeats on for {silence:.0f} s: no session expires meanwhile"
            raise HostError("presence.silent", told)

    # What runs beside

    async def look(self) -> None:
        """Expire sessions, for ever."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            try:
                async with self._changing:
                    await self._keep(self.hall.expire(now=self.now))
            except BacklineError as error:
                logger.error("sessions cannot be kept: %s", error)

    async def users_changed(self, _: list[Told[User]]) -> None:
        """End the sessions of users whom udb does not have any more."""
        await self._end(lambda row: self.users.find(row.login) is None)

    async def machines_changed(self, _: list[Told[Machine]]) -> None:
        """End the sessions on machines that mdb does not have any more."""
        await self._end(lambda row: self.machines.get(str(row.machine)) is None)

    async def _end(self, gone: Callable[[Row], bool]) -> None:
        async with self._changing:
            logins = [row.login for row in self.hall if gone(row)]
            for login in logins:
                logger.info("the session of %s ends: the user or the machine is gone", login)
            await self._keep([change for login in logins for change in self.hall.end(login)])

    async def _keep(self, changes: list[Change]) -> None:
        """Write changes down before anybody is told. Raises BacklineError, with the rows as the disk has them."""
        if not changes:
            return
        try:
            await asyncio.to_thread(self.store.save, changes)
        except BaseException:
            self.hall = Hall(await asyncio.to_thread(self.store.load), now=self.now)
            raise


def make_work(database: Database, settings: Settings) -> Work:
    """The service over a database, as its settings say; it follows nobody yet."""

    def memory(name: str) -> Path | None:
        return Path(settings.memory) / f"{name}.json" if settings.memory else None

    private = "/v1/feed/private"
    return Work(
        Store(database),
        Mirror.at(settings.udb, "users", User, path=private, memory=memory("udb"), by=lambda user: user.login),
        Mirror.at(settings.mdb, "machines", Machine, memory=memory("mdb"), by=lambda machine: machine.hostname),
        tries=settings.tries,
    )


def _of(user: User, answer: Answer) -> Answer:
    return Answer(allowed=answer.allowed, reason=answer.reason, message=answer.message, group=user.group, uid=user.uid)
