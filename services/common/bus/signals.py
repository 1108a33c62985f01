"""Signals of systemd through dbus-next, as an asynchronous iterator that mends itself.

dbus-next 0.2.3 is its last release, so its faults are answered here, each where it says so. A connection that ends,
a systemd that comes back, or a reader that is too slow all show as one `Resync`: state must be read anew. Only signals
that systemd itself sent count; the bus lets any local user send one straight to us.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import warnings
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Mapping, Sequence
from typing import cast

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # an old package: its warnings are not news, and tests make them errors
    from dbus_next.aio.message_bus import MessageBus
    from dbus_next.constants import MessageType
    from dbus_next.message import Message
    from dbus_next.signature import Variant

from services.common.bus.model import SYSTEM_BUS, BusError, Event, JobRemoved, Resync, UnitChanged, unit_from_path

logger = logging.getLogger(__name__)

CONNECT_SECONDS = 10.0
FIRST_RETRY, LAST_RETRY = 0.1, 5.0
QUEUE = 4096

_BUS = "org.freedesktop.DBus"
_SYSTEMD = "org.freedesktop.systemd1"
_MANAGER = f"{_SYSTEMD}.Manager"
_UNIT = f"{_SYSTEMD}.Unit"
_RULES = (
    f"type='signal',sender='{_SYSTEMD}',interface='{_MANAGER}',member='JobRemoved'",
    f"type='signal',sender='{_BUS}',interface='{_BUS}',member='NameOwnerChanged',arg0='{_SYSTEMD}'",
)
_CHANGES = (
    f"type='signal',sender='{_SYSTEMD}',interface='{_BUS}.Properties',member='PropertiesChanged',"
    f"path_namespace='/org/freedesktop/systemd1/unit',arg0='{_UNIT}'"
)


class SystemdEvents:
    """The events of the systemd behind a bus address. Implements `model.Events`."""

    def __init__(self, address: str = SYSTEM_BUS) -> None:
        self.address = address

    @contextlib.asynccontextmanager
    async def subscribe(self, *, jobs_only: bool = False) -> AsyncIterator[AsyncIterator[Event]]:
        """Events, for a block. Raises BusError when there is no bus to begin with; later it reconnects."""
        queue = _EventQueue()
        closing = asyncio.Event()
        rules = _RULES if jobs_only else (*_RULES, _CHANGES)
        connection = await _Connection.open(self.address, rules, queue)
        task = asyncio.create_task(self._follow(connection, rules, queue, closing))
        try:
            async with contextlib.aclosing(queue.events()) as events:
                yield events
        finally:
            closing.set()
            await task

    async def _follow(
        self, connection: _Connection | None, rules: Sequence[str], queue: _EventQueue, closing: asyncio.Event
    ) -> None:
        """Keep a connection until `closing`, with growing pauses between attempts."""
        pause = FIRST_RETRY
        while not closing.is_set():
            if connection is None:
                try:
                    connection = await _Connection.open(self.address, rules, queue)
                    pause = FIRST_RETRY
                except BusError as error:
                    logger.warning("%s; trying again in %.1f s", error, pause)
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(closing.wait(), pause)
                    pause = min(pause * 2, LAST_RETRY)
                    continue
            await _either(closing.wait(), connection.ended.wait())
            connection.close()
            connection = None


class _EventQueue:
    """A bounded queue: what overflows is dropped as a whole, and a Resync says so."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[Event] = asyncio.Queue(QUEUE)

    def put(self, event: Event) -> None:
        if self._queue.full():
            while not self._queue.empty():
                self._queue.get_nowait()
            logger.warning("%d events of systemd were not read in time: what is known of it is read anew", QUEUE)
            event = Resync()
        self._queue.put_nowait(event)

    async def events(self) -> AsyncGenerator[Event, None]:
        while True:
            yield await self._queue.get()


class _Bus(MessageBus):
    """dbus-next's connection without its leaks and its endless loop."""

    def _setup_socket(self) -> None:
        try:
            super()._setup_socket()  # type: ignore[no-untyped-call]
        except BaseException:  # dbus-next leaves the socket open
            self.release()
            raise

    async def _auth_readline(self) -> str:
        buffer = b""
        while not buffer.endswith(b"\r\n"):
            received = await self._loop.sock_recv(self._sock, 1)
            if not received:  # dbus-next reads on forever, without ever giving way to another task
                raise ConnectionError("the bus closed the connection")
            buffer += received
        return buffer[:-2].decode()

    def release(self) -> None:
        """Close what dbus-next only shuts down."""
        with contextlib.suppress(AttributeError, OSError):
            self._stream.close()
        with contextlib.suppress(AttributeError, OSError):
            self._sock.close()


