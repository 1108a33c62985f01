"""The two services on gw that a root file server talks to, as far as it does: the depot and netboot.

Over TLS with this host's certificate of scope `rfs`, or over their unix sockets. What is read here has only the fields
that are used, so newer services may say more.
"""

from __future__ import annotations

import msgspec

from services.common.client import Call, Client, Nothing, path_of
from services.common.depot import DepotFiles
from services.common.errors import BacklineError
from services.common.problem import RemoteError
from services.common.tls import TlsSettings
from services.common.versions import Ref

_WAIT, _WAITS = 20, 15
"""How long the depot lets us wait for its deltas, and how often: five minutes."""


class DepotVersion(msgspec.Struct, frozen=True, kw_only=True):
    """A version of the depot; `pending` deltas to it are still to be made."""

    pending: int = 0


class NewProgress(msgspec.Struct, frozen=True, kw_only=True):
    """How far we are with a publication."""

    bytes: int
    total: int
    full: int
    state: str
    detail: str = ""


class HostProgress(msgspec.Struct, frozen=True, kw_only=True):
    """What a receiver said last."""

    host: str
    state: str


class Told(msgspec.Struct, frozen=True, kw_only=True):
    """A publication's receivers."""

    progress: list[HostProgress]


class Holding(msgspec.Struct, frozen=True, kw_only=True):
    """A number that netboot has noted as a holder of a version."""

    rfs: int
    version: str


class Holdings(msgspec.Struct, frozen=True, kw_only=True):
    """All of them."""

    holdings: list[Holding]


class Channel(msgspec.Struct, frozen=True, kw_only=True):
    """A channel's pointer."""

    name: str
    current: str | None
    previous: str | None


class Channels(msgspec.Struct, frozen=True, kw_only=True):
    """Every channel."""

    channels: list[Channel]


class Pin(msgspec.Struct, frozen=True, kw_only=True):
    """A pin of a room or type."""

    kind: str
    value: str
    version: str


class Pins(msgspec.Struct, frozen=True, kw_only=True):
    """Every pin."""

    pins: list[Pin]


class Users(msgspec.Struct, frozen=True, kw_only=True):
    """Who uses a version, in words: channels, pins, machines that have it as their root."""

    version: str
    users: list[str]


class Leases(msgspec.Struct, frozen=True, kw_only=True):
    """What counts of netboot's leases here: `age`, seconds since signs of life were last written down."""

    age: float


class Netboot(Client):
    """netboot, blocking. Errors are those of `services.common.client`."""

    def holdings(self) -> list[Holding]:
        """Which number holds what."""
        return self.send(Call("GET", "/v1/holdings", Holdings)).holdings

    def hold(self, number: int, version: str) -> None:
        """We hold a version, whole and verified."""
        self.send(Call("PUT", path_of("v1", "holdings", str(number), version), Holding))

    def release(self, number: int, version: str) -> None:
        """We do not, any more. That netboot knows of no such holding is as good."""
        try:
            self.send(Call("DELETE", path_of("v1", "holdings", str(number), version), Nothing))
        except RemoteError as error:
            if error.problem.status != 404:
                raise

    def pointers(self) -> dict[str, list[str]]:
        """What names a version, by version: channels and pins of rooms and types."""
        found: dict[str, list[str]] = {}
        for channel in self.send(Call("GET", "/v1/channels", Channels)).channels:
            for version, what in ((channel.current, "channel"), (channel.previous, "previous of channel")):
                if version is not None:
                    found.setdefault(version, []).append(f"{what} {channel.name}")
        for pin in self.send(Call("GET", "/v1/pins", Pins)).pins:
            found.setdefault(pin.version, []).append(f"pin of {pin.kind} {pin.value}")
        return found

    def age(self) -> float:
        """How old netboot's leases are, in seconds."""
        return self.send(Call("GET", "/v1/leases", Leases)).age

    def users(self, version: str) -> list[str]:
        """Who uses a version; nobody uses one that netboot does not know."""
        try:
            return self.send(Call("GET", path_of("v1", "versions", version, "users"), Users)).users
        except RemoteError as error:
            if error.problem.code == "version.unknown":
                return []
            raise


class Depot(Client):
    """The depot: its static files (`files`), and what it is told. Blocking."""

    def __init__(self, address: str, *, tls: TlsSettings | None = None) -> None:
        super().__init__(address, tls=tls)
        self.files = DepotFiles(address, tls=tls)

    def close(self) -> None:
        super().close()
        self.files.close()

    def settled(self, ref: Ref) -> None:
        """Wait until the depot has made its deltas of a version, a few minutes at most; one that is away is not
        waited for."""
        call = Call("GET", path_of("v1", "versions", ref.role, ref.version), DepotVersion, query={"wait": _WAIT})
        for _ in range(_WAITS):
            try:
                if self.send(call).pending == 0:
                    return
            except BacklineError:
                return

    def progress(self, id: int, host: str, new: NewProgress) -> None:
        """Say how far we are."""
        self.send(Call("PUT", path_of("v1", "publications", str(id), "progress", host), Nothing, body=new))

    def told(self, id: int, host: str) -> str | None:
        """What the depot has heard last of a receiver."""
        found = self.send(Call("GET", path_of("v1", "publications", str(id)), Told))
        return next((each.state for each in found.progress if each.host == host), None)
