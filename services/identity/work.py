"""The running service: follow udb, and keep this machine's users as udb says.

One task follows the feed and notes what users there are; another one brings that into force. A turn begins `QUIET`
seconds after the last change, `LONGEST` after the first one at the latest: an import of two thousand is a few turns.
What could not be done is tried again by itself, and so is a feed that refuses us: udb may be restored, or be older.
Without udb, what was made last stays in force.
"""

from __future__ import annotations

import asyncio
import contextlib
import grp
import logging
import os
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

import httpx2
from prometheus_client import Counter, Gauge, Histogram

from services.common import process
from services.common.client import Endpoint
from services.common.errors import BacklineError, MissingError
from services.common.feed.client import SILENCE_SECONDS, Batch, Follower
from services.common.metrics import Metrics
from services.common.problem import RemoteError
from services.common.tls import TlsSettings, client_context
from services.identity.accounts import PASSWD, Accounts, Own, accounts, own_of
from services.identity.folder import Folder
from services.identity.message import Board
from services.identity.schema import LEFT_OUT_SHOWN, Settings, Status

logger = logging.getLogger(__name__)

TOPIC, MESSAGE = "users", "message"
FIELDS = ("id", "login", "firstname", "lastname", "uid", "group", "shell", "keys", "text")
QUIET, LONGEST = 0.02, 0.5
AGAIN = 5.0
TOKEN = "backline.boot-token"
_LOGIND = ("org.freedesktop.login1", "/org/freedesktop/login1", "org.freedesktop.login1.Manager")


class UsersFollower(Follower):
    """Follows users and the message of the day, and users alone where udb is older than this machine."""

    async def batches(self) -> AsyncGenerator[Batch, None]:
        """As any follower's."""
        wanted = self.topics
        try:
            async with contextlib.aclosing(super().batches()) as batches:
                async for batch in batches:
                    yield batch
        except RemoteError as error:
            if error.code != "request.query" or MESSAGE not in wanted:
                raise
            logger.warning("udb has no message of the day: %s", error)
        self.topics = (TOPIC,)
        try:
            async with contextlib.aclosing(super().batches()) as batches:
                async for batch in batches:
                    yield batch
        finally:
            self.topics = wanted


