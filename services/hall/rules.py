"""What must hold in a hall.toml beyond types: names, addresses, ranges, keys, and how they fit together.

Pure, but for a look at which time zones there are. `mistakes` finds all of them, not just the first; each has the key
path of the place to correct.
"""

from __future__ import annotations

import re
import zoneinfo
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path

from services.common.addresses import Range, misfit, overlapping, unusable
from services.common.errors import InputError
from services.common.names import domain_problem, label_problem
from services.common.signing import valid_name
from services.common.ssh_keys import check_ssh_key
from services.common.toml import KeyPath
from services.common.users import login_problem
from services.hall import keys
from services.hall.schema import OF_GW, Hall, Host, Method, Network, Nic, Purpose

_MAC = re.compile(r"[0-9a-f]{2}(?::[0-9a-f]{2}){5}")
_INTERFACE = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,14}")  # IFNAMSIZ is 16 with its NUL
_NETWORK = re.compile(r"[a-z][a-z0-9-]{0,30}")
_LOCALE = re.compile(r"(?:C|[a-z]{2,3}_[A-Z]{2})\.UTF-8(?:@[a-z]+)?")
_LAYOUT = r"[a-z]{2,12}(?:\([a-z0-9_-]{1,32}\))?"
_KEYBOARD = re.compile(rf"{_LAYOUT}(?:,{_LAYOUT}){{0,15}}")
_TIME_ZONE = re.compile(r"[A-Za-z0-9_+-]+(?:/[A-Za-z0-9_+-]+){0,2}")
_SEATS = "nfsroot"
_DOMAIN = 253 - 64  # RFC 1035, section 2.3.4, and the longest label with its dot


@dataclass(frozen=True)
class Mistake:
    """One thing to correct, and where."""

    keypath: KeyPath
    message: str
    hint: str | None = None


def time_zone_exists(name: str) -> bool:
    """Whether `name` is a time zone; where there is no tzdata, whether it could be one."""
    if not _TIME_ZONE.fullmatch(name):
        return False
    folders = [Path(folder) for folder in zoneinfo.TZPATH if Path(folder, "UTC").exists()]
    return not folders or any((folder / name).is_file() for folder in folders)


def mistakes(hall: Hall) -> list[Mistake]:
    """Everything that is wrong in a hall whose types are right."""
    return [
        *_site(hall),
        *_networks(hall),
        *_hosts(hall),
        *_names(hall),
        *_gateway(hall),
        *_upstream(hall),
        *_trust(hall),
        *_sso(hall),
    ]


def _site(hall: Hall) -> Iterator[Mistake]:
    site = hall.site
    if problem := label_problem(site.name):
        yield Mistake(("hall", "name"), problem)
    if problem := domain_problem(site.domain):
        yield Mistake(("hall", "domain"), problem)
    elif len(site.domain) > _DOMAIN:
        message = f"{site.domain!r} has {len(site.domain)} letters: a host name of 63 does not fit before it"
        yield Mistake(("hall", "domain"), message, f"{_DOMAIN} at most")
    for index, search in enumerate(site.search):
        if problem := domain_problem(search):
            yield Mistake(("hall", "search", index), problem)
    if not time_zone_exists(site.time_zone):
        yield Mistake(("hall", "time_zone"), f"{site.time_zone!r} is no time zone", "such as Europe/Paris")
    if not _LOCALE.fullmatch(site.locale):
        yield Mistake(("hall", "locale"), f"{site.locale!r} is no UTF-8 locale", "such as fr_FR.UTF-8 or C.UTF-8")
    if not _KEYBOARD.fullmatch(site.keyboard):
        yield Mistake(
            ("hall", "keyboard"), f"{site.keyboard!r} is no XKB layout", "such as fr, or us,fr,fr(bepo) to choose from"
        )


