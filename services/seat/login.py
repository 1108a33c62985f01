"""The stages of a login on a seat, as pam_exec(8) runs them: `backline seat login`, in /etc/pam.d/backline-seat-*.

- auth: is it his password, and may he in? Presence says both. The password comes on standard input, and goes there
  alone; a hash of it stays while he is logged in, for the lock of his screen (`services.seat.lock`).
- account: presence registers him here, and his home is opened. This is the stage that can take minutes, as its lines
  are shown by every greeter.
- open_session: his home is there. If his last session has just ended and taken it away, it is opened once more.
- close_session: nothing. logind knows when the last one is over, even if PAM is dead (`services.seat.home`).

What is printed is shown to who logs in. Exit code 0 lets him in; every other code, and every bug, does not.
"""

from __future__ import annotations

import pwd
import subprocess
import sys
import syslog
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import BinaryIO

from services.common.errors import BacklineError, MissingError
from services.seat.home import STATE, Coming, unit
from services.seat.lock import Kept, keeps
from services.seat.presence import SETTINGS, Decision, Presence, find_presence

PATIENCE = 15.0
"""Seconds for which a presence that does not answer is asked again: it may be restarting."""
AGAIN = 0.5
PASSWORD_MAX = 4096
_SLICE = 0.1


class Login:
    """One stage of one login. `tell` shows a line to who logs in, `log` writes one for administrators.

    `remote`: it comes over the network.
    """

    def __init__(
        self,
        user: str,
        *,
        remote: bool = False,
        tell: Callable[[str], None],
        log: Callable[[str], None],
        presence: Callable[[], Presence] = find_presence,
        wait: Callable[[float], None] = time.sleep,
        patience: float = PATIENCE,
        state: Path = STATE,
        settings: Path = SETTINGS,
        look_later: Callable[[int], None] | None = None,
    ) -> None:
        self.user = user
        self.remote = remote
        self.tell = tell
        self.log = log
        self._presence = presence
        self._wait = wait
        self._patience = patience
        self._state = state
        self._settings = settings
        self._look_later = look_later or later

    def auth(self, password: str) -> bool:
        """Whether it is his password, and he may in as things are."""
        uid = pwd.getpwnam(self.user).pw_uid
        coming = Coming(uid)
        coming.begin()
        decision = self._ask(password, "auth")
        if decision is None:
            coming.end()
            return False
        self._keep(uid, password, decision.group)
        return True

    def account(self) -> bool:
        """Register him here, and open his home."""
        coming = Coming(pwd.getpwnam(self.user).pw_uid)
        coming.begin()
        good = self._ask(None, "account") is not None and self._home()
        if good:
            coming.begin()
        else:
            coming.end()
        return good

    def open_session(self) -> bool:
        """Have his home there. Who took too long since the account stage is asked for his password again."""
        uid = pwd.getpwnam(self.user).pw_uid
        coming = Coming(uid)
        active = subprocess.run(["systemctl", "--quiet", "is-active", unit(uid)], check=False).returncode == 0
        good = active or (self._home() if coming.there() else self.account())
        coming.end()
        return good

    def _keep(self, uid: int, password: str, group: str) -> None:
        """What the lock of his screen needs, where it may be kept; who opens no session is looked for."""
        kept = Kept(uid, state=self._state)
        if not keeps(group, settings=self._settings):
            kept.forget()
            return
        try:
            kept.keep(password)
        except (OSError, BacklineError) as error:  # the lock asks presence, then
            self.log(f"auth of {self.user}: his password is not kept for his screen: {error}")
            return
        self._look_later(uid)

    def _ask(self, password: str | None, stage: str) -> Decision | None:
        """Presence's decision; None for a refusal, which is told."""
        deadline = time.monotonic() + self._patience
        waiting = False
        while True:
            try:
                decision = self._presence().login(self.user, password, stage, remote=self.remote)
                break
            except MissingError as error:
                if time.monotonic() >= deadline:
                    self.log(f"{stage} of {self.user}: {error}")
                    self.tell("The hall's login service does not answer. Please tell an organizer.")
                    return None
                if not waiting:
                    self.tell("Waiting for the hall's login service...")
                waiting = True
                self._wait(AGAIN)
        if not decision.allowed:
            self.log(f"{stage} of {self.user} refused: {decision.reason}: {decision.message}")
            self.tell(words(decision))
            return None
        return decision

    def _home(self) -> bool:
        uid = pwd.getpwnam(self.user).pw_uid
        said = STATE / f"{uid}.said"
        starting = subprocess.Popen(["systemctl", "start", unit(uid)], stderr=subprocess.DEVNULL)
        shown = said.read_text().count("\n") if said.exists() else 0  # of a home that is open already
        while True:
            try:
                code: int | None = starting.wait(_SLICE)
            except subprocess.TimeoutExpired:
                code = None
            shown = self._show(said, shown)
            if code is not None:
                break
        if code != 0:
            self.log(f"the home of {self.user} was not opened: see `journalctl -u {unit(uid)}`")
            self.tell("You are not logged in, as there is no home for you. Please tell an organizer.")
        return code == 0

    def _show(self, said: Path, shown: int) -> int:
        try:
            lines = said.read_text().splitlines()
        except OSError:
            return shown
        for line in lines[shown:]:
            self.tell(line)
        return max(shown, len(lines))


def later(uid: int) -> None:
    """Have somebody look in a minute whether a user has a session (`services.seat.home.check_home`)."""
    argv = ["systemctl", "--no-block", "restart", f"backline-seat-home-check@{uid}.timer"]
    subprocess.run(argv, check=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def words(decision: Decision) -> str:
    """Why not, for who logs in."""
    return decision.message or {"password": "That is not your password."}.get(
        decision.reason, f"You cannot log in here: {decision.reason or 'no reason was given'}."
    )


def run(environ: Mapping[str, str], stdin: BinaryIO, *, presence: Callable[[], Presence] = find_presence) -> int:
    """What pam_exec runs: the exit code."""

    def log(line: str) -> None:
        syslog.syslog(syslog.LOG_WARNING | syslog.LOG_AUTH, line)

    def tell(line: str) -> None:
        print(line, flush=True)

    syslog.openlog("backline-seat-login", syslog.LOG_PID)
    user, stage = environ.get("PAM_USER", ""), environ.get("PAM_TYPE", "")
    remote = bool(environ.get("PAM_RHOST"))  # pam_get_item(3): where who comes over the network comes from
    login = Login(user, remote=remote, tell=tell, log=log, presence=presence)
    try:
        if stage == "auth":
            good = login.auth(stdin.read(PASSWORD_MAX).rstrip(b"\0").decode(errors="replace"))
        elif stage == "account":
            good = login.account()
        elif stage == "open_session":
            good = login.open_session()
        else:
            good = stage == "close_session"
    except BacklineError as error:
        log(f"{stage} of {user}: {error}")
        tell(f"This seat cannot log you in: {error.message}. Please tell an organizer.")
        good = False
    except Exception as error:  # a traceback would be shown to who logs in
        log(f"{stage} of {user}: {type(error).__name__}: {error}")
        tell("This seat cannot log you in. Please tell an organizer.")
        good = False
    return 0 if good else 1


def main() -> int:
    """For `backline seat login`."""
    import os

    return run(os.environ, sys.stdin.buffer)
