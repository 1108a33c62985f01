"""A seat with a kernel of its own (QEMU), in front of which somebody sits: what is on its screen, and what root sees.

Emulated, a seat takes minutes for what a real one does in seconds. Looks are root's, over one ssh connection from gw: a
login for each would take its processor six seconds. `LOOK` seconds lie between two.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from e2e.lab import Lab
from e2e.node import Node
from e2e.scenarios.logging_in import Hall

LOOK = 8.0
SECONDS = 300.0
SSH = ("-i", "/root/administrator", "-oStrictHostKeyChecking=no", "-oUserKnownHostsFile=/dev/null", "-oBatchMode=yes")
ONE_CONNECTION = ("-oControlMaster=auto", "-oControlPath=/run/at-the-screen-%h", "-oControlPersist=yes")
AT_X = "DISPLAY=:0 XAUTHORITY=/run/lightdm/root/:0"
CLICK = """
import ctypes, sys
x, test = ctypes.CDLL("libX11.so.6"), ctypes.CDLL("libXtst.so.6")
x.XOpenDisplay.restype = ctypes.c_void_p
display = ctypes.c_void_p(x.XOpenDisplay(None))
test.XTestFakeMotionEvent(display, -1, int(sys.argv[1]), int(sys.argv[2]), 0)
for down in (1, 0):
    test.XTestFakeButtonEvent(display, 1, down, 0)
x.XSync(display, 0)
"""
"""The XTEST extension's button: what QEMU's mouse does, the seat accelerates."""


@dataclass
class Seat:
    """A seat of a lab, and its hall."""

    lab: Lab
    hall: Hall
    node: Node

    @classmethod
    def of(cls, lab: Lab, name: str, folder: Path) -> Seat:
        """`folder` is for the administrator's key, with which gw comes to the seat."""
        lab["gw"].put("/root/administrator", lab.hall.key_in(folder).read_bytes(), mode=0o600)
        return cls(lab, Hall(lab), lab[name])

    def root(self, command: str) -> str:
        """What root of the seat is answered, over ssh from gw; empty when it is not there."""
        target = f"root@{self.lab.machines[self.node.name].ip}"
        return self.lab["gw"].run(["ssh", *SSH, *ONE_CONNECTION, target, command], check=False, seconds=120).stdout

    def wait(self, what: str, holds: Callable[[], bool], *, seconds: float = SECONDS) -> None:
        """Look until something holds."""
        deadline = time.monotonic() + seconds
        while not holds():
            assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}; on its screen: {self.console()}"
            self.lab.journal.pause(LOOK)

    def console(self) -> str:
        """The first virtual terminal, as text without line ends (vcs(4))."""
        return " ".join(self.root("cat /dev/vcs1").split())

    def shows(self, words: str, *, times: int = 1, seconds: float = SECONDS) -> None:
        """Wait until the first virtual terminal shows `words` so often."""
        self.wait(f"{times} times {words!r}", lambda: self.console().count(words) >= times, seconds=seconds)

    def click(self, x: int, y: int) -> None:
        """With the mouse, on the desktop's screen of 1280 by 800."""
        self.root(f"{AT_X} python3 -c {shlex.quote(CLICK)} {x} {y}")

    def layout(self) -> list[str]:
        """The keyboard's layout on the desktop, and its variant when it has one."""
        words = self.root(f"{AT_X} setxkbmap -query").split()
        return [value for name, value in zip(words[::2], words[1::2], strict=True) if name in ("layout:", "variant:")]

    def runs(self, pattern: str) -> bool:
        """Whether a process with such a command line runs there."""
        return self.root(f"pgrep --full --count -- {shlex.quote(pattern)}").strip() not in ("", "0")

    def seated(self, login: str) -> bool:
        """Whether somebody has a session at its own screen."""
        rows = self.root("loginctl list-sessions --no-legend").splitlines()
        return any(f" {login} " in row and "seat0" in row for row in rows)

    def nobody_is_left(self) -> bool:
        """Of homes, processes and what presence has."""
        left = self.root("grep -c ' /home/' /proc/mounts; ps --no-headers -o uid | awk '$1 >= 10000 && $1 < 20000'")
        return left.split() == ["0"] and self.hall.where() == {}
