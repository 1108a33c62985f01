"""From a hall and a machine's identity to the files that configure that machine. Pure: no files, no clock, no network.

Every target is in /run, or in /etc where the image holds a symbolic link into the current generation, so images stay
read-only and nothing survives the machine. Nothing here serves DHCP or DNS, or forwards packets: a hall.toml makes a
machine reachable, the services on gw bring their own configuration.

Formats: systemd.network(5), resolved.conf(5), sshd_config(5), chrony.conf(5), hosts(5), ssh-keygen(1) ALLOWED SIGNERS,
locale.conf(5), keyboard(5).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address

from services.common import administrators
from services.common.codec import encode_json
from services.common.errors import InputError
from services.common.signing import format_signers
from services.common.ssh_keys import check_ssh_key
from services.hall import (
    edge,
    for_depot,
    for_dhcp,
    for_dns,
    for_firewall,
    for_identity,
    for_mdb,
    for_netboot,
    for_overview,
    for_rollout,
    for_roots,
    for_sso,
    for_state,
    for_udb,
    for_usermap,
    keys,
)
from services.hall.schema import Administrator, AdministratorRole, Hall, Host, Method, Nic, Purpose

NETWORKD = "/run/systemd/network"
RESOLVED = "/run/systemd/resolved.conf.d/50-backline-hall.conf"
SSHD = "/run/backline/sshd.d/50-hall.conf"
AUTHORIZED_KEYS = "/run/backline/authorized_keys"
ADMINISTRATORS = str(administrators.FILE)
CHRONY = "/run/backline/chrony.d/50-hall.conf"
ALLOWED_SIGNERS = "/run/backline/allowed_signers"
CA = "/run/backline/ca.pem"
DEPOT = "/run/backline/depot.toml"
DHCP = "/run/backline/dhcp.toml"
DNS = "/run/backline/dns.toml"
FIREWALL = "/run/backline/firewall.toml"
MDB = "/run/backline/mdb.toml"
HOSTS = "/etc/hosts"
LOCALTIME = "/etc/localtime"
LOCALE = "/etc/locale.conf"
KEYBOARD = "/etc/default/keyboard"
GREETER = "/run/backline/greeter.conf"
NETBOOT = "/run/backline/netboot.toml"
IDENTITY = "/run/backline/identity.toml"
SEAT = "/run/backline/seat.toml"
ROOT_KEYS = "/var/lib/backline-identity/current/root_keys"
HAND_MADE = ".ssh/authorized_keys"
"""In root's home: what somebody has put there by hand on one host, which nobody else writes."""
ROLLOUT = "/run/backline/rollout.toml"
OVERVIEW = "/run/backline/overview.toml"
SSO = "/run/backline/sso.toml"
ROOTS = "/run/backline/roots.toml"
USERMAP = "/run/backline/usermap.toml"
STATE = "/run/backline/state.toml"
UDB = "/run/backline/udb.toml"
IMAGE_LINKS = (HOSTS, LOCALTIME, LOCALE, KEYBOARD)
"""Targets that an image must link into the current generation."""

_HEADER = "# From hall.toml, by backline-hall.service: changes here are lost.\n"
_ANY_PORT = "host0 en* eth*"
_TABLES = 100  # the routing table of a host's first card, where several are in one network; the next has the next
_NO_KINDS = "!bridge vlan bond vxlan"  # a VLAN or bridge has the MAC of the port below it


@dataclass(frozen=True)
class Identity:
    """Which machine this is: the role of its image, its host name, and whether it has a certificate for serving."""

    role: str
    hostname: str
    tls: bool = False

    @property
    def seat(self) -> bool:
        """Whether it is a diskless seat, whose address comes from DHCP."""
        return self.role.startswith("nfsroot")


@dataclass(frozen=True)
class File:
    """A file to be: its text and mode, or, with `link`, a symbolic link to the path in `content`."""

    content: str
    mode: int = 0o644
    link: bool = False


