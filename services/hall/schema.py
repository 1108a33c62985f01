"""hall.toml as typed structs: everything about one hall that is not an image and not a secret.

The structs hold what the file says; `services.hall.load` reads it and promises that it is consistent
(`services.hall.rules`), so whoever gets a `Hall` from there need not doubt it.
"""

from __future__ import annotations

from datetime import datetime
from enum import Enum
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from typing import Annotated

import msgspec
from msgspec import Meta

from services.common.addresses import Range
from services.common.signing import PublicKey, Signer
from services.common.users import UserGroup

OF_GW = ("ns", "netboot", "depot", "rollout", "overview", "udb", "presence", "map", "firewall")
"""Names that are gw's in every hall: DNS, what machines boot, where versions come from, how they get to seats, the page
that shows all of it, who the users are, whether somebody may log in, the map of the rooms, and who gets out.
"""


def about(text: str) -> Meta:
    """What a field is, for docs/hall.md."""
    return Meta(description=text)


class Table(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A table of hall.toml: unknown keys are mistakes."""


class Purpose(Enum):
    """What the addresses of a range are given to."""

    USERS = "users"
    ORGA = "orga"
    SERVICES = "services"
    ALIENS = "aliens"
    CLUSTER = "cluster"


class Method(Enum):
    """How the gateway gets its address towards the world."""

    DHCP = "dhcp"
    STATIC = "static"


class Site(Table, frozen=True, kw_only=True):
    """What the hall is called, and where it is."""

    name: Annotated[str, about("Name of the hall; a DNS label. Its keys lie in a folder of this name.")]
    domain: Annotated[str, about("DNS domain of every machine, such as `prolo`.")]
    search: Annotated[list[str], about("Search domains, so that `mdb` alone is found; the domain when empty.")] = []
    time_zone: Annotated[str, about("Time zone of every machine, as in /usr/share/zoneinfo.")] = "UTC"
    locale: Annotated[str, about("Language of every machine; must exist in the images.")] = "C.UTF-8"
    keyboard: Annotated[
        str,
        about(
            "Keyboard layouts (XKB), such as `us` or `us,fr,fr(bepo)`: the first is the usual one, the desktop's"
            " greeter offers all of them, or every layout there is when only one is named."
        ),
    ] = "us"

    @property
    def layouts(self) -> list[tuple[str, str]]:
        """Each keyboard layout and its variant, which may be empty; the first is the usual one."""
        named = [each.rstrip(")").partition("(") for each in self.keyboard.split(",")]
        return [(layout, variant) for layout, _, variant in named]

    @property
    def search_domains(self) -> list[str]:
        """`search`, or the domain."""
        return self.search or [self.domain]


class Network(Table, frozen=True, kw_only=True):
    """One layer 2 network and the ranges in it."""

    cidr: Annotated[IPv4Network, about("The network, such as `192.168.0.0/23`.")]
    gateway: Annotated[IPv4Address | None, about("Default route of its machines; outside of every range.")] = None
    ranges: Annotated[
        dict[Purpose, str],
        about("`first-last` by purpose (users, orga, services, aliens, cluster); a purpose has one range in the hall."),
    ] = {}

    def spans(self) -> dict[Purpose, Range]:
        """The ranges, parsed. Raises ValueError where one cannot be parsed, which `load` has excluded."""
        return {purpose: Range.parse(text) for purpose, text in self.ranges.items()}


class Nic(Table, frozen=True, kw_only=True):
    """One network interface of a server."""

    mac: Annotated[str | None, about("MAC address, to recognise the interface by; by its name when absent.")] = None
    interface: Annotated[
        str | None, about("Interface name, where the MAC is not given; `host0`, `host1`... by position when absent.")
    ] = None
    addresses: Annotated[dict[str, IPv4Address], about("Address by network name.")] = {}
    aliases: Annotated[list[str], about("DNS aliases of this interface's first address.")] = []
    upstream: Annotated[bool, about("Whether the world is behind this interface; gw only, once.")] = False
    bridge: Annotated[
        str | None, about("Where the server is a machine on iron: the iron's bridge that this interface is a port of.")
    ] = None
    macvlan: Annotated[
        str | None, about("Instead of `bridge`: the iron's interface that this one shares, with an address of its own.")
    ] = None


class Host(Table, frozen=True, kw_only=True):
    """One server, with fixed addresses."""

    role: Annotated[str, about("The image it runs: gw, rhfs, web, monitoring, misc or another server image.")]
    nics: Annotated[list[Nic], about("Its interfaces, in order; the first one's first address is the server's.")]
    aliases: Annotated[list[str], about("DNS aliases of the server.")] = []

    @property
    def address(self) -> IPv4Address:
        """The server's own address: the first of its first interface that has one."""
        return next(address for nic in self.nics for address in nic.addresses.values())


class Firewall(Table, frozen=True, kw_only=True):
    """Who gets out of the hall."""

    allowed_groups: Annotated[
        list[UserGroup],
        about(
            "Groups of users whose seats get out: `user`, `orga`, `root`; organizers' machines and servers always do."
        ),
    ] = msgspec.field(default_factory=lambda: list(UserGroup))


class Seats(Table, frozen=True, kw_only=True):
    """What seats keep, and what users may take of them."""

    organizers_hashes: Annotated[
        bool,
        about(
            "Whether a seat keeps a hash of an organizer's password while he is logged in there, as of a contestant's:"
            " it opens his locked screen when gw is away. Never of the group root."
        ),
    ] = False
    bandwidth: Annotated[
        int,
        Meta(ge=1, le=100_000),
        about(
            "Mbit/s that users of a seat may send, all they run together, and as much that they may receive. What the"
            " seat itself sends and receives has no limit and comes first. From the seat's next start on."
        ),
    ] = 100


class Upstream(Table, frozen=True, kw_only=True):
    """The way out of the hall; absent where there is none."""

    method: Annotated[Method, about("`dhcp` or `static`.")] = Method.DHCP
    address: Annotated[IPv4Interface | None, about("With `static`: address and prefix, such as `198.51.100.2/24`.")] = (
        None
    )
    gateway: Annotated[IPv4Address | None, about("With `static`: the next router.")] = None
    dns: Annotated[list[IPv4Address], about("DNS forwarders; those that DHCP names when empty.")] = []
    ntp: Annotated[list[str], about("Time servers that gw follows; without any, gw's own clock is the hall's.")] = []


class AdministratorRole(Enum):
    """What an administrator may do."""

    ROOT = "root"
    ORGANIZER = "organizer"


class Administrator(Table, frozen=True, kw_only=True):
    """Someone who may log in to the services, and, with role root, as root on every machine."""

    name: Annotated[str, about("Who it is, for `backline login` and in logs.")]
    role: Annotated[
        AdministratorRole,
        about(
            "`root` may do everything, also by ssh on every machine; `organizer` only what services let organizers do."
        ),
    ] = AdministratorRole.ROOT
    keys: Annotated[list[str], about("SSH public keys, one line each, as in a .pub file.")]


class TrustedSigner(Table, frozen=True, kw_only=True):
    """Someone whose signature makes an image acceptable."""

    name: Annotated[str, about("Name of the signer.")]
    key: Annotated[str, about("Ed25519 public key (also of a FIDO token), as in a .pub file.")]
    valid_after: Annotated[datetime | None, about("Not trusted before this moment (with time zone).")] = None
    valid_before: Annotated[datetime | None, about("Not trusted from this moment on (with time zone).")] = None

    def signer(self) -> Signer:
        """As `services.common.signing` takes it. Raises InputError("key.broken"), which `load` has excluded."""
        return Signer(self.name, PublicKey.parse(self.key), self.valid_after, self.valid_before)


class Trust(Table, frozen=True, kw_only=True):
    """Whom machines believe."""

    ca: Annotated[str, about("Certificate of the hall's CA, PEM; certificates only.")]
    signers: Annotated[list[TrustedSigner], about("Whose images run here.")] = []


class Sso(Table, frozen=True, kw_only=True):
    """Single sign-on: who is known to pages by the machine in front of them."""

    overrides: Annotated[
        dict[str, str],
        about("Login by address, or by host name of mdb: who is there, on machines that do not say it themselves."),
    ] = {}


class Hall(Table, frozen=True, kw_only=True):
    """All of hall.toml."""

    site: Annotated[Site, about("Name, domain, time and language.")] = msgspec.field(name="hall")
    networks: Annotated[dict[str, Network], about("Networks by name.")]
    hosts: Annotated[dict[str, Host], about("Servers by host name.")]
    trust: Annotated[Trust, about("CA and image signers.")]
    upstream: Annotated[Upstream | None, about("The way out.")] = None
    administrators: Annotated[list[Administrator], about("Who may do everything.")] = []
    sso: Annotated[Sso, about("Who is known to pages by the machine.")] = Sso()
    firewall: Annotated[Firewall, about("Who gets out.")] = Firewall()
    seats: Annotated[Seats, about("What seats keep, and what users may take of them.")] = Seats()

    def network_for(self, purpose: Purpose) -> tuple[str, Network] | None:
        """The network that has a range for `purpose`, with its name."""
        return next(((name, net) for name, net in self.networks.items() if purpose in net.ranges), None)

    def range_for(self, purpose: Purpose) -> Range | None:
        """The range that machines of `purpose` get their addresses from."""
        found = self.network_for(purpose)
        return Range.parse(found[1].ranges[purpose]) if found else None

    def with_role(self, role: str) -> dict[str, Host]:
        """Servers of a role by name."""
        return {name: host for name, host in self.hosts.items() if host.role == role}

    @property
    def gateway(self) -> Host:
        """The one host of role gw."""
        return next(iter(self.with_role("gw").values()))

    def gateway_address(self, networks: set[str]) -> IPv4Address:
        """gw's address as machines in `networks` reach it directly, or its first address."""
        for nic in self.gateway.nics:
            for network, address in nic.addresses.items():
                if network in networks:
                    return address
        return self.gateway.address

    def taken(self) -> set[IPv4Address]:
        """Every address that hall.toml itself gives away."""
        hosts = {address for host in self.hosts.values() for nic in host.nics for address in nic.addresses.values()}
        return hosts | {network.gateway for network in self.networks.values() if network.gateway is not None}
