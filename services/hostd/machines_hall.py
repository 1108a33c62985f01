"""The network cards of a machine, as hall.toml has the interfaces of the server that it is. Pure."""

from __future__ import annotations

from services.common.errors import InputError
from services.hall.schema import Host, Nic
from services.hostd.machines_schema import Card


def cards(host: Host) -> list[Card]:
    """One card for each interface, in order. Raises InputError("machine.card") for one that hangs on nothing."""
    return [_card(index, nic) for index, nic in enumerate(host.nics)]


def _card(index: int, nic: Nic) -> Card:
    mac = nic.mac.lower() if nic.mac else None
    if nic.bridge:
        return Card(kind="bridge", on=nic.bridge, mac=mac)
    if nic.macvlan:
        return Card(kind="macvlan", on=nic.macvlan, mac=mac)
    raise InputError(
        "machine.card",
        f"hall.toml says of interface {index} neither `bridge` nor `macvlan`",
        hint="say there what it hangs on, or name the cards: --card bridge:br0",
    )
