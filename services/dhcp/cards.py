"""Which network interface is which card of hall.toml: the one that has gw's address there.

Names of interfaces differ between containers (host0) and iron, and from one iron to the next; addresses are
hall.toml's.
"""

from __future__ import annotations

import json
import select
import socket
import time
from collections.abc import Mapping
from ipaddress import IPv4Address

from services.common import process
from services.common.errors import HostError
from services.dhcp.render import cards
from services.dhcp.schema import Settings

_RTMGRP_IPV4_IFADDR = 0x10  # linux/rtnetlink.h
_ASK_SECONDS = 10.0


def find(settings: Settings, *, deadline: float) -> dict[int, str]:
    """The interface of every card, waited for until `deadline` (monotonic). Raises HostError("dhcp.cards")."""
    wanted = {card: network.server for card, network in cards(settings).items()}
    # Listening before looking: an address that comes in between is not missed.
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as changes:
        changes.bind((0, _RTMGRP_IPV4_IFADDR))
        while True:
            found = match(wanted, _addresses())
            missing = [str(address) for card, address in wanted.items() if card not in found]
            left = deadline - time.monotonic()
            if not missing:
                return found
            if left <= 0:
                raise HostError(
                    "dhcp.cards",
                    f"no card of this machine has {' or '.join(missing)}, where DHCP is to be served",
                    hint="is the cable in, and is this the gw of hall.toml? See `networkctl`",
                )
            if select.select([changes], [], [], left)[0]:
                changes.recv(65536)


def match(wanted: Mapping[int, IPv4Address], addresses: Mapping[IPv4Address, str]) -> dict[int, str]:
    """Interfaces by card, of those that are there."""
    return {card: addresses[address] for card, address in wanted.items() if address in addresses}


def _addresses() -> dict[IPv4Address, str]:
    """The interface of every IPv4 address of this machine."""
    argv = ["ip", "-json", "-4", "address", "show"]
    told = json.loads(process.run(argv, deadline=time.monotonic() + _ASK_SECONDS).stdout or "[]")
    return {
        IPv4Address(each["local"]): str(link["ifname"])
        for link in told
        for each in link.get("addr_info", [])
        if "local" in each
    }
