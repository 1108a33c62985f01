"""A back end in memory, for tests of the harness itself. What its nodes do wrong is named: `Fault`."""

from __future__ import annotations

import enum
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from e2e.backend import UNIT_FAILED, Ended, Listener, Order


class Fault(enum.Enum):
    """What a fake node does wrong, given as its credential `fake.fault`."""

    NONE = "none"
    NEVER_READY = "never-ready"  # runs, and does not reach its default target
    UNIT_FAILS = "unit-fails"  # a unit fails, and it never gets ready
    DIES = "dies"  # is off before it is ready
    REBOOTS_ONCE = "reboots-once"  # asks for a restart at its first start, then gets ready
    WILL_NOT_STOP = "will-not-stop"  # ignores the power button


class FakeBackend:
    """Implements `backend.Backend`."""

    name = "fake"

    def __init__(self) -> None:
        self.started: list[str] = []

    def start(self, order: Order, listener: Listener) -> FakeRun:
        """Start a node that has no process."""
        self.started.append(order.name)
        fault = Fault(order.credentials.get("fake.fault", b"none").decode())
        if fault is Fault.REBOOTS_ONCE and self.started.count(order.name) > 1:
            fault = Fault.NONE
        return FakeRun(order, listener, fault)


class FakeRun:
    """One run of a fake node. Implements `backend.Run`; what happens comes from a thread, as with the real ones."""

    def __init__(self, order: Order, listener: Listener, fault: Fault) -> None:
        self.order = order
        self.listener = listener
        self.fault = fault
        self.frozen = False
        self.leader: int | None = None
        self._ended = threading.Event()
        self._end: tuple[Ended, str] | None = None
        self._wake = threading.Event()
        threading.Thread(target=self._live, name=f"fake {order.name}", daemon=True).start()

    def _live(self) -> None:
        match self.fault:
            case Fault.DIES:
                self._end = (Ended.FAILED, "its init died")
            case Fault.REBOOTS_ONCE:
                self._end = (Ended.REBOOT, "restarts")
            case Fault.UNIT_FAILS:
                self.listener.entry({"MESSAGE": "it is broken", "UNIT": "broken.service", "PRIORITY": "3"})
                failed = {"MESSAGE": "broken.service: Failed", "UNIT": "broken.service", "MESSAGE_ID": UNIT_FAILED}
                self.listener.entry(failed)
            case Fault.NEVER_READY:
                self.listener.entry({"MESSAGE": "still starting"})
            case _:
                self.listener.entry({"MESSAGE": "hello"})
                self.listener.ready()
        if self._end is None:
            self._wake.wait()
        assert self._end is not None
        self.listener.ended(*self._end)
        self._ended.set()
        self.listener.over()

    def _finish(self, how: Ended, words: str) -> None:
        self._end = (how, words)
        self._wake.set()

    def alive(self) -> bool:
        """Whether it still runs."""
        return not self._ended.is_set()

    def power_off(self) -> None:
        """The power button."""
        if self.fault is not Fault.WILL_NOT_STOP:
            self._finish(Ended.OFF, "powered off")

    def kill(self) -> None:
        """Pull the plug."""
        self._finish(Ended.KILLED, "power was cut")

    def reboot(self) -> None:
        """What `systemctl reboot` in it would do."""
        self._finish(Ended.REBOOT, "restarts")

    def wait_ended(self, deadline: float) -> bool:
        """Wait until it ended."""
        return self._ended.wait(max(0.0, deadline - time.monotonic()))

    def freeze(self, *, frozen: bool) -> None:
        """Remember it."""
        self.frozen = frozen

    def argv(self, argv: Sequence[str]) -> list[str]:
        """Programs run on the host."""
        return list(argv)

    def path(self, path: str) -> Path | None:  # noqa: ARG002
        """It has no files."""
        return None

    def memory(self) -> int:
        """Nothing."""
        return 0

    def console(self) -> str:
        """Nothing."""
        return ""

    def type(self, text: str) -> None:
        """It reads nothing."""

    def picture(self) -> bytes:
        """It shows nothing."""
        return b""
