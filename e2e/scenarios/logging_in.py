"""Users who log in on seats of a lab: over ssh, at the console and through PAM alone. Shared by scenarios."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from e2e.lab import Lab
from e2e.node import Node
from services.common.process import Completed
from services.common.users import UserGroup
from services.presence.client import Presence
from services.presence.schema import Session
from services.udb.client import Udb
from services.udb.schema import NewUser

SSH = (
    "-oStrictHostKeyChecking=no",
    "-oUserKnownHostsFile=/dev/null",
    "-oLogLevel=ERROR",
    "-oNumberOfPasswordPrompts=1",
    "-oPreferredAuthentications=keyboard-interactive",
)
PAMTESTER = "/opt/pamtester"
CONSOLE = """
import os, pty, select, sys, time
pid, screen = pty.fork()
if pid == 0:
    os.execvp("login", ["login", sys.argv[1]])
typed = False
with open("/run/screen", "wb", buffering=0) as seen:
    while os.waitpid(pid, os.WNOHANG) == (0, 0):
        try:
            seen.write(os.read(screen, 4096) if select.select([screen], [], [], 0.1)[0] else b"")
        except OSError:
            time.sleep(0.1)  # login hangs its terminal up before it opens it anew (vhangup(2))
        if not typed and b"assword: " in open("/run/screen", "rb").read():
            typed = os.write(screen, open("/opt/password", "rb").read()) > 0
"""


@dataclass
class Hall:
    """A lab with users, seen from gw, where they come from over ssh."""

    lab: Lab

    @property
    def gw(self) -> Node:
        return self.lab["gw"]

    def seat(self, number: int) -> Node:
        """Seat `number`, from 1."""
        return self.lab[f"pas-r01p{number:02}"]

    def udb(self) -> Udb:
        return Udb(self.gw.service("udb"))

    def add(self, login: str, password: str, group: UserGroup = UserGroup.USER) -> None:
        """A user of udb."""
        with self.udb() as udb:
            udb.create(NewUser(login=login, group=group, password=password))

    def sessions(self) -> list[Session]:
        with Presence(self.gw.service("presence")) as presence:
            return presence.sessions().sessions

    def where(self) -> dict[str, str]:
        """Who is where, as presence has it."""
        return {each.login: each.hostname for each in self.sessions()}

    def knows(self, node: Node, login: str) -> bool:
        return node.run(["getent", "passwd", login], check=False).returncode == 0

    # Ways in

    def ssh_argv(self, login: str, seat: Node | str, password: str, command: Sequence[str]) -> list[str]:
        """What logs in over ssh from gw, on a seat or at an address. The password lies in a file of gw's root."""
        address = seat if isinstance(seat, str) else seat.address
        self.gw.put(f"/root/passwords/{login}", f"#!/bin/sh\necho '{password}'\n", mode=0o700)
        asking = [f"SSH_ASKPASS=/root/passwords/{login}", "SSH_ASKPASS_REQUIRE=force"]
        return ["env", *asking, "setsid", "--wait", "ssh", *SSH, f"{login}@{address}", *command]

    def ssh(
        self, login: str, seat: Node, password: str, *command: str, seconds: float = 60.0, check: bool = True
    ) -> Completed:
        return self.gw.run(self.ssh_argv(login, seat, password, command), seconds=seconds, check=check)

    def stay(self, login: str, seat: Node, password: str) -> subprocess.Popen[bytes]:
        """Log in over ssh, and stay there for ten minutes."""
        return self.gw.run_in_background(self.ssh_argv(login, seat, password, ["sleep", "600"]))

    def at_console(self, login: str, seat: Node, password: str) -> subprocess.Popen[bytes]:
        """login(1) on a terminal of its own, with the password typed; what is on the screen is in /run/screen."""
        seat.put("/opt/console.py", CONSOLE)
        seat.put("/opt/password", f"{password}\n", mode=0o600)
        return seat.run_in_background(["python3", "/opt/console.py", login])

    def pam(self, login: str, seat: Node, password: str, *operations: str, service: str = "login") -> Completed:
        """Only PAM, as `service` does it."""
        put_pamtester(seat)
        argv = [PAMTESTER, service, login, *operations]
        return seat.run(argv, stdin=f"{password}\n", check=False)


def put_pamtester(node: Node) -> None:
    """This machine's pamtester, which is no part of any image."""
    if node.run(["test", "-x", PAMTESTER], check=False).returncode != 0:
        program = shutil.which("pamtester")
        assert program is not None, "run `make setup`"
        node.put(PAMTESTER, Path(program).read_bytes(), mode=0o755)
