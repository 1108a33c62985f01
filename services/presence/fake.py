"""Pretends that somebody is logged in: for developing what follows presence without a seat.

It sends the heartbeat of a machine as netboot would, as root, whom presence believes whatever is claimed. A session
that is not kept by this any more sleeps after `EXPIRY_SECONDS`, as that of a machine that has crashed.
"""

from __future__ import annotations

import time

from services.common.errors import BacklineError, Exit
from services.mdb.client import Mdb
from services.presence.client import Presence
from services.presence.schema import Beat

SECONDS = 4.0
BOOT = "0" * 32
"""The boot of every pretended machine."""


def pretend(client: Presence, mdb: str, login: str, host: str, *, seconds: float | None) -> int:
    """Send heartbeats of `host` that name `login`, for so long, or until Ctrl-C; then say that nobody is there."""
    with Mdb(mdb) as machines:
        machine = machines.machine(host)
    there = Beat(machine=machine.id, hostname=machine.hostname, boot=BOOT, users=[login])
    ends = None if seconds is None else time.monotonic() + seconds
    shown = False
    try:
        while ends is None or time.monotonic() < ends:
            client.heartbeats([there])
            if not shown:
                print(_told(client, login, machine.hostname), flush=True)
                shown = True
            time.sleep(SECONDS if ends is None else max(0.0, min(SECONDS, ends - time.monotonic())))
    except KeyboardInterrupt:
        pass
    finally:
        try:
            client.heartbeats([Beat(machine=machine.id, hostname=machine.hostname, boot=BOOT, users=[])])
        except BacklineError as error:
            print(f"the session ends by itself: {error.message}")
    return int(Exit.OK)


def _told(client: Presence, login: str, hostname: str) -> str:
    found = next((each for each in client.sessions().sessions if each.login == login), None)
    if found is None or found.hostname != hostname:
        return f"presence does not believe it: {login} is no user of udb, or {hostname} is in use by another"
    return f"{login} is logged in on {hostname}, until Ctrl-C"