def identify(hall: Hall, role: str | None, hostname: str) -> Identity:
    """Which machine of the hall runs an image of `role` (None: not said) under `hostname`.

    A server image that is the only one of its role is that server, whatever it is called. Raises
    InputError("hall.identity") when the host name belongs to a server of another role.
    """
    short = hostname.partition(".")[0].lower()
    host = hall.hosts.get(short)
    servers = {known.role for known in hall.hosts.values()}
    if host is not None and role is not None and host.role != role and (role in servers or role.startswith("nfsroot")):
        raise InputError(
            "hall.identity",
            f"this machine is called {short}, which is the {host.role} server of hall.toml, but its image is {role}",
            hint=f"boot an image of {host.role}, or change the machine's name",
        )
    if host is not None:
        return Identity(host.role, short)
    alike = hall.with_role(role) if role else {}
    if len(alike) == 1:
        return Identity(role or "", next(iter(alike)))
    return Identity(role or "server", short)


def render(hall: Hall, identity: Identity) -> dict[str, File]:
    """Every file that configures this machine, by absolute target path."""
    host = hall.hosts.get(identity.hostname)
    site = hall.site
    files = {
        RESOLVED: File(_resolved(hall, identity, host)),
        SSHD: File(_sshd()),
        AUTHORIZED_KEYS: File(_authorized_keys(hall)),
        CHRONY: File(_chrony(hall, identity, host)),
        ALLOWED_SIGNERS: File(_HEADER + format_signers([signer.signer() for signer in hall.trust.signers])),
        CA: File(keys.check_ca(hall.trust.ca)),
        HOSTS: File(_hosts(hall)),
        LOCALTIME: File(f"/usr/share/zoneinfo/{site.time_zone}", link=True),
        LOCALE: File(f"{_HEADER}LANG={site.locale}\n"),
        KEYBOARD: File(_keyboard(hall)),
    }
    files[IDENTITY] = File(_HEADER + for_identity.settings(hall, gateway=identity.role == "gw", seat=identity.seat))
    if identity.seat:
        files[SEAT] = File(_HEADER + for_identity.seat(hall))
        files[GREETER] = File(_greeter(hall))
    if not identity.seat:  # nobody logs in to the services of a seat
        files[ADMINISTRATORS] = File(_people(hall))
    for name, text in _networkd(hall, identity, host).items():
        files[f"{NETWORKD}/{name}"] = File(text)
    if identity.role == "gw":
        files[DEPOT] = File(_HEADER + for_depot.settings(hall))
        files[DHCP] = File(_HEADER + for_dhcp.settings(hall))
        files[DNS] = File(_HEADER + for_dns.settings(hall))
        files[FIREWALL] = File(_HEADER + for_firewall.settings(hall))
        files[MDB] = File(_HEADER + for_mdb.settings(hall))
        files[edge.CONFIGURATION] = File(edge.servers(hall, tls=identity.tls))
        files[NETBOOT] = File(_HEADER + for_netboot.settings(hall))
        files[OVERVIEW] = File(_HEADER + for_overview.settings(hall))
        files[ROLLOUT] = File(_HEADER + for_rollout.settings(hall))
        files[UDB] = File(_HEADER + for_udb.settings(hall))
        files[SSO] = File(_HEADER + for_sso.settings(hall))
        files[USERMAP] = File(_HEADER + for_usermap.settings(hall))
    if identity.role == "rhfs":
        files[ROOTS] = File(_HEADER + for_roots.settings(hall, identity.hostname))
    if identity.role in ("gw", "rhfs"):
        files[STATE] = File(_HEADER + for_state.settings(hall, identity.hostname, identity.role))
    return dict(sorted(files.items()))


def _keyboard(hall: Hall) -> str:
    layout, variant = hall.site.layouts[0]
    return f'{_HEADER}XKBMODEL="pc105"\nXKBLAYOUT="{layout}"\nXKBVARIANT="{variant}"\nBACKSPACE="guess"\n'


def _greeter(hall: Hall) -> str:
    """For lightdm-gtk-greeter, in a key file of GLib. To name none is to offer all that there are.

    A variant follows its layout after a tab, as liblightdm calls them. It is no list for the X server: the greeter sets
    the one layout that is chosen, and the first at its start.
    """
    layouts = hall.site.layouts
    names = [rf"{layout}\t{variant}" if variant else layout for layout, variant in layouts]
    return f"{_HEADER}[greeter]\n" + (f"keyboard-layouts={';'.join(names)}\n" if len(names) > 1 else "")


