"""The settings of gw's DHCP service, from hall.toml alone: which networks it serves, on which card, and to whom. Pure.

The form is `services.dhcp.schema.Settings`; that service knows nothing of hall.toml.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

from services.hall.for_mdb import machines
from services.hall.schema import Hall, Network, Purpose


def settings(hall: Hall) -> str:
    """The text of /run/backline/dhcp.toml."""
    lines = [
        f"domain = {_text(hall.site.domain)}",
        f"search = [{', '.join(_text(domain) for domain in hall.site.search_domains)}]",
    ]
    for name, network in hall.networks.items():
        lines += ["", "[[networks]]", *_network(hall, name, network)]
    for host, mac, address in _known(hall):
        lines += ["", "[[hosts]]", f"name = {_text(host)}", f"mac = {_text(mac)}", f"address = {_text(address)}"]
    return "\n".join(lines) + "\n"


def _network(hall: Hall, name: str, network: Network) -> Iterator[str]:
    """A network is on a card of gw where gw has an address in it; others are reached by relays."""
    card, server = -1, hall.gateway_address({name})
    for index, nic in enumerate(hall.gateway.nics):
        if name in nic.addresses:
            card, server = index, nic.addresses[name]
            break
    router = network.gateway or (server if card >= 0 else None)
    yield f"name = {_text(name)}"
    yield f"cidr = {_text(str(network.cidr))}"
    yield f"server = {_text(str(server))}"
    if router is not None:
        yield f"router = {_text(str(router))}"
    yield f"card = {card}"
    if Purpose.ALIENS in network.ranges:
        yield f"aliens = {_text(str(network.spans()[Purpose.ALIENS]))}"


def _known(hall: Hall) -> Iterator[tuple[str, str, str]]:
    """Name, MAC and address of every card of a server that has both, under the names that mdb gives them."""
    for name, _, nic in machines(hall):
        if nic.mac is not None:
            yield name, nic.mac, str(next(iter(nic.addresses.values())))


def _text(text: str) -> str:
    """A TOML string: JSON's, but for DEL."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
