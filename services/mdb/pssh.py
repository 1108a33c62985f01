"""One command on many machines at once, through this system's ssh(1).

What runs here is an argv list, never a line for a shell of ours; the words of the command reach the other side quoted,
so that its shell takes them as they are. Nothing is asked (BatchMode), no host key is learnt on the way: a machine is
known by its name (HostKeyAlias), whatever address it has, from the files that are given. ssh_config(5).
"""

from __future__ import annotations

import contextlib
import shlex
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import msgspec

from services.common.process import spawn
from services.mdb.schema import Machine

OUTPUT_BYTES = 1024 * 1024
"""So much of each stream is kept; a machine that says more is not stopped for it."""

_SSH_FAILED = 255  # ssh(1), EXIT STATUS


@dataclass(frozen=True)
class How:
    """How to get there. Seconds are those of one machine."""

    user: str = "root"
    port: int = 22
    jobs: int = 32
    seconds: float = 60.0
    connect_seconds: int = 5
    known_hosts: Sequence[Path] = ()
    identity: Path | None = None


class Outcome(Enum):
    """How it ended on a machine."""

    OK = "ok"
    FAILED = "failed"
    """The command's exit code was not 0."""
    UNREACHABLE = "unreachable"
    """ssh itself failed: no connection, an unknown host key, no login."""
    LATE = "late"


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """What a machine answered; `exit` is null where the command did not end by itself."""

    hostname: str
    address: str
    outcome: Outcome
    exit: int | None
    seconds: float
    stdout: str
    stderr: str


class Results(msgspec.Struct, frozen=True, kw_only=True):
    """The answers, in the order of the machines."""

    results: list[Result]


def argv(machine: Machine, command: Sequence[str], how: How) -> list[str]:
    """The ssh that runs `command` on `machine`."""
    options = [
        "BatchMode=yes",
        f"ConnectTimeout={how.connect_seconds}",
        "StrictHostKeyChecking=yes",
        "UpdateHostKeys=no",
        f"HostKeyAlias={machine.hostname}",
        "CheckHostIP=no",
        "ControlPath=none",
        "ForwardAgent=no",
        "LogLevel=ERROR",
        "ServerAliveInterval=5",
        "ServerAliveCountMax=3",
    ]
    if how.known_hosts:
        options.append(f"UserKnownHostsFile={' '.join(_quoted(path) for path in how.known_hosts)}")
    words = ["ssh", "-n", "-T", "-p", str(how.port), "-l", how.user]
    if how.identity is not None:
        words += ["-i", str(how.identity)]
        options.append("IdentitiesOnly=yes")
    words += [word for option in options for word in ("-o", option)]
    return [*words, "--", str(machine.ip), shlex.join(command)]


def _quoted(path: Path) -> str:
    """A path as ssh_config(5) takes it: in double quotes, percent signs doubled."""
    return '"' + str(path).replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%") + '"'


def run(
    machines: Sequence[Machine],
    command: Sequence[str],
    how: How,
    *,
    done: Callable[[Result], None] = lambda _: None,
) -> list[Result]:
    """Run `command` on each of `machines`, at most `how.jobs` at a time; `done` hears of each as it ends.

    Results are in the order of the machines. When the caller is interrupted, every ssh that runs is ended.
    """
    fleet = _Fleet(how)
    with ThreadPoolExecutor(max(1, min(how.jobs, len(machines) or 1))) as pool:
        futures = [pool.submit(fleet.ask, machine, command) for machine in machines]
        try:
            for future in as_completed(futures):
                done(future.result())
        except BaseException:
            fleet.stop()
            for future in futures:
                future.cancel()
            raise
    return [future.result() for future in futures]


class _Fleet:
    """The ssh processes that run now."""

    def __init__(self, how: How) -> None:
        self.how = how
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen[bytes]] = set()
        self._stopped = False

    def stop(self) -> None:
        """End all of them, and start no more."""
        with self._lock:
            self._stopped = True
            for process in self._running:
                process.kill()

    @contextlib.contextmanager
    def _started(self, words: Sequence[str]) -> Iterator[subprocess.Popen[bytes]]:
        with self._lock:
            if self._stopped:
                raise KeyboardInterrupt
            process = spawn(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
            self._running.add(process)
        try:
            with process:
                yield process
        finally:
            with self._lock:
                self._running.discard(process)

    def ask(self, machine: Machine, command: Sequence[str]) -> Result:
        """Run it on one machine."""
        began = time.monotonic()
        late = threading.Event()
        with self._started(argv(machine, command, self.how)) as process:

            def end() -> None:
                late.set()
                process.kill()

            timer = threading.Timer(self.how.seconds, end)
            timer.start()
            try:
                out, err = _Reader(process.stdout), _Reader(process.stderr)
                stdout, stderr = out.text(), err.text()
                code = process.wait()
            finally:
                timer.cancel()
                timer.join()
        if late.is_set():
            outcome = Outcome.LATE
        elif code == _SSH_FAILED or code < 0:
            outcome = Outcome.UNREACHABLE
        else:
            outcome = Outcome.OK if code == 0 else Outcome.FAILED
        return Result(
            hostname=machine.hostname,
            address=str(machine.ip),
            outcome=outcome,
            exit=code if outcome in (Outcome.OK, Outcome.FAILED) else None,
            seconds=round(time.monotonic() - began, 3),
            stdout=stdout,
            stderr=stderr,
        )


class _Reader:
    """Reads a stream to its end in a thread, and keeps the beginning."""

    def __init__(self, stream: object) -> None:
        self._stream = stream
        self._kept = bytearray()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        while piece := self._stream.read1(64 * 1024):  # type: ignore[attr-defined]
            self._kept += piece[: OUTPUT_BYTES - len(self._kept)]

    def text(self) -> str:
        """All of it, when it has ended."""
        self._thread.join()
        return self._kept.decode(errors="replace")