def own_networks(host: Host | None) -> set[str]:
    """The networks that a server has an address in."""
    return {network for nic in host.nics for network in nic.addresses} if host else set()


def _reachable_gateway(hall: Hall, host: Host | None) -> IPv4Address:
    """gw's address as this machine reaches it without crossing gw."""
    users = hall.network_for(Purpose.USERS)
    return hall.gateway_address(own_networks(host) or ({users[0]} if users else set()))


# systemd-networkd


Section = tuple[str, list[tuple[str, str]]]


def _ini(*sections: Section) -> str:
    parts = [_HEADER]
    for name, pairs in sections:
        if pairs:
            parts.append(f"\n[{name}]\n" + "".join(f"{key}={value}\n" for key, value in pairs))
    return "".join(parts)


def _networkd(hall: Hall, identity: Identity, host: Host | None) -> Mapping[str, str]:
    if host is None:
        return {"10-backline-hall-dhcp.network": _dhcp_network(keep=identity.seat)}
    routed = False
    files = {}
    cards = Counter(name for nic in host.nics for name in nic.addresses)
    for index, nic in enumerate(host.nics):
        networks = [hall.networks[name] for name in nic.addresses]
        gateway = next((net.gateway for net in networks if net.gateway not in (None, *nic.addresses.values())), None)
        if identity.role == "gw" or routed:  # gw's way out is upstream; one default route is enough
            gateway = None
        routed = routed or gateway is not None
        files[f"10-backline-hall-{index}.network"] = _static_network(
            hall, host, nic, index, gateway, _ways_back(hall, nic, index, [n for n in nic.addresses if cards[n] > 1])
        )
    return files


def _ways_back(hall: Hall, nic: Nic, index: int, shared: Sequence[str]) -> Iterator[Section]:
    """Answers leave by the card that was asked, where several cards are in one network: each has its own routing table.

    So both cards carry their share, a seat's traffic stays on its switch, and a pulled cable costs one address only.
    """
    table = str(_TABLES + index)
    for name in shared:
        network, address = hall.networks[name], nic.addresses[name]
        yield "RoutingPolicyRule", [("From", str(address)), ("Table", table)]
        near = [("Destination", str(network.cidr)), ("Scope", "link")]
        yield "Route", [*near, ("PreferredSource", str(address)), ("Table", table)]
        if network.gateway not in (None, address):
            yield "Route", [("Gateway", str(network.gateway)), ("PreferredSource", str(address)), ("Table", table)]


def _match(nic: Nic, index: int, *, alone: bool) -> Section:
    if nic.mac is not None:
        return "Match", [("MACAddress", nic.mac), ("Type", "ether"), ("Kind", _NO_KINDS)]
    if nic.interface is not None:
        return "Match", [("Name", nic.interface)]
    return "Match", [("Name", _ANY_PORT if alone else f"host{index} eth{index}"), ("Type", "ether")]


def _static_network(
    hall: Hall, host: Host, nic: Nic, index: int, gateway: IPv4Address | None, ways_back: Iterable[Section]
) -> str:
    network = [("LinkLocalAddressing", "no"), ("IPv6AcceptRA", "no"), ("LLDP", "yes")]
    dhcp: list[tuple[str, str]] = []
    link: list[tuple[str, str]] = []
    for name, address in nic.addresses.items():
        network.append(("Address", f"{address}/{hall.networks[name].cidr.prefixlen}"))
    if gateway is not None:
        network.append(("Gateway", str(gateway)))
    if len(host.nics) > 1:
        # What others send to the second address may come from where only the first has a route.
        network.append(("IPv4ReversePathFilter", "loose"))
    if nic.upstream and hall.upstream is not None:
        upstream = hall.upstream
        if upstream.method is Method.DHCP:
            network.append(("DHCP", "ipv4"))
            trusted = "no" if upstream.dns else "yes"
            dhcp = [("UseDNS", trusted), ("UseDomains", "no"), ("UseNTP", "no"), ("UseHostname", "no")]
        else:
            network += [("DHCP", "no"), ("Address", str(upstream.address)), ("Gateway", str(upstream.gateway))]
    else:
        network.append(("DHCP", "no"))
    if nic.upstream and not nic.addresses:
        link = [("RequiredForOnline", "no")]  # the hall works without the world
    else:
        network.append(("ConfigureWithoutCarrier", "yes"))  # daemons bind their address while the switch is off
    match = _match(nic, index, alone=len(host.nics) == 1)
    return _ini(match, ("Link", link), ("Network", network), ("DHCPv4", dhcp), *ways_back)


