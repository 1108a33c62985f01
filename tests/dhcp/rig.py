"""gw's Kea on a card, real files, and a client on the same wire: what the tests against real Kea share."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Interface
from pathlib import Path

import msgspec

from e2e.containers import Engine
from e2e.servers import KEA_SOCKET, GatewayKea
from services.common import process
from services.dhcp.apply import Applier, Outcome
from services.dhcp.generations import Generation, Generations
from services.dhcp.kea import Checker, Kea
from services.dhcp.machines import Machine
from services.dhcp.prepare import make
from services.dhcp.schema import LeftOut, Settings
from tests.dhcp.client import Wire, wire
from tests.dhcp.halls import CARDS, GW, GW_ALIENS, SETTINGS

ADDRESSES = (IPv4Interface(f"{GW}/23"), IPv4Interface(f"{GW_ALIENS}/24"))


class Accepting:
    """A checker for configurations that are known to be good."""

    def test(self, configuration: bytes) -> str | None:
        del configuration
        return None


@dataclass
class Gateway:
    """A gw that has been switched on: its folder, its Kea (None while it is off), and whoever applies there."""

    podman: Engine
    image: str
    folder: Path
    settings: Settings
    kea: GatewayKea | None = None
    wire: Wire = field(init=False)
    applier: Applier = field(init=False)
    _on: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    @property
    def generations(self) -> Generations:
        return Generations(self.settings.state)

    @property
    def control(self) -> Kea:
        """Kea's control socket, as this process reaches it."""
        assert self.kea is not None, "gw is off"
        return Kea(self.podman.path(self.kea, KEA_SOCKET))

    def prepare(self, checker: Checker | None = None) -> Generation:
        """What `backline dhcp prepare` does when the cards are found."""
        return make(self.settings, dict(CARDS), checker or Accepting())

    def on(self, *, step: Callable[[str], None] | None = None) -> None:
        """Switch it on: prepare, Kea, and an applier that has yet to hear of machines."""
        self.prepare()
        self.kea = self._on.enter_context(
            GatewayKea(self.image, state=self.settings.state, leases=self.folder / "leases", addresses=ADDRESSES)
        )
        address = self.podman.address_of(self.kea).ip
        route = json.loads(process.run(["ip", "-json", "route", "get", str(address)]).stdout)
        self.wire = self._on.enter_context(wire(route[0]["dev"]))
        self.applier = Applier(self.settings, self.control, step=step)

    def off(self) -> None:
        """Kea is gone at once, by SIGKILL; idempotent."""
        if self.kea is not None:
            self.kea.get_wrapped_container().kill()
        self.kea = None
        self._on.close()
        self._on = contextlib.ExitStack()

    def reset(self) -> None:
        """As if nobody had ever been told of a machine."""
        if self.kea is None:
            self.on()
        self.prepare()
        self.applier = Applier(self.settings, self.control)
        self.apply()
        for lease in self.control.leases():
            self.control.end_lease(lease.ip_address)

    def apply(self, *told: Machine | LeftOut) -> Outcome:
        return self.applier.apply(list(told))


@contextlib.contextmanager
def gateway(podman: Engine, folder: Path, *, settings: Settings = SETTINGS, on: bool = True) -> Iterator[Gateway]:
    """One for a block."""
    for name in ("state", "leases"):
        (folder / name).mkdir()
    settings = msgspec.structs.replace(settings, state=folder / "state")
    gw = Gateway(podman, podman.image_of("gw"), folder, settings)
    try:
        if on:
            gw.on()
        yield gw
    finally:
        gw.off()


def reservations(configuration: bytes) -> dict[str, str]:
    """MAC by reserved address, in a configuration of Kea's."""
    dhcp = json.loads(configuration)["Dhcp4"]
    subnets: Sequence[dict[str, object]] = [
        subnet for shared in dhcp["shared-networks"] for subnet in shared["subnet4"]
    ] + dhcp["subnet4"]
    found: dict[str, str] = {}
    for subnet in subnets:
        each = subnet["reservations"]
        assert isinstance(each, list)
        found |= {reservation["ip-address"]: reservation["hw-address"] for reservation in each}
    return found
