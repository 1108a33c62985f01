"""What the DNS service takes and answers, and its settings, which `backline hall` renders from hall.toml."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

TEXT_MAX = 255


class Aliens(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The network of machines that the hall does not know; no view for them when it is empty."""

    network: Annotated[str, Meta(description="their network, such as 192.168.250.0/24")] = ""
    address: Annotated[str, Meta(description="gw's address in it: the answer for netboot and ns")] = ""
    range: Annotated[str, Meta(description="`first-last`: what they are given by DHCP")] = ""


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Settings of section `dns`."""

    domain: Annotated[str, Meta(description="domain of the hall, such as prolo")] = ""
    networks: Annotated[
        list[str], Meta(description="networks of the hall: who may ask, and which addresses have names")
    ] = msgspec.field(default_factory=list)
    addresses: Annotated[list[str], Meta(description="gw's own addresses in them, where named listens")] = (
        msgspec.field(default_factory=list)
    )
    hosts: Annotated[
        list[str], Meta(description="`address name alias...`: names that hall.toml gives, which no machine of mdb gets")
    ] = msgspec.field(default_factory=list)
    pointers: Annotated[
        list[str], Meta(description="`address name`: further addresses of these hosts, which have a PTR record only")
    ] = msgspec.field(default_factory=list)
    aliens: Aliens = Aliens()
    recursion: Annotated[bool, Meta(description="whether names of the world are looked up for the hall")] = False
    forwarders: Annotated[
        list[str], Meta(description="servers that are asked for names of the world; the root's servers when empty")
    ] = msgspec.field(default_factory=list)
    dhcp_forwarders: Annotated[
        bool, Meta(description="whether servers that DHCP names on gw's way out are forwarders, when there are none")
    ] = False
    resolv_conf: Annotated[str, Meta(description="where systemd-resolved lists the servers that DHCP names")] = (
        "/run/systemd/resolve/resolv.conf"
    )
    folder: Annotated[str, Meta(description="where zones and named.conf are kept")] = "/var/lib/backline-dns"
    mdb: Annotated[str, Meta(description="address of the machine database")] = "unix:/run/backline/mdb.sock"
    server: Annotated[str, Meta(description="where named answers, for questions of our own")] = "127.0.0.1"
    grace_seconds: Annotated[int, Meta(ge=0, le=300, description="how long a stop waits for running requests")] = 10


class LeftOut(msgspec.Struct, frozen=True, kw_only=True):
    """A record that is not in DNS, and why; `machine` is its number in mdb, or hall.toml."""

    machine: str
    name: str
    reason: str


class ZoneStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One zone. `serial` is that of its file, `served` the one that named was last seen with, null when it was not."""

    zone: str
    view: str
    serial: int | None
    served: int | None
    records: int
    refused: str | None


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """What is in force. `applied` is when everything that is known was last in force, in seconds since the epoch.

    `pending`: something that is known is not in force yet, or not for `problem`. `revision` is mdb's, null before its
    first word.
    """

    state: Literal["applied", "pending"]
    problem: str | None
    applied: float | None
    seconds: float | None
    revision: int | None
    machines: int
    reloads: int
    forwarders: list[str]
    zones: list[ZoneStatus]
    left_out: list[LeftOut]
    left_out_total: int


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """A record that should be answered with in a view, and whose it is."""

    view: str
    name: str
    type: str
    value: str
    machine: str


class Lookup(msgspec.Struct, frozen=True, kw_only=True):
    """What DNS has on a name or an address.

    `answers` is what the zones say, `served` what named on this host answers to the hall, null when it does not answer.
    """

    name: str
    answers: list[Answer]
    left_out: list[LeftOut]
    served: list[str] | None
