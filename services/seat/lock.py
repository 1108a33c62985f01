"""The lock of a user's screen: his own password opens it again, with or without the hall.

A locker is a program of the user's: it may neither show the token of this boot nor read a hash. So `unlock`, which
pam_exec(8) runs for it (/etc/pam.d/backline-seat-lock), asks a process of root's behind a socket, and `serve` is that
process: it answers who asks about himself, and root, by the kernel's word (SO_PEERCRED).

Presence decides, as for a login. When it does not, the hash that was made of the password at the login (`Kept`) does:
of contestants, of organizers only if hall.toml says so, of roots never. It is of this seat's own salt, for root's eyes,
in memory, and goes with the last session.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import socket
import struct
import sys
import syslog
import time
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from services.common.errors import BacklineError, InputError
from services.common.users import UserGroup
from services.seat.home import STATE
from services.seat.presence import SETTINGS, Decision, Presence, find_presence

SOCKET = "/run/backline-seat-lock"
PATIENCE = 15.0
"""Seconds for which presence is asked again where no hash is kept."""
SECONDS = 5.0
DELAY = 2.0
"""Seconds that a wrong password takes, where presence did not say that it is wrong."""
AGAIN = 0.5
LONGEST = 4096
CLIENT_SECONDS = 60.0
_UNDECIDED = ("early", "unavailable")
_SILENT = "The hall's login service does not answer. Please tell an organizer."


class Kept:
    """The hash of a user who is logged in, where one may be kept."""

    def __init__(self, uid: int, *, state: Path = STATE) -> None:
        self.file = state / f"{uid}.hash"

    def keep(self, password: str) -> None:
        """Have it of this password, and of no other any more."""
        from services.common.yescrypt import hash_password

        self.file.parent.mkdir(mode=0o700, exist_ok=True)
        aside = self.file.with_suffix(f".{os.getpid()}")
        aside.touch(mode=0o600)
        aside.write_text(hash_password(password))
        aside.rename(self.file)

    def forget(self) -> None:
        self.file.unlink(missing_ok=True)

    def verify(self, password: str) -> bool | None:
        """Whether it is the password; None where no hash is kept."""
        from services.common.yescrypt import verify_password

        try:
            return verify_password(password, self.file.read_text())
        except FileNotFoundError:
            return None


def keeps(group: str, *, settings: Path = SETTINGS) -> bool:
    """Whether this seat may keep a hash of somebody of this group. Of roots never, whatever its settings say."""
    if group == UserGroup.ROOT.value:
        return False
    try:
        return group in tomllib.loads(settings.read_text()).get("keeps", ())
    except (OSError, ValueError, TypeError):
        return False


@dataclass(frozen=True)
class Verdict:
    """Whether the screen opens, and what is told to who waits for it."""

    opens: bool
    words: str = ""


def decide(
    login: str,
    password: str,
    kept: Kept,
    *,
    presence: Callable[[], Presence] = find_presence,
    wait: Callable[[float], None] = time.sleep,
    patience: float = PATIENCE,
) -> Verdict:
    """Presence's word; without one, what is kept here."""
    deadline = time.monotonic() + patience
    while True:
        try:
            decision = presence().login(login, password, "auth", seconds=SECONDS)
        except BacklineError:
            decision = Decision(allowed=False, reason="unavailable", message=_SILENT)
        if decision.allowed or decision.reason not in _UNDECIDED:
            return Verdict(decision.allowed, decision.message)
        known = kept.verify(password)
        if known is False:
            wait(DELAY)
        if known is not None:
            return Verdict(known, "" if known else "The password is wrong.")
        if time.monotonic() >= deadline:
            return Verdict(opens=False, words=decision.message)
        wait(AGAIN)


# Root's side


def serve(asked: socket.socket, *, decide: Callable[[str, str, Kept], Verdict] = decide) -> None:
    """Answer one locker: two lines come in, login and password; `yes` or `no WORDS` goes out."""
    _, uid, _ = struct.unpack("3i", asked.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")))
    asked.settimeout(CLIENT_SECONDS)
    text = b""
    while text.count(b"\n") < 2 and len(text) < LONGEST and (more := asked.recv(LONGEST)):
        text += more
    login, _, password = text.decode(errors="replace").partition("\n")
    verdict = Verdict(opens=False)
    with contextlib.suppress(KeyError):
        owner = pwd.getpwnam(login).pw_uid
        if uid in (0, owner):
            verdict = decide(login, password.removesuffix("\n"), Kept(owner))
    asked.sendall(b"yes\n" if verdict.opens else f"no {verdict.words}\n".encode())


# The locker's side


def ask(login: str, password: str, *, address: str = SOCKET) -> Verdict:
    """What root's side says. Raises OSError."""
    if "\n" in password:
        raise InputError("password.form", "the password has a line's end in it")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as link:
        link.settimeout(CLIENT_SECONDS)
        link.connect(address)
        link.sendall(f"{login}\n{password}\n".encode(errors="surrogateescape"))
        text = b""
        while not text.endswith(b"\n") and (more := link.recv(LONGEST)):
            text += more
    answer, _, words = text.decode(errors="replace").strip().partition(" ")
    return Verdict(answer == "yes", words)


def unlock(environ: Mapping[str, str], password: bytes, *, address: str = SOCKET) -> int:
    """What pam_exec runs for a locker: the exit code. What is printed is shown to who waits."""
    if environ.get("PAM_TYPE") != "auth":
        return 1
    try:
        verdict = ask(environ.get("PAM_USER", ""), password.rstrip(b"\0").decode(errors="replace"), address=address)
    except (OSError, BacklineError) as error:
        syslog.syslog(syslog.LOG_WARNING | syslog.LOG_AUTH, f"the screen cannot be opened: {error}")
        verdict = Verdict(opens=False, words="This seat cannot open your screen. Please tell an organizer.")
    if not verdict.opens:
        print(verdict.words or "The password is wrong.", flush=True)
    return 0 if verdict.opens else 1


def main() -> int:
    """For `backline seat unlock`."""
    syslog.openlog("backline-seat-lock", syslog.LOG_PID)
    return unlock(os.environ, sys.stdin.buffer.read(LONGEST))


def main_serve() -> int:
    """For the unit behind the socket, whose standard input is the connection."""
    with socket.socket(fileno=os.dup(0)) as asked:
        serve(asked)
    return 0
