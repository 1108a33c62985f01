"""Our own check of rendered files, for daemons that have none: before a set can come into force. Pure.

systemd-networkd and -resolved ignore what they do not understand and say so only in the journal; here it is an error.
It is meant to catch a bug of the renderer or a value that the rules let through, not to know every option.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from ipaddress import IPv4Address, IPv4Interface, ip_address

from services.common.administrators import Administrators
from services.common.codec import decode_json
from services.common.errors import BacklineError, InputError
from services.common.names import label_problem
from services.common.signing import parse_signers
from services.common.ssh_keys import check_ssh_key
from services.hall import edge, keys, render
from services.hall.render import File

_NETWORK: dict[str, set[str]] = {
    "Match": {"MACAddress", "Name", "Type", "Kind"},
    "Link": {"RequiredForOnline"},
    "Network": {
        "Address",
        "ConfigureWithoutCarrier",
        "DHCP",
        "Gateway",
        "IPv4ReversePathFilter",
        "IPv6AcceptRA",
        "KeepConfiguration",
        "LLDP",
        "LinkLocalAddressing",
    },
    "Route": {"Destination", "Gateway", "PreferredSource", "Scope", "Table"},
    "RoutingPolicyRule": {"From", "Table"},
    "DHCPv4": {"ClientIdentifier", "UseDNS", "UseDomains", "UseHostname", "UseNTP"},
}
_RESOLVED: dict[str, set[str]] = {
    "Resolve": {"Cache", "DNS", "DNSSEC", "Domains", "FallbackDNS", "LLMNR", "MulticastDNS"}
}
_SECTION = re.compile(r"\[([A-Za-z0-9]+)\]")
_PAIR = re.compile(r"([A-Za-z0-9]+)=(.*)")

Ini = dict[str, list[tuple[str, str]]]


def parse_ini(text: str) -> Ini:
    """Sections and assignments of a systemd file, in order. Raises ValueError on any other line."""
    sections: Ini = {}
    current: list[tuple[str, str]] | None = None
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.startswith(("#", ";")):
            continue
        if found := _SECTION.fullmatch(line):
            current = sections.setdefault(found[1], [])
        elif current is not None and (found := _PAIR.fullmatch(line)):
            current.append((found[1], found[2]))
        else:
            raise ValueError(f"line {number} is neither a section nor an assignment: {line!r}")
    return sections


def check(files: Mapping[str, File]) -> None:
    """Raise InputError("hall.refused") when a rendered file is not what its reader understands."""
    for target, file in files.items():
        if file.link:
            continue
        try:
            _check(target, file.content)
        except (ValueError, BacklineError) as error:
            raise InputError(
                "hall.refused", f"the rendered {target} is not valid: {error}", hint="this is a bug of `backline hall`"
            ) from error


def _check(target: str, text: str) -> None:
    if target.startswith(f"{render.NETWORKD}/"):
        _check_network(_known(parse_ini(text), _NETWORK))
    elif target == render.RESOLVED:
        for address in dict(_known(parse_ini(text), _RESOLVED)["Resolve"])["DNS"].split():
            ip_address(address)
    elif target == render.HOSTS:
        _check_hosts(text)
    elif target == render.ALLOWED_SIGNERS:
        parse_signers(text, where=target)
    elif target == render.AUTHORIZED_KEYS:
        for line in _lines(text):
            check_ssh_key(line)
    elif target == edge.CONFIGURATION:  # nginx checks it
        if text.count("{") != text.count("}"):
            raise ValueError("a block does not end")
    elif target == render.ADMINISTRATORS:
        decode_json(text.encode(), Administrators)
    elif target.endswith(".toml"):
        tomllib.loads(text)
    elif target == render.CA:
        keys.check_ca(text)
    elif target in (render.SSHD, render.CHRONY):  # their daemons check them
        for line in _lines(text):
            if not re.fullmatch(r"\s*[A-Za-z]+( [\x21-\x7e]+)*", line):
                raise ValueError(f"not a directive: {line!r}")


def _known(ini: Ini, known: Mapping[str, set[str]]) -> Ini:
    for section, pairs in ini.items():
        for key, _ in pairs:
            if key not in known.get(section, ()):
                raise ValueError(f"[{section}] {key} is not an option that we know")
    return ini


def _check_network(ini: Ini) -> None:
    if not ini.get("Match"):
        raise ValueError("matches every interface")
    for key, value in ini["Network"]:
        if key == "Address":
            IPv4Interface(value)
        elif key == "Gateway":
            IPv4Address(value)
        elif key == "DHCP" and value not in ("no", "ipv4"):
            raise ValueError(f"DHCP={value}")


def _check_hosts(text: str) -> None:
    for line in _lines(text):
        address, *names = line.split()
        ip_address(address)
        for name in names:
            for label in name.split("."):
                if problem := label_problem(label):
                    raise ValueError(problem)


def _lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
