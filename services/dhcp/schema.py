"""What the DHCP service answers, and its settings. Nothing is changed through it: it follows mdb."""

from __future__ import annotations

from enum import Enum
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from services.common.addresses import Range


class NetworkSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One layer 2 network of the hall, as gw serves it. All of it comes from hall.toml."""

    name: str
    cidr: IPv4Network
    server: IPv4Address
    """gw's address there, or one that its machines reach through their router."""
    router: IPv4Address | None = None
    card: Annotated[int, Meta(ge=-1)] = -1
    """Which of gw's cards the network is on, by its place in hall.toml; -1: only relays lead there."""
    aliens: str = ""
    """`first-last` for machines that mdb does not know; such a network has no others."""

    @property
    def alien_range(self) -> Range | None:
        return Range.parse(self.aliens) if self.aliens else None


class HostSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A card of a server that hall.toml gives a MAC address: it has its answer before mdb says anything."""

    name: str
    mac: str
    address: IPv4Address


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Settings of section `dhcp`; on gw, backline-hall.service writes them from hall.toml."""

    domain: Annotated[str, Meta(description="DNS domain of the hall")] = ""
    search: Annotated[list[str], Meta(description="search domains")] = []
    networks: Annotated[list[NetworkSettings], Meta(description="the networks that are served")] = []
    hosts: Annotated[list[HostSettings], Meta(description="servers of hall.toml whose MAC addresses it knows")] = []
    lease_seconds: Annotated[int, Meta(ge=60, le=604_800, description="lease of a machine that mdb knows")] = 14_400
    alien_lease_seconds: Annotated[int, Meta(ge=10, le=86_400, description="lease of one that it does not know")] = 30
    mdb: Annotated[str, Meta(description="where mdb answers")] = "unix:/run/backline/mdb.sock"
    kea: Annotated[Path, Meta(description="Kea's control socket")] = Path("/run/kea/kea4-ctrl-socket")
    lease_file: Annotated[Path, Meta(description="where Kea keeps leases across its restarts")] = Path(
        "/var/lib/kea/kea-leases4.csv"
    )
    state: Annotated[Path, Meta(description="folder of the configurations")] = Path("/var/lib/backline-dhcp")
    settle_seconds: Annotated[
        float, Meta(ge=0, le=10, description="silence of mdb after which a change is applied")
    ] = 0.05
    patience_seconds: Annotated[
        float, Meta(ge=0, le=60, description="how long changes may keep coming before they are applied all the same")
    ] = 0.5
    grace_seconds: Annotated[int, Meta(ge=0, le=300, description="how long a stop waits for running requests")] = 10


class LeftOut(msgspec.Struct, frozen=True):
    """A machine that gets no answer of its own, and why. `id` is mdb's; null for a server of hall.toml."""

    id: int | None
    name: str
    reason: str


class State(Enum):
    """How what Kea does relates to what mdb says."""

    WAITING = "waiting"  # mdb has not been heard yet: Kea answers as it did last
    LIVE = "live"  # Kea answers with what mdb says
    REFUSED = "refused"  # Kea refused it and answers as before
    DOWN = "down"  # Kea cannot be asked


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """What is in force. Times are seconds since the epoch."""

    state: State
    generation: int | None
    reserved: int
    left_out: list[LeftOut]
    problem: str | None
    position: str | None
    applied_at: float | None
    apply_seconds: float | None
    applies: int
    cards: dict[str, str]


class Lease(msgspec.Struct, frozen=True, kw_only=True):
    """A lease of Kea's. `expires` is seconds since the epoch; `known` says whether the address is reserved for it."""

    ip: IPv4Address
    mac: str
    hostname: str
    network: str | None
    expires: float
    known: bool


class Leases(msgspec.Struct, frozen=True):
    """Leases that have not ended, by address."""

    leases: list[Lease]


class Standing(Enum):
    """What DHCP knows of a MAC address."""

    KNOWN = "known"
    UNKNOWN = "unknown"
    LEFT_OUT = "left-out"


class BootFiles(msgspec.Struct, frozen=True, kw_only=True):
    """What each kind of client is sent to load; names without a scheme are TFTP files of `next_server`."""

    bios: str
    uefi: str
    uefi_http: str
    ipxe: str


class Offer(msgspec.Struct, frozen=True, kw_only=True):
    """What a machine with this MAC address would be told.

    `ip` is its own address; null for one of the pool of `pool`. `reason` says why a machine that mdb has is left out.
    """

    mac: str
    standing: Standing
    machine: int | None
    hostname: str | None
    reason: str | None
    network: str | None
    ip: IPv4Address | None
    pool: str | None
    router: IPv4Address | None
    dns: IPv4Address | None
    ntp: IPv4Address | None
    next_server: IPv4Address | None
    domain: str
    search: list[str]
    lease_seconds: int | None
    boot: BootFiles | None
    lease: Lease | None
