"""The typed client of the firewall. Blocking."""

from __future__ import annotations

from services.common.client import Call, Client, path_of
from services.firewall.schema import Standings, Status, Why

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