class Worker:
    """Follower, folder and what is known between them. `run` is part of the application's lifespan.

    `own` reads what the machine has by itself, `end` ends the sessions of a uid, `board` shows the message of the day.
    """

    def __init__(
        self,
        folder: Folder,
        follower: Follower,
        *,
        own: Callable[[], Own],
        end: Callable[[int], None] | None = None,
        board: Board | None = None,
    ) -> None:
        self.folder = folder
        self.follower = follower
        self.records: dict[str, Mapping[str, Any]] = {}
        self.message = ""
        self.known = False
        self.made: Accounts | None = None
        self.problem: BacklineError | None = MissingError("identity.waiting", "udb has not told any user yet")
        self.applied: float | None = None
        self.seconds: float | None = None
        self._own = own
        self._end = end
        self._board = board
        self._shown: str | None = None
        self._noted = self._done = 0
        self._changed = asyncio.Event()
        self._count: dict[str, Any] = {}

    # Life

    @contextlib.asynccontextmanager
    async def run(self, metrics: Metrics) -> AsyncIterator[None]:
        """Follow and apply while the block lasts."""
        self._measure(metrics)
        tasks = [
            asyncio.create_task(self.follower.follow(self.take), name="identity feed"),
            asyncio.create_task(self._work(), name="identity work"),
        ]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _measure(self, metrics: Metrics) -> None:
        self.follower.measure(metrics, "udb")
        registry = metrics.registry
        self._count = {
            "switches": Counter("backline_identity_switches", "Sets of files brought into force", registry=registry),
            "failures": Counter("backline_identity_failed_turns", "Turns that did not end well", registry=registry),
            "seconds": Histogram(
                "backline_identity_turn_seconds",
                "From the first change of a turn until it is in force",
                registry=registry,
                buckets=(0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1, 2, 3, 5, 10),
            ),
        }
        users = Gauge("backline_identity_users", "Users on this machine", registry=registry)
        users.set_function(lambda: 0 if self.made is None else len(self.made.uids))
        left_out = Gauge(
            "backline_identity_left_out", "Records and keys that are not on this machine", registry=registry
        )
        left_out.set_function(lambda: 0 if self.made is None else len(self.made.left_out))
        pending = Gauge("backline_identity_pending", "1 while something known is not in force", registry=registry)
        pending.set_function(lambda: float(self.problem is not None))

    def take(self, batch: Batch) -> None:
        """Note what a batch says of users, and the message of the day."""
        if batch.first:
            self.records = {key: record for (topic, key), record in batch.state.items() if topic == TOPIC}
        for change in () if batch.first else batch.changes:
            if change.topic == TOPIC and change.after is not None:
                self.records[change.key] = change.after
            elif change.topic == TOPIC:
                self.records.pop(change.key, None)
        said = [str(record.get("text", "")) for (topic, _), record in batch.state.items() if topic == MESSAGE]
        self.message = said[0] if said else ""
        self.known = True
        self._noted += 1
        self._changed.set()

    async def _work(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(AGAIN):
                    await self._changed.wait()
            await self._show()
            if not self.known or (self._done == self._noted and self.problem is None):
                continue
            began = time.monotonic()
            await self._settle(began + LONGEST)
            noted = self._noted
            if await self._turn(dict(self.records), began):
                self._done = noted

    async def _show(self) -> None:
        """Show the message of the day. Users do not wait for one that cannot be shown: it is tried again."""
        if self._board is None or not self.known or self.message == self._shown:
            return
        message = self.message
        try:
            await asyncio.to_thread(self._board.put, message)
        except BacklineError as error:
            logger.error("the message of the day is not shown: %s", error)
            return
        self._shown = message

    async def _settle(self, deadline: float) -> None:
        while self._changed.is_set() and time.monotonic() < deadline:
            self._changed.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(QUIET):
                    await self._changed.wait()
        self._changed.clear()

    async def _turn(self, records: Mapping[str, Mapping[str, Any]], began: float) -> bool:
        try:
            made, before = await asyncio.to_thread(self._apply, records)
        except BacklineError as error:
            self._failed(error)
            return False
        except Exception as error:  # a bug of ours must not end the service's only purpose
            logger.exception("a turn failed")
            self._failed(MissingError("identity.bug", type(error).__name__))
            return False
        if self.made is None or self.made.left_out != made.left_out:
            for each in made.left_out[:LEFT_OUT_SHOWN]:
                logger.warning("left out: user %s (%s): %s", each.user, each.login, each.reason)
        self.made, self.problem = made, None
        self.applied, self.seconds = time.time(), time.monotonic() - began
        if before is not None:
            self._count["switches"].inc()
            self._count["seconds"].observe(self.seconds)
            logger.info("%d users in force after %.3f s", len(made.uids), self.seconds)
        for uid in sorted((before or frozenset()) - set(made.uids.values())):
            if self._end is not None:
                await asyncio.to_thread(self._end, uid)
        return True

    def _failed(self, error: BacklineError) -> None:
        self._count["failures"].inc()
        if self.problem is None or self.problem.message != error.message:
            logger.error("the users are not as they should be: %s", error)
        self.problem = error

    def _apply(self, records: Mapping[str, Mapping[str, Any]]) -> tuple[Accounts, frozenset[int] | None]:
        """What is in force now, and the uids of before; None when nothing had to be changed."""
        before = self.folder.read()
        made = accounts(records.items(), self._own())
        changed = self.folder.put(made.files)
        return made, own_of((before or {}).get(PASSWD, ""), "").uids if changed else None

    # What is told

    def status(self) -> Status:
        """What is in force."""
        position = self.follower.state.position
        made = self.made
        left_out = [] if made is None else list(made.left_out)
        problem = self.follower.refused or self.problem
        return Status(
            state="applied" if problem is None and self._done == self._noted else "pending",
            problem=None if problem is None else problem.message,
            applied=self.applied,
            seconds=self.seconds,
            revision=None if position is None else position.revision,
            generation=self.folder.number(),
            users=0 if made is None else len(made.uids),
            keys=0 if made is None else made.keys,
            left_out=left_out[:LEFT_OUT_SHOWN],
            left_out_total=len(left_out),
        )

    async def in_force(self) -> None:
        """A check for /healthz. Raises what keeps users from being in force."""
        if (problem := self.follower.refused or self.problem) is not None:
            raise problem


def end_sessions(uid: int) -> None:
    """Log a user out, over the bus: loginctl(1) wants a name for every uid, and there is none any more."""
    argv = ["busctl", "call", *_LOGIND, "TerminateUser", "u", str(uid)]
    done = process.run(argv, check=False, deadline=time.monotonic() + 20)
    if done.returncode == 0:
        logger.warning("uid %d is nobody's any more, and was logged out", uid)
    elif "not logged in" not in done.stderr:
        logger.error("uid %d is nobody's any more, and could not be logged out: %s", uid, done.stderr.strip())


def own_accounts(root: Path = Path("/")) -> Own:
    """What the image has by itself."""
    return own_of((root / "etc/passwd").read_text(), (root / "etc/group").read_text())


def make_follower(settings: Settings, environ: Mapping[str, str]) -> Follower:
    """A follower of the settings' udb; a seat shows the token of its boot."""
    tls = settings.tls
    if tls.certificate is not None and not tls.certificate.exists():
        tls = TlsSettings(ca=tls.ca)  # udb says what is missing; the files of before stay
    client = None
    token = Path(environ.get("CREDENTIALS_DIRECTORY", "/nowhere"), TOKEN)
    if token.exists():
        endpoint, text = Endpoint.parse(settings.udb), token.read_text().strip()

        def client() -> httpx2.AsyncClient:
            uds = str(endpoint.path) if endpoint.path else None
            verify = client_context(tls) if endpoint.base.startswith("https://") else False
            return httpx2.AsyncClient(
                base_url=endpoint.base,
                transport=httpx2.AsyncHTTPTransport(uds=uds, verify=verify),
                headers={"authorization": f"Bearer {text}"},
                timeout=httpx2.Timeout(SILENCE_SECONDS, connect=5.0),
                trust_env=False,
            )

    topics = [TOPIC, *([MESSAGE] if settings.message else [])]
    return UsersFollower(settings.udb, path=settings.feed, topics=topics, fields=FIELDS, tls=tls, client=client)


def make_worker(settings: Settings, environ: Mapping[str, str] | None = None) -> Worker:
    """A worker for this machine."""
    environ = os.environ if environ is None else environ
    try:
        shadow = grp.getgrnam("shadow").gr_gid
    except KeyError:
        shadow = None
    folder = Folder(Path(settings.folder), shadow=shadow)
    end = end_sessions if settings.ends_sessions else None
    board = Board(folder.path / MESSAGE) if settings.message else None
    return Worker(folder, make_follower(settings, environ), own=own_accounts, end=end, board=board)
