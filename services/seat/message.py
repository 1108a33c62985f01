"""A new message of the day, before the eyes of who has not logged in yet: greeters read it when they start.

backline-seat-message.path runs this when the identity service has written one. Nobody is disturbed in front of a
greeter that is letting them in, and a seat where somebody works is left alone: the next greeter shows it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable

from services.common import process
from services.common.errors import HostError
from services.seat.home import STATE, Coming

GREETERS = ("greetd.service", "lightdm.service")
PATIENCE, AGAIN = 120.0, 2.0
_NOT_LOADED = 5  # systemctl(1), exit status: an image without this greeter


def show(*, wait: Callable[[float], None] = time.sleep, patience: float = PATIENCE) -> bool:
    """Start the greeter anew, unless somebody sits here; returns whether it was. Who logs in just now is awaited.

    Raises BacklineError, also when nobody can tell who is there.
    """
    deadline = time.monotonic() + patience
    while (busy := coming()) and time.monotonic() < deadline:
        wait(AGAIN)
    if busy or seated(process.run(["loginctl", "list-sessions", "--json=short"]).stdout):
        return False
    for unit in GREETERS:
        done = process.run(["systemctl", "try-restart", unit], check=False)
        if done.returncode not in (0, _NOT_LOADED):
            raise HostError("seat.greeter", f"{unit} cannot be started anew: {done.stderr.strip()}")
    return True


def seated(text: str) -> bool:
    """Whether somebody has a session at this seat's own screen, from loginctl(1) list-sessions in JSON."""
    try:
        return any(
            each.get("seat") and str(each.get("class", "user")).startswith("user") for each in json.loads(text or "[]")
        )
    except (ValueError, TypeError, AttributeError):
        return True


def coming() -> bool:
    """Whether a login has begun that has no session yet."""
    argv = ["systemctl", "list-units", "--no-legend", "--plain", "--state=activating", "backline-seat-home@*.service"]
    opening = process.run(argv).stdout.strip()
    return bool(opening) or any(Coming(int(each.stem), state=STATE).there() for each in STATE.glob("*.coming"))