def _networks(hall: Hall) -> Iterator[Mistake]:
    homes: dict[Purpose, str] = {}
    spans: dict[tuple[str, Purpose], Range] = {}
    for name, network in hall.networks.items():
        at: KeyPath = ("networks", name)
        if not _NETWORK.fullmatch(name):
            yield Mistake(at, f"{name!r} cannot name a network", "small letters, digits and hyphens")
        if network.gateway is not None and (problem := unusable(network.gateway, network.cidr)):
            yield Mistake((*at, "gateway"), problem)
        for purpose, text in network.ranges.items():
            place: KeyPath = (*at, "ranges", purpose.value)
            try:
                span = Range.parse(text)
            except ValueError as error:
                yield Mistake(place, str(error))
                continue
            if purpose in homes:
                yield Mistake(place, f"network {homes[purpose]} already has the range of {purpose.value}")
            homes.setdefault(purpose, name)
            spans[name, purpose] = span
            if problem := misfit(span, network.cidr):
                yield Mistake(place, problem)
            if network.gateway is not None and network.gateway in span:
                yield Mistake(
                    place, f"{span} holds the gateway {network.gateway}", "end the range before it, or begin after it"
                )
        if Purpose.ALIENS in network.ranges and len(network.ranges) > 1:
            yield Mistake(
                (*at, "ranges", "aliens"), "aliens share a network with machines of the hall", "give them their own"
            )
    for (name, one), (other_name, other) in overlapping(spans):
        message = f"{other.value} {spans[other_name, other]} overlaps {one.value} {spans[name, one]}"
        yield Mistake(("networks", other_name, "ranges", other.value), message, "no address may be given away twice")
    nets = {
        name: Range(network.cidr.network_address, network.cidr.broadcast_address)
        for name, network in hall.networks.items()
    }
    for one_net, other_net in overlapping(nets):
        message = f"{hall.networks[other_net].cidr} overlaps network {one_net} {hall.networks[one_net].cidr}"
        yield Mistake(("networks", other_net, "cidr"), message)
    for purpose in (Purpose.USERS, Purpose.SERVICES):
        if not any(purpose in network.ranges for network in hall.networks.values()):
            yield Mistake(("networks",), f"no network has a range for {purpose.value}")


def _hosts(hall: Hall) -> Iterator[Mistake]:
    owners: dict[IPv4Address, str] = {}
    macs: dict[str, str] = {}
    for name, host in hall.hosts.items():
        at: KeyPath = ("hosts", name)
        if problem := label_problem(host.role):
            yield Mistake((*at, "role"), problem)
        elif host.role.startswith(_SEATS):
            yield Mistake((*at, "role"), f"{host.role} is what seats run; seats belong in mdb, not here")
        if not any(nic.addresses for nic in host.nics):
            yield Mistake(
                (*at, "nics"), "this server has no address", 'nics = [{ addresses = { hall = "192.168.1.1" } }]'
            )
        interfaces: set[str] = set()
        for index, nic in enumerate(host.nics):
            place: KeyPath = (*at, "nics", index)
            yield from _nic(nic, place, hall.networks)
            if nic.interface is not None and nic.interface in interfaces:
                yield Mistake((*place, "interface"), f"{nic.interface} is given twice in this server")
            interfaces.add(nic.interface or "")
            if nic.mac is not None and macs.setdefault(nic.mac.lower(), name) is not name:
                yield Mistake((*place, "mac"), f"{nic.mac} is already the address of {macs[nic.mac.lower()]}")
            elif nic.mac is not None and any(other.mac == nic.mac for other in host.nics[:index]):
                yield Mistake((*place, "mac"), f"{nic.mac} is given twice in this server")
            for network, address in nic.addresses.items():
                if address in owners:
                    yield Mistake(
                        (*place, "addresses", network), f"{address} is already the address of {owners[address]}"
                    )
                owners.setdefault(address, name)


