"""A lab's own namespaces: everything that a lab does to the machine happens inside, and goes with them.

`Sandbox` starts `keeper.py` and runs programs, opens sockets and writes files inside. The folder `/run/lab` of the lab
is reached from outside as `Sandbox.lab`. Closing is idempotent; without it, the keeper closes when this process ends.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Self, TypeVar

from e2e import cgroups, registry
from services.common import process
from services.common.errors import HostError

T = TypeVar("T")
KEEPER = Path(__file__).with_name("keeper.py")
_CLONE_NEWNET = 0x40000000


class Sandbox:
    """The namespaces of lab `name`."""

    def __init__(self, name: str) -> None:
        """Raises HostError("lan.root") when we are not root, BusyError("lan.exists"), HostError("lan.namespaces")."""
        if os.geteuid() != 0:
            raise HostError("lan.root", "a lab needs root: it makes namespaces, bridges and mounts", hint="use sudo")
        self.name = name
        self.record = registry.claim(name)
        self.cgroup = cgroups.place(name)
        argv = [*cgroups.scope_argv(name), sys.executable, "-I", "-S", str(KEEPER)]
        argv += [name, str(self.cgroup), str(self.record)]
        # Its own session: Ctrl-C on a terminal is ours to answer, in order. No setpriv: the pipe's end tells it.
        self._keeper = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True, close_fds=True
        )
        assert self._keeper.stdout is not None
        answer = self._keeper.stdout.readline().decode().strip()
        word, _, rest = answer.partition(" ")
        if word != "ready":
            self.close()
            raise HostError(
                "lan.namespaces",
                f"the lab's namespaces could not be made: {rest or 'the keeper died'}",
                hint="`backline lan probe` names what this machine lacks",
            )
        self.pid = int(rest)
        self.root = Path(f"/proc/{self.pid}/root")
        self.lab = self.root / "run/lab"
        if cgroups.has_manager():
            cgroups.enable(self.cgroup.parent)
        self.controllers = cgroups.enable(self.cgroup)
        registry.write(self.record, keeper=self.pid)
        self.run(["ip", "link", "set", "lo", "up"])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let the keeper end every process and remove everything; returns when it has."""
        if self._keeper.stdin is not None and not self._keeper.stdin.closed:
            self._keeper.stdin.close()
        self._keeper.wait()
        if self._keeper.stdout is not None:
            self._keeper.stdout.close()
        registry.release(self.record)

    def inside(self, argv: Sequence[str | Path], *, cgroup: str | None = None, netns: str | None = None) -> list[str]:
        """The argv that runs `argv` inside: in a node's cgroup, in the network namespace at a path of the lab's."""
        words = [os.fspath(word) for word in argv]
        if netns is not None:
            words = ["nsenter", f"--net={netns}", "--", *words]
        if cgroup is not None:
            # The shell writes 0, "myself", and becomes the program: it is never outside of the cgroup.
            script = f'echo 0 > "/sys/fs/cgroup/{cgroup}/cgroup.procs" && exec "$@"'
            words = ["sh", "-c", script, "sh", *words]
        return ["nsenter", f"--target={self.pid}", "-m", "-n", "-p", "-i", "-C", "--", *words]

    def run(
        self,
        argv: Sequence[str | Path],
        *,
        netns: str | None = None,
        stdin: str | bytes | None = None,
        check: bool = True,
        deadline: float | None = None,
    ) -> process.Completed:
        """Run a program of the host inside, to its end. Raises as `process.run`."""
        return process.run(self.inside(argv, netns=netns), stdin=stdin, check=check, deadline=deadline)

    def spawn(
        self,
        argv: Sequence[str | Path],
        *,
        cgroup: str | None = None,
        netns: str | None = None,
        env: Mapping[str, str] | None = None,
        stdin: int | IO[bytes] = subprocess.DEVNULL,
        stdout: int | IO[bytes] | None = None,
        stderr: int | IO[bytes] | None = None,
        pass_fds: Sequence[int] = (),
    ) -> subprocess.Popen[bytes]:
        """Start a program of the host inside. The lab's end is its end, whatever happens to us.

        Not by process.spawn: that asks the kernel to end the program with the *thread* that started it (prctl(2)).
        """
        words = self.inside(argv, cgroup=cgroup, netns=netns)
        environment = {**os.environ, **(env or {})}
        return subprocess.Popen(
            words, env=environment, stdin=stdin, stdout=stdout, stderr=stderr, pass_fds=pass_fds, start_new_session=True
        )

    def in_network(self, function: Callable[[], T], *, netns: str | None = None) -> T:
        """Call `function` in the lab's network namespace, or a node's; sockets made in it stay there.

        In a thread of its own, because setns(2) is for a thread and this one must not move.
        """
        path = f"/proc/{self.pid}/ns/net" if netns is None else f"{self.root}{netns}"
        results: list[T] = []
        errors: list[BaseException] = []

        def call() -> None:
            try:
                _enter_network(path)
                results.append(function())
            except BaseException as error:
                errors.append(error)

        thread = threading.Thread(target=call, name=f"netns {netns or 'lab'}")
        thread.start()
        thread.join()
        if errors:
            raise errors[0]
        return results[0]

    def connect(self, address: tuple[str, int], *, netns: str | None = None, seconds: float = 5.0) -> socket.socket:
        """A TCP connection from inside. Raises OSError."""
        return self.in_network(lambda: socket.create_connection(address, timeout=seconds), netns=netns)

    def make_cgroup(self, node: str) -> Path:
        """The cgroup of a node, made."""
        path = self.cgroup / node
        with contextlib.suppress(FileExistsError):
            path.mkdir()
        return path


@contextlib.contextmanager
def entered_network(path: Path) -> Iterator[None]:
    """The calling thread, and every thread and program that it starts, in another network for a block (setns(2))."""
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        _enter_network(str(path))
        try:
            yield
        finally:
            _enter_network(f"/proc/self/fd/{home}")
    finally:
        os.close(home)


def _enter_network(path: str) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if libc.setns(descriptor, _CLONE_NEWNET) != 0:
            number = ctypes.get_errno()
            raise OSError(number, f"setns: {os.strerror(number)}", path)
    finally:
        os.close(descriptor)
