"""mdb's settings from a hall: pools by range, addresses that nobody else gets, and the servers as its first machines.

A server is one machine for each interface that has an address: the first bears its name and aliases, the others
NAME-1, NAME-2 and so on with the aliases of their interface. Pure.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from ipaddress import IPv4Address

from services.hall.schema import OF_GW, Hall, Nic, Purpose

_POOLS = {
    "user": Purpose.USERS,
    "orga": Purpose.ORGA,
    "cluster": Purpose.CLUSTER,
    "service": Purpose.SERVICES,
}


def settings(hall: Hall) -> str:
    """The text of mdb.toml."""
    reserved = [f"{address}={owner}" for address, owner in sorted(_reserved(hall).items())]
    lines = [f"domain = {_text(hall.site.domain)}", f"reserved = {_text(reserved)}"]
    for pool, purpose in _POOLS.items():
        if (found := hall.network_for(purpose)) is not None:
            network = found[1]
            lines += ["", f"[pools.{pool}]", f"range = {_text(network.ranges[purpose])}"]
            lines.append(f"network = {_text(str(network.cidr))}")
    for name, aliases, nic in machines(hall):
        lines += ["", "[[seeds]]", f"hostname = {_text(name)}"]
        lines.append(f"ip = {_text(str(next(iter(nic.addresses.values()))))}")
        lines.append(f"aliases = {_text(aliases)}")
        if nic.mac is not None:
            lines.append(f"mac = {_text(nic.mac)}")
    return "\n".join(lines) + "\n"


def machines(hall: Hall) -> Iterator[tuple[str, list[str], Nic]]:
    """Host name, aliases and interface of each machine that the hall declares.

    gw has the names of `OF_GW` as well, which its aliases need not say.
    """
    for name, host in hall.hosts.items():
        said = {*host.aliases, *(alias for nic in host.nics for alias in nic.aliases), name}
        more = [alias for alias in OF_GW if alias not in said] if host is hall.gateway else []
        for number, nic in enumerate(nic for nic in host.nics if nic.addresses):
            first = number == 0
            yield name if first else f"{name}-{number}", [*(host.aliases + more if first else []), *nic.aliases], nic


def _reserved(hall: Hall) -> dict[IPv4Address, str]:
    """Every address that hall.toml gives away, with the host that has it."""
    owners = {address: name for name, _, nic in machines(hall) for address in nic.addresses.values()}
    for name, network in hall.networks.items():
        if network.gateway is not None:
            owners.setdefault(network.gateway, f"the router of network {name}")
    return owners


def _text(value: object) -> str:
    """A TOML string or array; JSON's are the same but for one letter."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
