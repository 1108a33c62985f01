"""The firewall's settings on gw, from hall.toml: its networks, where servers are, whose users get out. Pure."""

from __future__ import annotations

import json
from collections import Counter

from services.hall.schema import Hall, Purpose


def settings(hall: Hall) -> str:
    """TOML for `backline firewall serve --config`.

    Where gw has two cards in one network, a packet of that network may come in by either of them.
    """
    span = hall.range_for(Purpose.SERVICES)
    servers = {
        address
        for host in hall.hosts.values()
        if host is not hall.gateway
        for nic in host.nics
        for address in nic.addresses.values()
    }
    cards = Counter(network for nic in hall.gateway.nics for network in nic.addresses)
    values: dict[str, object] = {
        "networks": [str(network.cidr) for network in hall.networks.values()],
        "aliens": [str(network.cidr) for network in hall.networks.values() if Purpose.ALIENS in network.ranges],
        "services": [*([str(span)] if span else []), *(str(address) for address in sorted(servers))],
        "allowed_groups": [group.value for group in hall.firewall.allowed_groups],
        "strict_sources": all(count == 1 for count in cards.values()),
    }
    return "".join(f"{key} = {json.dumps(value)}\n" for key, value in values.items())
