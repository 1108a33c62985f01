"""From a hall and its machines to Kea's configuration. Pure: no files, no clock, no network.

Networks on one card of gw are one shared network, as clients on one cable are: a machine that mdb knows has its address
reserved in a subnet without a pool, everybody else gets a short lease of the pool of the aliens.

What a client is sent to load depends on what it says of itself, and on the subnet that it gets an address in (classes
that a subnet requires are evaluated after that choice). What it may say:

- option 93, its architecture (RFC 4578 and IANA's registry): 0 BIOS, 7 and 9 UEFI x86-64, 16 the same over HTTP.
- option 60 beginning with HTTPClient: UEFI HTTP boot, which believes only an answer that says so too (UEFI 2.10, 24.7).
- option 77: "iPXE" of every iPXE, or "backline" of one that a script has told so. The UEFI builds of Debian's look for
  autoexec.ipxe beside themselves (over TFTP and HTTP; seen with OVMF), and ours says that.
- option 175, iPXE's own: a list of what it can do (iPXE, include/ipxe/features.h). The BIOS build looks for no script,
  nor does a UEFI one that another iPXE has chained, and all of Debian's builds say version 1.0.0: none of that tells
  them from a card's ROM. But they can do HTTPS, and ROMs of cards and of QEMU cannot.

Reference: Kea's manual, "Client Classification".
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from services.dhcp.machines import Choice, Machine
from services.dhcp.schema import BootFiles, NetworkSettings, Settings

USER_CLASS = "backline"
"""What our script makes an iPXE call itself."""
HTTPS = 20
"""In option 175: HTTPS (DHCP_EB_FEATURE_HTTPS)."""
NO_PXEDHCP = 176
"""In option 175: do not wait for a proxy DHCP server, there is none (iPXE, `no-pxedhcp`)."""
DECLINED_SECONDS = 60
"""How long an address rests that a client found in use: it is one machine's own, which could not start meanwhile."""

CACHED = 0.25
"""The share of a lease in which asking again costs nothing."""

_OURS = f"option[77].hex == '{USER_CLASS}' or (option[77].hex == 'iPXE' and option[175].option[{HTTPS}].exists)"
_HTTP = "substring(option[60].hex, 0, 10) == 'HTTPClient'"
_ARCHITECTURE = "substring(option[93].hex, 0, 2)"

Configuration = dict[str, Any]


def boot_files(network: NetworkSettings) -> BootFiles:
    """What clients in a network load. Addresses are literal: firmware need not know DNS, and follows no redirect."""
    return BootFiles(
        bios="undionly.kpxe",
        uefi="snponly.efi",
        uefi_http=f"http://{network.server}/ipxe/snponly.efi",
        ipxe=f"http://{network.server}/bootstrap",
    )


def subnet_id(network: NetworkSettings) -> int:
    """Kea's number of a network: its address, so that it stays when others come and go (leases name it)."""
    return int(network.cidr.network_address) or 1


def cards(settings: Settings) -> dict[int, NetworkSettings]:
    """For each card of gw the network whose address of gw's it is found by: one of known machines, if there is one."""
    found: dict[int, NetworkSettings] = {}
    for network in sorted(settings.networks, key=lambda network: bool(network.aliens)):
        if network.card >= 0:
            found.setdefault(network.card, network)
    return dict(sorted(found.items()))


