"""Starts a service as systemd would: listening sockets on descriptors 3 and up, LISTEN_PID, a notify socket."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from subprocess import Popen

from services.common.process import running, spawn

ROOT = Path(__file__).parents[2]
READY_SECONDS = 15.0
"""How long a service may take to be ready; an emulated processor needs more."""
DEMO = (sys.executable, "-m", "tests.common.demo_service")

# Puts the passed descriptors to 3 and up, writes its own pid into LISTEN_PID, and becomes the service.
LAUNCHER = """
import fcntl, os, sys
numbers = [int(word) for word in sys.argv[1].split(",") if word]
high = [fcntl.fcntl(number, fcntl.F_DUPFD, 100) for number in numbers]
for number in numbers:
    os.close(number)
for index, number in enumerate(high):
    os.dup2(number, 3 + index)
    os.close(number)
os.environ["LISTEN_PID"] = str(os.getpid())
os.execv(sys.argv[2], sys.argv[2:])
"""


class NotifySocket:
    """The service manager's end of sd_notify(3)."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.seen: list[dict[str, str]] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))

    def wait_for(self, key: str, value: str = "1", *, seconds: float = 15) -> dict[str, str]:
        """The next message that has `key`; fails after a deadline."""
        deadline = time.monotonic() + seconds
        while True:
            self._socket.settimeout(max(0.001, deadline - time.monotonic()))
            lines = self._socket.recv(4096).decode().split("\n")
            states = dict(line.split("=", 1) for line in lines)
            self.seen.append(states)
            if states.get(key) == value:
                return states

    def forget(self) -> None:
        """Drop what has arrived."""
        self._socket.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                self._socket.recv(4096)

    def close(self) -> None:
        self._socket.close()


@dataclass
class Service:
    """A running service and where it listens."""

    process: Popen[bytes]
    notify: NotifySocket
    socket: Path
    port: int
    errors: Path

    @property
    def unix(self) -> str:
        return f"unix:{self.socket}"

    @property
    def http(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def stop(self) -> int:
        """SIGTERM, and the exit code."""
        self.process.terminate()
        return self.process.wait(timeout=15)


@contextlib.contextmanager
def activated(
    folder: Path,
    argv: Sequence[str] = DEMO,
    *,
    env: Mapping[str, str] | None = None,
    names: str = "api.socket:lan",
    ready: bool = True,
    port: int = 0,
) -> Iterator[Service]:
    """A service with two activated sockets, one unix and one TCP (at any port unless told), ready to answer."""
    path = folder / "service.sock"
    with contextlib.ExitStack() as stack:
        local = stack.enter_context(socket.socket(socket.AF_UNIX))
        local.bind(str(path))
        path.chmod(0o666)
        local.listen(64)
        lan = stack.enter_context(socket.socket(socket.AF_INET))
        lan.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        lan.bind(("127.0.0.1", port))
        lan.listen(64)
        notify = NotifySocket(folder / "notify")
        stack.callback(notify.close)
        port = int(lan.getsockname()[1])
        numbers = (local.fileno(), lan.fileno())
        launcher = [sys.executable, "-ISc", LAUNCHER, ",".join(map(str, numbers)), *argv]
        variables = {
            **base_environment(),
            "LISTEN_FDS": "2",
            "LISTEN_FDNAMES": names,
            "NOTIFY_SOCKET": str(notify.path),
            **(env or {}),
        }
        errors = folder / "stderr"
        with errors.open("wb") as log:
            process = spawn(launcher, cwd=ROOT, env=variables, pass_fds=numbers, stderr=log, stdout=subprocess.PIPE)
        assert process.stdout is not None
        stack.enter_context(process.stdout)
        stack.enter_context(running(process))
        local.close()
        lan.close()
        if ready:
            try:
                notify.wait_for("READY", seconds=READY_SECONDS)
            except TimeoutError:
                raise AssertionError(errors.read_text()) from None
        yield Service(process, notify, path, port, errors)


def base_environment() -> dict[str, str]:
    """Our own environment without what a service manager may have put into it."""
    drop = ("LISTEN_", "NOTIFY_", "WATCHDOG_", "JOURNAL_", "BACKLINE_", "CREDENTIALS_", "INVOCATION_")
    return {key: value for key, value in os.environ.items() if not key.startswith(drop)}


def reachable(path: Path) -> None:
    """Let other users come to the socket: pytest keeps its folders to itself."""
    for parent in path.parents:
        if parent.stat().st_uid == 0 and str(parent).startswith("/tmp/"):
            parent.chmod(parent.stat().st_mode | 0o011)
