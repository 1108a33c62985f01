"""A seat's heartbeat: how it is and who is logged in, every 15 s; the answer may ask it to restart.

netboot's lease on the version that this seat runs goes on with it, and rollouts are judged by it. It begins as soon as
the network is there, long before the default target, and never ends by itself: netboot may be away for as long as it
likes. Whether somebody is logged in is looked up once more right before a restart.

Restarting takes root, which this is not: it leaves a file, and backline-seat-restart.path sees that. It is the same
with sessions that presence has ended: backline-seat-end.path.
"""

from __future__ import annotations

import json
import logging
import pwd
import random
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from services.common import process
from services.common.errors import BacklineError, InputError
from services.common.identity import read_identity
from services.seat.report import Boot, put

logger = logging.getLogger(__name__)

SECONDS = 15.0
LONGEST = 600.0
RESTART = Path("/run/backline-seat/restart")
END = Path("/run/backline-seat/end")
UNCLEAR = "somebody"
"""Who is logged in when that cannot be told."""
USERS_MAX = 64


@dataclass(frozen=True)
class Orders:
    """What netboot's answer asks for. What it says besides may be of a newer netboot, and is passed over."""

    seconds: float = SECONDS
    reboot: bool = False
    even_with_user: bool = False
    version: str = ""
    probes: tuple[str, ...] = ()
    end: tuple[str, ...] = ()


def look(probes: Sequence[str] = ()) -> dict[str, Any]:
    """How this system is: systemd's state, what failed, who is logged in, and the states of units."""
    argv = ["systemctl", "list-units", "--state=failed", "--no-legend", "--plain", "--full"]
    failed = [line.split()[0] for line in _lines(argv) if line.strip()]
    state = next(iter(_lines(["systemctl", "is-system-running"])), "unknown")
    health: dict[str, Any] = {"state": state, "failed_units": failed[:100]}
    if probes:
        health["units"] = dict(zip(probes, _lines(["systemctl", "is-active", "--", *probes]), strict=False))
    names = users()
    found: dict[str, Any] = {
        "version": read_identity().version or "",
        "health": health,
        "user": next(iter(names), None),
    }
    if names != [UNCLEAR]:
        found["users"] = names[:USERS_MAX]
    return found


def user() -> str | None:
    """Somebody who is logged in, at the seat or over ssh; None for nobody. A greeter is nobody."""
    return next(iter(users()), None)


def users() -> list[str]:
    """Everybody who is logged in, who came first being first."""
    return users_of(process.run(["loginctl", "list-sessions", "--json=short"], check=False).stdout)


def users_of(text: str) -> list[str]:
    """Who has a session, from loginctl(1) list-sessions in JSON: classes as in pam_systemd(8)."""
    try:
        sessions = json.loads(text or "[]")
        names = [str(each["user"]) for each in sessions if str(each.get("class", "user")).startswith("user")]
    except (ValueError, TypeError, KeyError, AttributeError):
        return [UNCLEAR]  # not to be able to tell is no reason to restart a seat under its user
    return list(dict.fromkeys(names))


def orders_of(content: bytes) -> Orders:
    """Netboot's answer. One that makes no sense asks for nothing."""
    try:
        answer = json.loads(content)
        return Orders(
            seconds=min(max(float(answer.get("seconds", SECONDS)), 1.0), LONGEST),
            reboot=answer.get("reboot") is True,
            even_with_user=answer.get("even_with_user") is True,
            version=str(answer.get("version") or ""),
            probes=tuple(str(each) for each in answer.get("probes", ())),
            end=tuple(str(each) for each in answer.get("end", ())),
        )
    except (ValueError, TypeError, AttributeError):
        logger.warning("netboot's answer to a heartbeat makes no sense")
        return Orders()


def beat(boot: Boot, what: Mapping[str, Any]) -> Orders:
    """Send one heartbeat. Raises as `services.seat.report.put`."""
    return orders_of(put(boot, "heartbeat", what))


class Heart:
    """Beats until it is told to stop. `restart` is called when netboot asks for it and nobody is logged in, `end` with
    the name of each user of the last heartbeat whose session here has ended elsewhere.
    """

    def __init__(
        self,
        boot: Boot,
        *,
        look: Callable[[Sequence[str]], Mapping[str, Any]] = look,
        user: Callable[[], str | None] = user,
        restart: Callable[[], None] | None = None,
        end: Callable[[str], None] | None = None,
    ) -> None:
        self.boot = boot
        self.stopped = threading.Event()
        self._look = look
        self._user = user
        self._restart = restart or ask_to_restart
        self._end = end or ask_to_end
        self._orders = Orders()
        self._silent = False

    def run(self) -> None:
        """Beat at once, then at a moment of one's own, so that a hall that is switched on does not beat as one."""
        self.once()
        self.stopped.wait(random.uniform(0, SECONDS))
        while not self.stopped.is_set():
            self.stopped.wait(self.once())

    def once(self) -> float:
        """One heartbeat; returns the seconds until the next."""
        try:
            seen = self._look(self._orders.probes)
            self._orders = orders = beat(self.boot, seen)
        except BacklineError as error:
            level = logging.DEBUG if self._silent else logging.WARNING
            logger.log(level, "%s", error)
            self._silent = True
            return LONGEST / 10 if isinstance(error, InputError) else SECONDS
        if self._silent:
            logger.info("netboot hears this seat again")
        self._silent = False
        for login in orders.end:
            if login in seen.get("users", ()):  # nobody of whom we have not spoken
                logger.warning("the session of %s here has ended at gw: he is logged out", login)
                self._end(login)
        if orders.reboot:
            somebody = self._user()
            if somebody is None or orders.even_with_user:
                logger.warning("netboot asks this seat to restart into %s", orders.version)
                self._restart()
            else:
                logger.info("netboot asks this seat to restart, but %s has logged in", somebody)
        return orders.seconds


def ask_to_restart(file: Path = RESTART) -> None:
    """Leave what backline-seat-restart.path waits for."""
    file.touch()


def ask_to_end(login: str, folder: Path = END) -> None:
    """Leave what backline-seat-end.path waits for: a file that is called as the user's number."""
    try:
        uid = pwd.getpwnam(login).pw_uid
        folder.mkdir(mode=0o755, exist_ok=True)
        (folder / str(uid)).touch()
    except (KeyError, OSError) as error:
        logger.error("%s cannot be logged out: %s", login, error)


def _lines(argv: Sequence[str]) -> list[str]:
    return process.run(list(argv), check=False).stdout.splitlines()  # systemctl's exit code says what its output says
