"""What testcontainers asks of a target that it waits for (its WaitStrategyTarget), answered by a machine of a lab."""

from __future__ import annotations

import shlex
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple, Self

from e2e.journal import Entry
from services.common import process


class ExecResult(NamedTuple):
    """What testcontainers' containers answer to `exec`."""

    exit_code: int
    output: bytes


class WaitTarget(ABC):
    """A machine as a container: it has a first address, a state, a journal, and runs programs."""

    @property
    @abstractmethod
    def address(self) -> str:
        """Its first address."""

    @property
    @abstractmethod
    def running(self) -> bool:
        """Whether it has power."""

    @property
    @abstractmethod
    def ready(self) -> bool:
        """Whether it has reached its default target."""

    @abstractmethod
    def journal(self, *, unit: str | None = None, since_start: bool = True) -> list[Entry]:
        """Its entries in the lab's journal."""

    @abstractmethod
    def run(
        self, argv: Sequence[str], *, stdin: str | bytes | None = None, seconds: float = 60.0, check: bool = True
    ) -> process.Completed:
        """Run a program in it."""

    def get_container_host_ip(self) -> str:
        """Its first address; reach it from inside the lab."""
        return self.address

    def get_exposed_port(self, port: int) -> int:
        """Nothing is mapped in a lab."""
        return port

    def get_wrapped_container(self) -> Self:
        """Itself: it has `status`, `attrs` and `reload` as docker's containers have."""
        return self

    def get_logs(self) -> tuple[bytes, bytes]:
        """Its journal as text, and nothing on the second stream."""
        return "\n".join(entry.message for entry in self.journal()).encode(), b""

    def reload(self) -> None:  # noqa: B027
        """Nothing is cached here."""

    @property
    def status(self) -> str:
        """`running` or `exited`, docker's words."""
        return "running" if self.running else "exited"

    @property
    def attrs(self) -> dict[str, Any]:
        """What strategies read of docker's `inspect`: the state, and as its health whether it is up."""
        health = {"Status": "healthy" if self.ready else "starting"}
        return {"State": {"Status": self.status, "Running": self.running, "Error": "", "Health": health}}

    def exec(self, command: str | list[str]) -> ExecResult:
        """Run a program; a string is split into words, and no shell reads it, as with testcontainers' own."""
        argv = shlex.split(command) if isinstance(command, str) else command
        done = self.run(argv, check=False)
        return ExecResult(done.returncode, (done.stdout + done.stderr).encode())