def _nic(nic: Nic, place: KeyPath, networks: dict[str, Network]) -> Iterator[Mistake]:
    if nic.mac is not None and not _MAC.fullmatch(nic.mac):
        yield Mistake((*place, "mac"), f"{nic.mac!r} is no MAC address", "in lower case, such as 52:54:00:12:34:56")
    elif nic.mac is not None and (int(nic.mac[:2], 16) & 1 or nic.mac == "00:00:00:00:00:00"):
        yield Mistake((*place, "mac"), f"{nic.mac} is no address of one machine (IEEE 802: multicast or zero)")
    if nic.interface is not None and not _INTERFACE.fullmatch(nic.interface):
        yield Mistake((*place, "interface"), f"{nic.interface!r} cannot name an interface", "15 letters at most")
    if nic.mac is not None and nic.interface is not None:
        yield Mistake((*place, "interface"), "is given besides the MAC", "an interface is recognised by one of them")
    for key, name in (("bridge", nic.bridge), ("macvlan", nic.macvlan)):
        if name is not None and not _INTERFACE.fullmatch(name):
            yield Mistake((*place, key), f"{name!r} cannot name an interface", "15 letters at most")
    if nic.bridge is not None and nic.macvlan is not None:
        yield Mistake((*place, "macvlan"), "is given besides the bridge", "an interface hangs on one of them")
    for name, address in nic.addresses.items():
        spot: KeyPath = (*place, "addresses", name)
        network = networks.get(name)
        if network is None:
            known = ", ".join(sorted(networks)) or "none"
            yield Mistake(spot, f"there is no network {name!r}", f"networks: {known}")
            continue
        if problem := unusable(address, network.cidr):
            yield Mistake(spot, problem)
        for purpose, text in network.ranges.items():
            try:
                span = Range.parse(text)
            except ValueError:  # reported with the network
                continue
            if address in span and purpose is not Purpose.SERVICES:
                yield Mistake(
                    spot, f"{address} is in the range of {purpose.value} ({span})", "servers live in services"
                )


def _names(hall: Hall) -> Iterator[Mistake]:
    owners = {"localhost": "this machine itself"}
    for name in hall.hosts:
        if problem := label_problem(name):
            yield Mistake(("hosts", name), problem)
        owners.setdefault(name, f"server {name}")
    for name, host in hall.hosts.items():
        for number, _ in enumerate([nic for nic in host.nics if nic.addresses][1:], 1):
            if (own := f"{name}-{number}") in hall.hosts:
                yield Mistake(("hosts", own), f"{own} is what the next interface of server {name} is called")
            owners.setdefault(own, f"server {name}'s next interface")
        if name in OF_GW and host.role != "gw":
            yield Mistake(("hosts", name), f"{name} is a name of gw, in every hall")
    for name, host in hall.hosts.items():
        for keypath, alias in _aliases(name, host):
            if problem := label_problem(alias):
                yield Mistake(keypath, problem)
            elif alias in OF_GW and host.role != "gw":
                yield Mistake(keypath, f"{alias} is a name of gw, in every hall")
            elif alias in owners:
                yield Mistake(keypath, f"{alias} is already a name of {owners[alias]}", "a name leads to one address")
            owners.setdefault(alias, f"server {name}")
    if "localhost" in hall.hosts:
        yield Mistake(("hosts", "localhost"), "localhost is every machine's name for itself")


def _aliases(name: str, host: Host) -> Iterator[tuple[KeyPath, str]]:
    for index, alias in enumerate(host.aliases):
        yield ("hosts", name, "aliases", index), alias
    for number, nic in enumerate(host.nics):
        for index, alias in enumerate(nic.aliases):
            yield ("hosts", name, "nics", number, "aliases", index), alias
        if nic.aliases and not nic.addresses:
            yield ("hosts", name, "nics", number, "aliases"), "an alias of an interface without address"


def _gateway(hall: Hall) -> Iterator[Mistake]:
    gateways = hall.with_role("gw")
    if not gateways:
        yield Mistake(("hosts",), "no server has the role gw", "it answers DHCP, DNS, time and netboot")
    for extra in list(gateways)[1:]:
        yield Mistake(("hosts", extra, "role"), f"a hall has one gw, and {next(iter(gateways))} is it")
    services = hall.network_for(Purpose.SERVICES)
    for name, host in gateways.items():
        if services and not any(services[0] in nic.addresses for nic in host.nics):
            yield Mistake(("hosts", name, "nics"), f"gw has no address in network {services[0]}, where services are")


