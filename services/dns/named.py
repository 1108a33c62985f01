"""From the hall's networks to named.conf. Pure.

Two views (BIND 9 Administrator Reference Manual, "view Block Definition"): machines that the hall does not know, told
by their address, get the few names that they need, and everybody else the hall's zones. Names of the world are looked
up for the hall alone, where it has a way out: an island answers REFUSED at once instead of letting its machines wait.

DNSSEC is not checked: a gateway whose clock is wrong at its start would find no time server by name, ever. The control
channel is named's own usual one, on 127.0.0.1 with the key of /etc/bind/rndc.key (rndc(8)); nothing is transferred and
nothing can be updated. Limits of answers are for one address each: the usual ones are for 256 neighbours together.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from services.dns.zones import ALIEN, HALL, Layout, Zone

ROOT_HINTS = "/usr/share/dns/root.hints"
_OPTIONS = """\
options {{
    directory "/var/cache/bind";
    listen-on {{ 127.0.0.1; {listen}}};
    listen-on-v6 {{ none; }};
    version none;
    hostname none;
    server-id none;
    allow-transfer {{ none; }};
    notify no;
    minimal-responses yes;
    minimal-any yes;
    dnssec-validation no;
    max-cache-size 64M;
    recursive-clients 2000;
    stale-answer-enable yes;
{forwarders}}};
"""
_LIMIT = """\
    rate-limit {{
        ipv4-prefix-length 32;
        responses-per-second {number};
        exempt-clients {{ 127.0.0.0/8; }};
    }};
"""
ANSWERS = {HALL: 200, ALIEN: 50}
"""How often in a second one address gets the same answer; then every second one is cut short, to be asked over TCP."""


def named_conf(
    layout: Layout, zones: Iterable[Zone], folder: Path, *, recursion: bool, forwarders: Sequence[IPv4Address]
) -> str:
    """The text of named.conf, for zone files below `folder`."""
    known = list(zones)
    inside = [network for network in layout.networks if layout.aliens is None or network != layout.aliens.network]
    text = "// From hall.toml, by backline-dns: changes here are lost.\n"
    text += f"acl hall {{ 127.0.0.0/8; {_items(inside)}}};\n"
    listed = f"    forward first;\n    forwarders {{ {_items(forwarders)}}};\n" if forwarders and recursion else ""
    text += _OPTIONS.format(listen=_items(layout.addresses), forwarders=listed)
    if layout.aliens is not None:
        text += f'view "{ALIEN}" {{\n    match-clients {{ {_items([layout.aliens.network])}}};\n    recursion no;\n'
        text += _LIMIT.format(number=ANSWERS[ALIEN]) + _zones(known, ALIEN, folder) + "};\n"
    text += f'view "{HALL}" {{\n    match-clients {{ any; }};\n    allow-query {{ hall; }};\n'
    if recursion:
        text += "    recursion yes;\n    allow-recursion { hall; };\n"
        text += f'    zone "." {{ type hint; file "{ROOT_HINTS}"; }};\n'
    else:
        text += "    recursion no;\n"
    return text + _LIMIT.format(number=ANSWERS[HALL]) + _zones(known, HALL, folder) + "};\n"


def zone_file(folder: Path, view: str, zone: str) -> Path:
    """Where the text of a zone is."""
    return folder / "zones" / view / f"{zone}.zone"


def _items(items: Iterable[IPv4Address | IPv4Network]) -> str:
    return "".join(f"{item}; " for item in items)


def _zones(zones: Iterable[Zone], view: str, folder: Path) -> str:
    return "".join(
        f'    zone "{zone.name}" {{ type primary; file "{zone_file(folder, view, zone.name)}"; }};\n'
        for zone in zones
        if zone.view == view
    )


def forwarders_of(resolv_conf: str, own: Iterable[IPv4Address]) -> tuple[IPv4Address, ...]:
    """The servers of a resolv.conf(5) that are not this host itself; three at most."""
    found: list[IPv4Address] = []
    known = set(own)
    for line in resolv_conf.splitlines():
        words = line.split()
        if len(words) < 2 or words[0] != "nameserver":
            continue
        try:
            address = IPv4Address(words[1])
        except ValueError:  # IPv6, which named does not use here
            continue
        if not address.is_loopback and address not in known and address not in found:
            found.append(address)
    return tuple(found[:3])
