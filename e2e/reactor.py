"""The lab's one event loop, in a thread of its own: notify sockets, journal streams, D-Bus signals.

The rest of the harness is plain blocking code that waits for what the loop puts into the journal.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

from e2e.journal import Parser
from services.common.errors import IntegrityError

T = TypeVar("T")
_CHUNK = 1 << 18


class Reactor:
    """A context manager; `call` runs a coroutine from another thread and returns its result."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._open: set[socket.socket] = set()
        self._thread = threading.Thread(target=self.loop.run_forever, name="lab events", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Cancel everything and end the thread; idempotent."""
        if self.loop.is_closed():
            return

        async def cancel() -> None:
            tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

        asyncio.run_coroutine_threadsafe(cancel(), self.loop).result(timeout=10)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()
        for left in self._open:
            left.close()
        self._open.clear()

    def call(self, coroutine: Coroutine[Any, Any, T], *, seconds: float | None = None) -> T:
        """Run `coroutine` in the loop, to its end."""
        future = asyncio.run_coroutine_threadsafe(coroutine, self.loop)
        try:
            return future.result(timeout=seconds)
        except BaseException:
            future.cancel()
            raise

    def datagrams(self, path: Path, handle: Callable[[str], None]) -> Callable[[], None]:
        """Listen on a datagram socket at `path`; returns what closes it."""
        receiver = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._open.add(receiver)
        receiver.bind(str(path))
        path.chmod(0o666)

        def ready() -> None:
            with contextlib.suppress(BlockingIOError):
                while data := receiver.recv(65536):
                    handle(data.decode(errors="replace"))

        self._in_loop(lambda: self.loop.add_reader(receiver, ready))

        def close() -> None:
            self._in_loop(lambda: self._shut(receiver))

        return close

    def streams(self, path: Path, handle: Callable[[dict[str, str]], None]) -> Callable[[], None]:
        """Listen for journals in export format at `path`; returns what closes it."""
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        self._open.add(listener)
        listener.bind(str(path))
        path.chmod(0o666)
        listener.listen(8)
        connected: set[socket.socket] = set()

        def accept() -> None:
            with contextlib.suppress(BlockingIOError):
                connection, _ = listener.accept()
                connection.setblocking(False)  # noqa: FBT003
                connected.add(connection)
                self._open.add(connection)
                parser = Parser()
                self.loop.add_reader(connection, read, connection, parser)

        def read(connection: socket.socket, parser: Parser) -> None:
            try:
                data = connection.recv(_CHUNK)
                for fields in parser.feed(data):
                    handle(fields)
            except BlockingIOError:
                return
            except (OSError, IntegrityError):
                data = b""
            if not data:
                connected.discard(connection)
                self._shut(connection)

        self._in_loop(lambda: self.loop.add_reader(listener, accept))

        def close() -> None:
            def remove() -> None:
                for each in (listener, *connected):
                    self._shut(each)

            self._in_loop(remove)

        return close

    def _shut(self, one: socket.socket) -> None:
        """In the loop: listen no more, and close."""
        if one in self._open:
            self._open.discard(one)
            self.loop.remove_reader(one)
            one.close()

    def _in_loop(self, function: Callable[[], object]) -> None:
        """Run a function in the loop, and wait for it."""
        done = threading.Event()

        def call() -> None:
            try:
                function()
            finally:
                done.set()

        if threading.current_thread() is self._thread:
            function()
            return
        try:
            self.loop.call_soon_threadsafe(call)
        except RuntimeError:  # closed, and everything of it
            return
        done.wait(10)
