"""The typed client of the firewall. Blocking."""

from __future__ import annotations

from services.common.changes import Audit
from services.common.client import Call, Client, path_of
from services.common.users import UserGroup
from services.firewall.schema import Decision, GroupStates, Standings, Status, Why

SOCKET = "unix:/run/backline/firewall.sock"


class FirewallClient(Client):
    """Errors are those of `services.common.client`."""

    def status(self) -> Status:
        """What is in force."""
        return self.send(Call("GET", "/v1/status", Status))

    def machines(self) -> Standings:
        """Every machine, and whether it gets out."""
        return self.send(Call("GET", "/v1/machines", Standings))

    def why(self, name: str) -> Why:
        """A machine by host name, alias or address."""
        return self.send(Call("GET", path_of("v1", "machines", name), Why))

    def groups(self) -> GroupStates:
        """Which groups get out now."""
        return self.send(Call("GET", "/v1/groups", GroupStates))

    def decide(self, group: UserGroup, *, allowed: bool | None) -> GroupStates:
        """Let a group out, keep it in, or with None leave it to hall.toml."""
        return self.send(Call("PUT", path_of("v1", "groups", group.value), GroupStates, body=Decision(allowed=allowed)))

    def audit(self) -> Audit:
        """Who decided about groups, the newest first."""
        return self.send(Call("GET", "/v1/audit", Audit))