def _upstream(hall: Hall) -> Iterator[Mistake]:
    ports = [(name, index) for name, host in hall.hosts.items() for index, nic in enumerate(host.nics) if nic.upstream]
    for name, index in ports:
        if hall.hosts[name].role != "gw":
            yield Mistake(("hosts", name, "nics", index, "upstream"), "only gw has the world behind an interface")
    for name, index in ports[1:]:
        yield Mistake(("hosts", name, "nics", index, "upstream"), "a second interface towards the world")
    upstream = hall.upstream
    if upstream is None:
        for name, index in ports[:1]:
            yield Mistake(("hosts", name, "nics", index, "upstream"), "there is no [upstream] table")
        return
    if not ports:
        yield Mistake(("upstream",), "no interface of gw leads there", "set upstream = true on one")
    if upstream.method is Method.STATIC:
        if upstream.address is None or upstream.gateway is None:
            yield Mistake(("upstream", "method"), "static needs `address` and `gateway`")
        elif upstream.gateway == upstream.address.ip:
            yield Mistake(("upstream", "gateway"), f"{upstream.gateway} is gw's own address there")
        elif upstream.gateway not in upstream.address.network:
            yield Mistake(("upstream", "gateway"), f"{upstream.gateway} is not inside {upstream.address.network}")
    else:
        for field in ("address", "gateway"):
            if getattr(upstream, field) is not None:
                yield Mistake(("upstream", field), "is given by DHCP", 'method = "static" takes it from here')
    if upstream.address is not None:
        for name, network in hall.networks.items():
            if network.cidr.overlaps(upstream.address.network):
                yield Mistake(("upstream", "address"), f"{upstream.address} overlaps network {name} {network.cidr}")
    for index, server in enumerate(upstream.ntp):
        if not _is_address(server) and domain_problem(server):
            yield Mistake(("upstream", "ntp", index), f"{server!r} is neither a host name nor an address")


def _is_address(text: str) -> bool:
    try:
        IPv4Address(text)
    except ValueError:
        return False
    return True


def _sso(hall: Hall) -> Iterator[Mistake]:
    for place, login in hall.sso.overrides.items():
        keypath = ("sso", "overrides", place)
        if not _is_address(place) and label_problem(place):
            yield Mistake(keypath, f"{place!r} is neither an address nor a host name", "write it without the domain")
        elif _is_address(place) and not any(IPv4Address(place) in net.cidr for net in hall.networks.values()):
            yield Mistake(keypath, f"{place} is in no network of the hall", "pages are for machines of the hall")
        if problem := login_problem(login):
            yield Mistake(keypath, problem)


def _trust(hall: Hall) -> Iterator[Mistake]:
    try:
        keys.check_ca(hall.trust.ca)
    except ValueError as error:
        yield Mistake(("trust", "ca"), str(error), "`backline init` makes a CA")
    owners: dict[str, str] = {}
    for index, signer in enumerate(hall.trust.signers):
        place: KeyPath = ("trust", "signers", index)
        if not valid_name(signer.name):
            yield Mistake((*place, "name"), f"{signer.name!r} cannot name a signer", "letters, digits and . _ @ -")
        try:
            blob = signer.signer().key.blob
        except InputError as error:
            yield Mistake((*place, "key"), error.message, error.hint)
        else:
            if "\n" in signer.key.strip():
                yield Mistake((*place, "key"), "more than one line")
            if owners.setdefault(blob, signer.name) != signer.name:
                yield Mistake((*place, "key"), f"is also the key of {owners[blob]}", "a signer has a key of their own")
        for field in ("valid_after", "valid_before"):
            moment = getattr(signer, field)
            if moment is not None and moment.tzinfo is None:
                yield Mistake((*place, field), "has no time zone", "write it with Z or an offset")
    seen: set[str] = set()
    for index, person in enumerate(hall.administrators):
        place = ("administrators", index)
        if not valid_name(person.name):
            yield Mistake((*place, "name"), f"{person.name!r} cannot name a person", "letters, digits and . _ @ -")
        if person.name in seen:
            yield Mistake((*place, "name"), f"{person.name} is listed twice")
        seen.add(person.name)
        for number, key in enumerate(person.keys):
            try:
                check_ssh_key(key)
            except ValueError as error:
                yield Mistake((*place, "keys", number), str(error))
