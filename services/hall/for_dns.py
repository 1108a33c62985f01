"""The DNS service's settings from a hall: the domain, whose address is what, who may ask, and whom named asks. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator

from services.hall.for_mdb import machines
from services.hall.schema import Hall, Host, Method, Purpose


def settings(hall: Hall) -> str:
    """The text of dns.toml."""
    aliens = hall.network_for(Purpose.ALIENS)
    upstream = hall.upstream
    lines = [
        f"domain = {_text(hall.site.domain)}",
        f"networks = {_text([str(network.cidr) for network in hall.networks.values()])}",
        f"addresses = {_text([str(address) for nic in hall.gateway.nics for address in nic.addresses.values()])}",
        f"hosts = {_text(list(_hosts(hall)))}",
        f"pointers = {_text(list(_pointers(hall)))}",
        f"recursion = {_text(upstream is not None)}",
    ]
    if upstream is not None:
        lines.append(f"forwarders = {_text([str(server) for server in upstream.dns])}")
        lines.append(f"dhcp_forwarders = {_text(upstream.method is Method.DHCP and not upstream.dns)}")
    if aliens is not None:
        name, network = aliens
        lines += ["", "[aliens]", f"network = {_text(str(network.cidr))}"]
        lines.append(f"address = {_text(str(hall.gateway_address({name})))}")
        lines.append(f"range = {_text(network.ranges[Purpose.ALIENS])}")
    return "\n".join(lines) + "\n"


def _hosts(hall: Hall) -> Iterator[str]:
    """`address name alias...` of each interface, named as mdb names it."""
    for label, aliases, nic in machines(hall):
        yield " ".join([str(next(iter(nic.addresses.values()))), label, *aliases])


def _pointers(hall: Hall) -> Iterator[str]:
    """`address name` of the further addresses of an interface; in the network of the aliens the name says so."""
    for name, host in hall.hosts.items():
        for network, address in _further(host):
            alien = Purpose.ALIENS in hall.networks[network].ranges
            yield f"{address} {name}.alien" if alien else f"{address} {name}"


def _further(host: Host) -> Iterator[tuple[str, object]]:
    for nic in host.nics:
        yield from list(nic.addresses.items())[1:]


def _text(value: object) -> str:
    """A TOML value; JSON's are the same but for one letter, which no value here has."""
    return json.dumps(value)
