"""Who is at an address, from what mdb and presence have told. Pure, and quick: nginx asks with every request."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from services.common.feed.mirror import Mirror
from services.sso.schema import Machine, Session

AUTHENTICATED = "authenticated"
MISSING = "missing header X-Real-IP"


@dataclass(frozen=True)
class Answer:
    """The login, or None, and the status in the words of the first system."""

    login: str | None
    status: str


class Who:
    """Machines by address and sessions by machine; `overrides` are logins by address or host name.

    Whoever is logged in on a machine of ours is there, whatever an override says.
    """

    def __init__(self, machines: Mirror[Machine], sessions: Mirror[Session], overrides: Mapping[str, str]) -> None:
        self.machines = machines
        self.sessions = sessions
        self.overrides = dict(overrides)

    def at(self, address: str | None) -> Answer:
        """Who is at an address, in its usual spelling."""
        if not address:
            return Answer(None, MISSING)
        machine = self.machines.find(address)
        if machine is not None:
            session = self.sessions.find(str(machine.id))
            if session is not None:
                return Answer(session.login, AUTHENTICATED)
        login = self.overrides.get(address)
        if login is None and machine is not None:
            login = self.overrides.get(machine.hostname)
        if login is not None:
            return Answer(login, AUTHENTICATED)
        if machine is None:
            return Answer(None, f"unknown IP {address}")
        return Answer(None, f"logged-out machine {machine.hostname}")
