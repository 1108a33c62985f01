"""What a node runs in: the protocol of the back ends, and what they share.

A back end makes *runs*: from power on to power off of one node. nspawn is for systems that share this kernel, QEMU for
those that need one of their own, `fake` for tests of the harness itself.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from e2e.network import Cable
from e2e.roots import Mounted
from e2e.topology import Node as NodeSpec

UNIT_FAILED = "d9b373ed55a64feb8242e02dbe79a49c"
"""MESSAGE_ID of a unit that entered the failed state (systemd, sd-messages.h: SD_MESSAGE_UNIT_FAILURE_RESULT)."""


class Ended(enum.Enum):
    """How a run ended."""

    OFF = "powered off"
    REBOOT = "asked to restart"
    KILLED = "was killed"
    FAILED = "failed"


@dataclass(frozen=True)
class Order:
    """What to start: a node, with everything that it gets."""

    name: str
    index: int
    spec: NodeSpec
    cables: Sequence[Cable]
    root: Mounted | None
    credentials: Mapping[str, bytes] = field(default_factory=dict)
    binds: Mapping[str, str] = field(default_factory=dict)
    """Path in the node → path in the lab; those that begin with `ro:` are read-only there."""
    words: Sequence[str] = ()
    """Arguments of a container's init: its kernel command line, as systemd has it."""


@dataclass(frozen=True)
class Listener:
    """Where a run tells what happens; called from any thread.

    `ended` is called when all of it is gone, while it still counts as alive; `over` after that, when it does not.
    """

    ready: Callable[[], None]
    entry: Callable[[dict[str, str]], None]
    ended: Callable[[Ended, str], None]
    over: Callable[[], None] = lambda: None


class Run(Protocol):
    """One run of a node."""

    @property
    def leader(self) -> int | None:
        """PID of the node's init inside the lab; None where the node has a kernel of its own, or is not there yet."""

    def alive(self) -> bool:
        """Whether it still runs."""

    def power_off(self) -> None:
        """Ask it to shut down in order (the power button)."""

    def kill(self) -> None:
        """Pull the plug."""

    def wait_ended(self, deadline: float) -> bool:
        """Wait until it ended and everything of it is gone; False past the deadline."""

    def freeze(self, *, frozen: bool) -> None:
        """Stop or continue every process of it."""

    def argv(self, argv: Sequence[str]) -> list[str]:
        """The host's command line that runs `argv` in the node, with the node's own environment."""

    def path(self, path: str) -> Path | None:
        """A path of the node as the host's programs can look at it, None where they cannot."""

    def memory(self) -> int:
        """Bytes in use."""

    def console(self) -> str:
        """What its console showed."""

    def type(self, text: str) -> None:
        """Type on its keyboard. Raises HostError("lan.keyboard") when it has none."""

    def picture(self) -> bytes:
        """What its screen shows, as PNG. Raises HostError("lan.screen") when it has none."""


class Backend(Protocol):
    """Starts nodes."""

    name: str

    def start(self, order: Order, listener: Listener) -> Run:
        """Power a node on; returns as soon as it is on its way."""
