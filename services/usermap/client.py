"""The typed client of the map. Blocking."""

from __future__ import annotations

from services.common.client import Call, Client
from services.usermap.schema import Map

SOCKET = "unix:/run/backline/usermap.sock"


class UsermapClient(Client):
    """Errors are those of `services.common.client`."""

    def map(self) -> Map:
        """Rooms, rows and seats."""
        return self.send(Call("GET", "/v1/map", Map))