def _dhcp_network(*, keep: bool) -> str:
    network = [("DHCP", "ipv4"), ("LinkLocalAddressing", "no"), ("IPv6AcceptRA", "no"), ("LLDP", "yes")]
    if keep:
        # The root of a seat is on this interface, raised by the initrd: it must never lose its address.
        network.append(("KeepConfiguration", "yes"))
    return _ini(
        ("Match", [("Name", _ANY_PORT), ("Type", "ether"), ("Kind", _NO_KINDS)]),
        ("Network", network),
        # ClientIdentifier: the same lease as iPXE and the initrd got; names and time are hall.toml's, not any server's.
        ("DHCPv4", [("ClientIdentifier", "mac"), ("UseDNS", "no"), ("UseDomains", "no"), ("UseNTP", "no")]),
    )


# names and time


def _resolved(hall: Hall, identity: Identity, host: Host | None) -> str:
    servers = [str(_reachable_gateway(hall, host))]
    if identity.role == "gw" and hall.upstream is not None:
        servers += [str(server) for server in hall.upstream.dns]  # while gw's own BIND is down
    return _ini(
        (
            "Resolve",
            [
                ("DNS", " ".join(servers)),
                ("FallbackDNS", ""),
                ("Domains", " ".join(hall.site.search_domains)),
                ("DNSSEC", "no"),  # the hall's domain is not in the signed root zone
                ("LLMNR", "no"),
                ("MulticastDNS", "no"),
                ("Cache", "no-negative"),  # a machine that was just registered must be found at once
            ],
        )
    )


def _hosts(hall: Hall) -> str:
    """The hall's servers, so that they find each other before and without DNS."""
    lines = ["127.0.0.1 localhost", "::1 localhost ip6-localhost ip6-loopback"]
    for name, host in hall.hosts.items():
        first = True
        for nic in host.nics:
            if not nic.addresses:
                continue
            names = [name, *host.aliases, *nic.aliases] if first else nic.aliases
            if names:
                full = [word for label in names for word in (f"{label}.{hall.site.domain}", label)]
                lines.append(f"{next(iter(nic.addresses.values()))} {' '.join(full)}")
            first = False
    return _HEADER + "\n".join(lines) + "\n"


def _chrony(hall: Hall, identity: Identity, host: Host | None) -> str:
    lines = []
    if identity.role == "gw":
        lines += [f"server {server} iburst" for server in (hall.upstream.ntp if hall.upstream else [])]
        lines += [f"allow {network.cidr}" for network in hall.networks.values()]
        lines.append("local stratum 10")  # the hall keeps one time even when the world is away
    else:
        lines.append(f"server {_reachable_gateway(hall, host)} iburst")
    lines.append("makestep 1.0 3")
    return _HEADER + "\n".join(lines) + "\n"


# who may log in


def _sshd() -> str:
    return (
        f"{_HEADER}PermitRootLogin prohibit-password\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n"
        f"Match User root\n    AuthorizedKeysFile {AUTHORIZED_KEYS} {ROOT_KEYS} {HAND_MADE}\n"
    )


def _administrators(hall: Hall) -> Iterator[str]:
    """The keys that open root, and whose they are."""
    for person in hall.administrators:
        if person.role is AdministratorRole.ROOT:
            yield from _keys(person)


def _keys(person: Administrator) -> Iterator[str]:
    for line in person.keys:
        kind, blob = check_ssh_key(line).split()[:2]
        yield f"{kind} {blob} {person.name}"


def _authorized_keys(hall: Hall) -> str:
    return _HEADER + "".join(f"{line}\n" for line in _administrators(hall))


def _people(hall: Hall) -> str:
    """Whom our services let log in, as `services.common.administrators` reads it."""
    people = [
        administrators.Administrator(person.name, person.role.value, list(_keys(person)))
        for person in hall.administrators
    ]
    return encode_json(administrators.Administrators(people)).decode() + "\n"
