"""The QEMU Machine Protocol over a socket that QEMU got from us: commands from any thread, events as they come.

One JSON object a line ("QEMU Machine Protocol Specification"). Nothing is connected or awaited at the start: what is
asked before QEMU listens waits in the socket.
"""

from __future__ import annotations

import contextlib
import json
import queue
import socket
import threading
from collections.abc import Callable
from typing import Any

from services.common.errors import HostError

Event = Callable[[str, dict[str, Any]], None]
_GONE: dict[str, Any] = {}


class Qmp:
    """The control of one QEMU. `handle` gets each event by its name with its data, in a thread of ours."""

    def __init__(self, link: socket.socket, handle: Event) -> None:
        self._link = link
        self._handle = handle
        self._lock = threading.Lock()
        self._answers: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._read, name="qmp", daemon=True)
        with contextlib.suppress(HostError):  # a QEMU that refused its command line: whoever started it sees it end
            self._send("qmp_capabilities")
        self._thread.start()

    def execute(self, command: str, *, seconds: float = 10.0, **arguments: Any) -> None:
        """Run a command. Raises HostError("lan.qmp") when QEMU refuses, is late or is gone."""
        with self._lock:
            self._send(command, arguments)
            try:
                answer = self._answers.get(timeout=seconds)
            except queue.Empty:
                raise HostError("lan.qmp", f"QEMU did not answer {command} within {seconds:g} s") from None
        if answer is _GONE:
            self._answers.put(_GONE)
            raise HostError("lan.qmp", f"QEMU is gone, and cannot {command}")
        if "error" in answer:
            raise HostError("lan.qmp", f"QEMU refuses {command}: {answer['error'].get('desc', '')}")

    def close(self, *, seconds: float = 5.0) -> None:
        """Once QEMU has ended: handle what it said at last, then let go; idempotent."""
        self._thread.join(timeout=seconds)
        self._link.close()

    def _send(self, command: str, arguments: dict[str, Any] | None = None) -> None:
        # "-" in names of arguments is "_" here.
        named = {name.replace("_", "-"): value for name, value in (arguments or {}).items()}
        message = {"execute": command, "arguments": named} if named else {"execute": command}
        try:
            self._link.sendall(json.dumps(message).encode() + b"\n")
        except OSError as error:
            raise HostError("lan.qmp", f"QEMU is gone, and cannot {command}") from error

    def _read(self) -> None:
        try:
            with self._link.makefile("rb") as lines:
                greeted = False
                for line in lines:
                    message = json.loads(line)
                    if "event" in message:
                        self._handle(message["event"], message.get("data", {}))
                    elif "QMP" in message:
                        continue
                    elif not greeted:
                        greeted = True  # the answer to qmp_capabilities
                    else:
                        self._answers.put(message)
        except (OSError, ValueError):
            pass  # reset by a QEMU that was killed
        self._answers.put(_GONE)
