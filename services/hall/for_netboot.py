"""netboot's settings on gw, from hall.toml: the hall's name, and gw's address as each network reaches it. Pure."""

from __future__ import annotations

import json

from services.hall.schema import Hall, Purpose


def settings(hall: Hall) -> str:
    """TOML for `backline netboot serve --config`. Machines of a network that gw is not in get gw's first address."""
    users = hall.network_for(Purpose.USERS)
    first = hall.gateway_address({users[0]} if users else set())
    gateways = [
        (network.cidr, hall.gateway_address({name}))
        for name, network in sorted(hall.networks.items())
        if any(name in nic.addresses for nic in hall.gateway.nics)
    ]
    gateways.sort(key=lambda each: each[1] != first)
    aliens = hall.range_for(Purpose.ALIENS)
    values: dict[str, object] = {
        "hall": hall.site.name,
        "domain": hall.site.domain,
        "gateways": [f"{cidr}={address}" for cidr, address in gateways],
        "aliens": str(aliens) if aliens else "",
    }
    return "".join(f"{key} = {json.dumps(value)}\n" for key, value in values.items())
