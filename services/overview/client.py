"""The typed client of the overview. Blocking."""

from __future__ import annotations

from services.common.client import Call, Client
from services.overview.schema import Hall

SOCKET = "unix:/run/backline/overview.sock"


class OverviewClient(Client):
    """Errors are those of `services.common.client`."""

    def hall(self) -> Hall:
        """Everything at a glance."""
        return self.send(Call("GET", "/v1/hall", Hall))