class _Connection:
    """One connection to the bus with our matches in place."""

    def __init__(self, address: str, queue: _EventQueue) -> None:
        self.queue = queue
        self.ended = asyncio.Event()
        self.owner = ""
        self._bus = _Bus(bus_address=address)
        self._watch: asyncio.Task[None] | None = None

    @classmethod
    async def open(cls, address: str, rules: Sequence[str], queue: _EventQueue) -> _Connection:
        try:
            connection = cls(address, queue)
        except Exception as error:  # dbus-next raises its own, OSError and plain Exception alike
            raise BusError(
                "bus.unreachable", f"no answer from the bus at {address}", hint="is dbus.service running?"
            ) from error
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                await connection._begin(rules)
        except BusError:
            connection.close()
            raise
        except Exception as error:
            connection.close()
            raise BusError("bus.unreachable", f"the bus at {address} does not talk to us") from error
        except BaseException:
            connection.close()
            raise
        return connection

    async def _begin(self, rules: Sequence[str]) -> None:
        await self._bus.connect()
        self._watch = asyncio.create_task(self._wait_for_end())
        self._bus.add_message_handler(self._receive)
        for rule in rules:
            await self._call(_BUS, "/org/freedesktop/DBus", _BUS, "AddMatch", rule)
        self.owner = str((await self._call(_BUS, "/org/freedesktop/DBus", _BUS, "GetNameOwner", _SYSTEMD))[0])
        await self._call(_SYSTEMD, "/org/freedesktop/systemd1", _MANAGER, "Subscribe")
        self.queue.put(Resync())

    async def _call(self, destination: str, path: str, interface: str, member: str, *texts: str) -> list[object]:
        reply = await self._bus.call(
            Message(
                destination=destination,
                path=path,
                interface=interface,
                member=member,
                signature="s" * len(texts),
                body=list(texts),
            )
        )
        if reply is None or reply.message_type is MessageType.ERROR:
            name = "no reply" if reply is None else f"{reply.error_name}: {(reply.body or [''])[0]}"
            raise BusError("bus.failed", f"{member} was refused: {name}")
        return cast(list[object], reply.body)

    async def _wait_for_end(self) -> None:
        try:
            await self._bus.wait_for_disconnect()  # type: ignore[no-untyped-call]
            logger.warning("the bus closed our connection")
        except Exception as error:
            logger.warning("the connection to the bus broke: %s: %s", type(error).__name__, error)
        self.ended.set()

    def _receive(self, message: Message) -> None:
        """Called by dbus-next for every message; must not raise."""
        if message.message_type is not MessageType.SIGNAL:
            return
        if message.sender == _BUS and message.member == "NameOwnerChanged":
            if len(message.body) == 3 and message.body[0] == _SYSTEMD and message.body[2] != self.owner:
                logger.warning("systemd is %s on the bus now, no longer %s", message.body[2] or "not", self.owner)
                self.ended.set()  # another systemd: subscribe there, as if the bus had gone
            return
        if message.sender != self.owner:
            return
        event = decode_signal(message.path or "", message.interface or "", message.member or "", message.body)
        if event is not None:
            self.queue.put(event)

    def close(self) -> None:
        """Idempotent; nothing of dbus-next is left behind."""
        if self._watch is not None:
            self._watch.cancel()
        self._bus._user_disconnect = True
        self._bus._finalize(None)  # type: ignore[no-untyped-call]
        self._bus.release()


def decode_signal(path: str, interface: str, member: str, body: list[object]) -> Event | None:
    """The event in a signal's body; None for one that is not ours or not of the known form."""
    match interface, member, body:
        case _, "JobRemoved", [int(), str(job), str(unit), str(result)] if interface == _MANAGER:
            return JobRemoved(job, unit, result)
        case _, "PropertiesChanged", [str(changed), dict(properties), list()] if changed == _UNIT:
            if (name := unit_from_path(path)) is None:
                return None
            known = cast(Mapping[str, object], properties)
            return UnitChanged(name, _string(known.get("ActiveState")), _string(known.get("SubState")))
    return None


def _string(value: object) -> str | None:
    return value.value if isinstance(value, Variant) and isinstance(value.value, str) else None


async def _either(*waits: Coroutine[object, object, object]) -> None:
    tasks = [asyncio.create_task(wait) for wait in waits]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
