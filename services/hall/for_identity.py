"""Settings of the identity service on each machine, and a seat's own, from hall.toml: where udb and presence are. Pure.

Hosts follow udb's private feed, for the ssh keys of root; gw's own does so over the unix socket, others with their
certificate of scope feed-private. A seat is told no more than names: a root shell there finds no hash of anybody.
"""

from __future__ import annotations

import json

from services.common.users import UserGroup
from services.hall.schema import Hall


def settings(hall: Hall, *, gateway: bool, seat: bool) -> str:
    """TOML for `backline identity serve --config`."""
    udb = "unix:/run/backline/udb.sock" if gateway else f"https://udb.{hall.site.domain}"
    lines = [f"udb = {json.dumps(udb)}", f"keys = {json.dumps(not seat)}"]
    lines += [f"ends_sessions = {json.dumps(seat)}", f"message = {json.dumps(seat)}"]
    return "\n".join(lines) + "\n"


def seat(hall: Hall) -> str:
    """TOML for `backline seat`: who decides on logins, whose hashes it keeps, and what users may send and receive."""
    keeps = [UserGroup.USER, *([UserGroup.ORGA] if hall.seats.organizers_hashes else [])]
    lines = [f"presence = {json.dumps(f'https://presence.{hall.site.domain}')}"]
    lines += [f"keeps = {json.dumps([group.value for group in keeps])}", f"bandwidth = {hall.seats.bandwidth}"]
    return "\n".join(lines) + "\n"