def render(settings: Settings, choice: Choice, interfaces: Mapping[int, str]) -> bytes:
    """Kea's configuration as JSON; the same for the same hall, machines and cards. `interfaces` names gw's cards.

    Kea listens on one address of a card: with a bare interface it would listen once for each address that the card has,
    and answer every question that often. Clients without an address are matched by interface, not by that address: Kea
    would take the first one that the card has (2.6.3), whichever that is.
    """
    listen = [f"{interfaces[card]}/{network.server}" for card, network in cards(settings).items() if card in interfaces]
    shared: dict[int, list[Configuration]] = {}
    for network in settings.networks:
        shared.setdefault(network.card, []).append(_subnet(settings, network, choice.reserved.get(network.name, ())))
    dhcp: Configuration = {
        "interfaces-config": {
            "interfaces": listen,
            "dhcp-socket-type": "raw",  # clients without an address are heard, and answered
            "service-sockets-max-retries": 60,
            "service-sockets-retry-wait-time": 1000,
        },
        "control-socket": {"socket-type": "unix", "socket-name": str(settings.kea)},
        "hooks-libraries": [{"library": "libdhcp_lease_cmds.so"}],
        "lease-database": {"type": "memfile", "persist": True, "name": str(settings.lease_file), "lfc-interval": 3600},
        "authoritative": True,
        # One machine is one MAC: firmware, iPXE and Linux name themselves differently in option 61.
        "match-client-id": False,
        "host-reservation-identifiers": ["hw-address"],
        "reservations-in-subnet": True,
        "reservations-out-of-pool": True,
        # One thread answers thousands of clients a second; several would make Kea warn of it at each configuration.
        "multi-threading": {"enable-multi-threading": False},
        "decline-probation-period": DECLINED_SECONDS,
        "dhcp-ddns": {"enable-updates": False},
        "valid-lifetime": settings.lease_seconds,
        # Who asks again within a quarter of its lease gets what is left of it, and nothing is written: the questions of
        # one start are one line in the lease file, and somebody who asks all day fills no disk.
        "cache-threshold": CACHED,
        "option-def": [
            {"name": "ipxe", "code": 175, "space": "dhcp4", "type": "empty", "encapsulate": "ipxe"},
            {"name": "https", "code": HTTPS, "space": "ipxe", "type": "uint8"},
            {"name": "no-pxedhcp", "code": NO_PXEDHCP, "space": "ipxe", "type": "uint8"},
        ],
        "option-data": [
            {"name": "ipxe"},
            {"name": "no-pxedhcp", "space": "ipxe", "data": "1"},
            *_option("domain-name", settings.domain),
            *_option("domain-search", ", ".join(settings.search)),
        ],
        "client-classes": _classes(settings),
        "shared-networks": [
            {"name": f"card-{card}", "interface": interfaces[card], "subnet4": subnets}
            for card, subnets in sorted(shared.items())
            if card in interfaces
        ],
        "subnet4": shared.get(-1, []),
        "loggers": [{"name": "kea-dhcp4", "output-options": [{"output": "stdout"}], "severity": "WARN"}],
    }
    return json.dumps({"Dhcp4": dhcp}, indent=1).encode() + b"\n"


def _option(name: str, data: object) -> list[Configuration]:
    return [{"name": name, "data": str(data)}] if data else []


def _subnet(settings: Settings, network: NetworkSettings, machines: Sequence[Machine]) -> Configuration:
    span = network.alien_range
    seconds = settings.alien_lease_seconds if span else settings.lease_seconds
    subnet: Configuration = {
        "id": subnet_id(network),
        "subnet": str(network.cidr),
        "next-server": str(network.server),
        "valid-lifetime": seconds,
        "require-client-classes": [f"{network.name}-{kind}" for kind in _KINDS],
        "option-data": [
            *_option("routers", network.router),
            *_option("domain-name-servers", network.server),
            *_option("ntp-servers", network.server),
        ],
        "pools": [],
        "reservations": [
            {"hw-address": machine.mac, "ip-address": str(machine.ip), "hostname": machine.hostname}
            for machine in machines
        ],
    }
    if span is not None:
        # A machine that is known and has no address for the moment gets none, rather than one of the aliens'.
        subnet["pools"] = [{"pool": f"{span.first} - {span.last}", "client-class": "UNKNOWN"}]
    return subnet


_KINDS = {
    "ipxe": "member('ipxe')",
    "bios": f"not member('ipxe') and {_ARCHITECTURE} == 0x0000",
    "uefi": f"not member('ipxe') and not ({_HTTP}) and ({_ARCHITECTURE} == 0x0007 or {_ARCHITECTURE} == 0x0009)",
    "uefi-http": f"not member('ipxe') and {_HTTP} and {_ARCHITECTURE} == 0x0010",
}


def _classes(settings: Settings) -> list[Configuration]:
    classes: list[Configuration] = [{"name": "ipxe", "test": _OURS}]
    for network in settings.networks:
        files = boot_files(network)
        named = {"ipxe": files.ipxe, "bios": files.bios, "uefi": files.uefi, "uefi-http": files.uefi_http}
        for kind, test in _KINDS.items():
            each: Configuration = {
                "name": f"{network.name}-{kind}",
                "test": test,
                "only-if-required": True,
                "boot-file-name": named[kind],
            }
            if kind == "uefi-http":
                each["option-data"] = [
                    {"name": "vendor-class-identifier", "data": "HTTPClient", "always-send": True},
                    {"name": "boot-file-name", "data": named[kind], "always-send": True},
                ]
            classes.append(each)
    return classes
