"""What mdb takes and answers.

A machine is known by its `id`, which never changes and is never given to another; name, MAC and address may all change,
and every consumer follows. `revision` is the feed's revision of the last change, and the machine's entity tag.
"""

from __future__ import annotations

from enum import Enum
from ipaddress import IPv4Address
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, UnsetType

from services.common.access_settings import AccessSettings
from services.common.changes import Action as Action
from services.common.changes import Actor as Actor
from services.common.changes import Audit as Audit
from services.common.changes import AuditEntry as AuditEntry
from services.common.formats import Format as Format

HOSTS_MAX = 9999


def about(text: str) -> Meta:
    """What a field is, for OpenAPI and docs/mdb.md."""
    return Meta(description=text)


class MachineType(Enum):
    """What a machine is for; its address comes from the pool of this name."""

    USER = "user"
    ORGA = "orga"
    CLUSTER = "cluster"
    SERVICE = "service"


# For OpenAPI: `services.common.names` is what checks names and MAC addresses, as its words say more than a pattern's.
_LABEL = r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$"
_MAC = "|".join(
    rf"^[0-9A-Fa-f][02468ACEace]{rest}$"
    for rest in (
        r"(:[0-9A-Fa-f]{2}){5}",
        r"(-[0-9A-Fa-f]{2}){5}",
        r"[0-9A-Fa-f]{2}(\.[0-9A-Fa-f]{4}){2}",
        r"[0-9A-Fa-f]{10}",
    )
)
Label = Annotated[str, Meta(min_length=1, max_length=63, extra_json_schema={"pattern": _LABEL})]
Typed = Annotated[  # by hand, in whatever case
    str, Meta(max_length=63, extra_json_schema={"pattern": r"^([A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?)?$"})
]
Name = Annotated[str, Meta(extra_json_schema={"pattern": _LABEL})]
Mac = Annotated[str, Meta(extra_json_schema={"pattern": _MAC})]
Number = Annotated[int, Meta(ge=0, le=HOSTS_MAX)]
_NO_NUL = r"^[^\x00]*$"  # PostgreSQL has no text with one
Version = Annotated[str, Meta(min_length=1, max_length=80, pattern=_NO_NUL)]
Text = Annotated[str, Meta(max_length=2000, pattern=_NO_NUL)]


class PoolSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where machines of one type get their addresses."""

    range: Annotated[str, Meta(description="`first-last`; no pool when empty")] = ""
    network: Annotated[str, Meta(description="the network it is in, such as 192.168.0.0/23")] = ""
    excluded: Annotated[list[str], Meta(description="`first-last` ranges in it that are never given")] = msgspec.field(
        default_factory=list
    )


class PoolsSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The pools by type."""

    user: PoolSettings = PoolSettings()
    orga: PoolSettings = PoolSettings()
    cluster: PoolSettings = PoolSettings()
    service: PoolSettings = PoolSettings()


class Seed(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A machine that hall.toml declares: one interface of a server."""

    hostname: str
    ip: IPv4Address
    aliases: list[str] = []
    mac: str | None = None


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Settings of section `mdb`."""

    database: Annotated[str, Meta(description="URL of the database: sqlite:////path or postgresql://host/name")] = (
        "sqlite:////var/lib/backline-mdb/mdb.db"
    )
    domain: Annotated[str, Meta(description="DNS domain of the machines")] = ""
    writer_groups: Annotated[
        list[str], Meta(description="groups whose members may change mdb over the unix socket, besides root")
    ] = msgspec.field(default_factory=list)
    registrar_groups: Annotated[
        list[str], Meta(description="groups whose members may register machines over the unix socket")
    ] = msgspec.field(default_factory=lambda: ["backline-netboot"])
    reserved: Annotated[
        list[str], Meta(description="`address=host`: what hall.toml gives to a host, and nobody else gets")
    ] = msgspec.field(default_factory=list)
    pools: PoolsSettings = PoolsSettings()
    access: AccessSettings = AccessSettings()
    seeds: Annotated[
        list[Seed], Meta(description="tables of `hostname`, `ip`, `aliases`, `mac`: machines that hall.toml declares")
    ] = msgspec.field(default_factory=list)
    dhcp: Annotated[str, Meta(description="where the DHCP service is, for the page of a machine; none when empty")] = (
        "unix:/run/backline/dhcp.sock"
    )
    netboot: Annotated[str, Meta(description="where netboot is, for the page of a machine; none when empty")] = (
        "unix:/run/backline/netboot.sock"
    )
    htmx: Annotated[
        Path, Meta(description="htmx.min.js of Debian's libjs-htmx; pages do without where it is missing")
    ] = Path("/usr/share/javascript/htmx/htmx.min.js")
    grace_seconds: Annotated[int, Meta(ge=0, le=300, description="how long a stop waits for running requests")] = 10


class Strict(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What comes in: an unknown field is a mistake."""


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """A machine as mdb knows it. Times are seconds since the epoch.

    `declared`: hall.toml owns its names and addresses, and may leave out its MAC; every other machine has one.
    """

    id: int
    hostname: str
    aliases: list[str]
    mac: str | None
    ip: IPv4Address
    rfs: int
    hfs: int
    type: MachineType
    room: str
    faulty: bool
    faulty_reason: str
    channel: str
    pinned: str | None
    notes: str
    declared: bool
    created: float
    updated: float
    revision: int


def without_notes(machine: Machine) -> Machine:
    """As everybody may see it."""
    return msgspec.structs.replace(machine, notes="")


class NewMachine(Strict, frozen=True, kw_only=True):
    """A machine to be."""

    hostname: Annotated[Name, about("Host name: a DNS label, unique among names and aliases.")]
    mac: Annotated[Mac, about("MAC address, in any usual spelling.")]
    aliases: Annotated[list[Name], Meta(max_length=64), about("Further names of the same address.")] = []
    ip: Annotated[IPv4Address | None, about("Address inside the pool's network; the lowest free one when absent.")] = (
        None
    )
    rfs: Annotated[Number, about("Number of its root file server: the machine that has the alias rfsN.")] = 0
    hfs: Annotated[Number, about("Number of its home file server: the machine that has the alias hfsN.")] = 0
    type: Annotated[MachineType, about("What it is for.")] = MachineType.ORGA
    room: Annotated[Label, about("Room, a short name.")] = "other"
    faulty: Annotated[bool, about("Netboot shows the reason and lets it boot nothing.")] = False
    faulty_reason: Annotated[Text, about("What is wrong with it.")] = ""
    channel: Annotated[Label, about("Channel whose version it boots.")] = "stable"
    pinned: Annotated[Version | None, about("One version that it boots whatever its channel says.")] = None
    notes: Annotated[Text, about("For people.")] = ""


class MachinePatch(Strict, frozen=True, kw_only=True):
    """What to change of a machine; what is absent stays."""

    hostname: Name | UnsetType = UNSET
    mac: Mac | UnsetType | None = UNSET
    aliases: Annotated[list[Name], Meta(max_length=64)] | UnsetType = UNSET
    ip: IPv4Address | UnsetType | None = UNSET
    rfs: Number | UnsetType = UNSET
    hfs: Number | UnsetType = UNSET
    type: MachineType | UnsetType = UNSET
    room: Label | UnsetType = UNSET
    faulty: bool | UnsetType = UNSET
    faulty_reason: Text | UnsetType = UNSET
    channel: Label | UnsetType = UNSET
    pinned: Version | UnsetType | None = UNSET
    notes: Text | UnsetType = UNSET


class Registration(Strict, frozen=True, kw_only=True):
    """A machine that asks to be known. With `code`, what is absent stays as it is."""

    mac: Annotated[Mac, about("MAC address, in any usual spelling.")]
    hostname: Annotated[Typed, about("Host name; may be absent with a code.")] = ""
    rfs: Annotated[Number | None, about("Number of its root file server.")] = None
    hfs: Annotated[Number | None, about("Number of its home file server.")] = None
    room: Annotated[Typed, about("Room.")] = ""
    type: Annotated[MachineType | None, about("What it is for, never service; user when absent.")] = None
    code: Annotated[str, Meta(max_length=80), about("An administrator's code, for a machine that is known.")] = ""
    address: Annotated[IPv4Address | None, about("Where it asks from, for the history.")] = None


class Code(msgspec.Struct, frozen=True, kw_only=True):
    """A code with which the machine registers again, once, until `expires` (seconds since the epoch). Shown once."""

    machine: int
    hostname: str
    code: str
    expires: float


class Switch(msgspec.Struct, frozen=True, kw_only=True):
    """A switch that names itself in LLDP, and the servers that are nearest to what is plugged into it."""

    id: int
    name: str
    chassis: str
    room: str
    rfs: int
    hfs: int
    revision: int


class NewSwitch(Strict, frozen=True, kw_only=True):
    """A switch to be."""

    name: Annotated[Name, about("Name: a DNS label, unique among switches.")]
    chassis: Annotated[Mac, about("Chassis id that it sends in LLDP: a MAC address, in any usual spelling.")]
    room: Annotated[Label, about("Room of what is plugged into it.")] = "other"
    rfs: Annotated[Number, about("Number of the nearest root file server.")] = 0
    hfs: Annotated[Number, about("Number of the nearest home file server.")] = 0


class SwitchPatch(Strict, frozen=True, kw_only=True):
    """What to change of a switch; what is absent stays."""

    name: Name | UnsetType = UNSET
    chassis: Mac | UnsetType = UNSET
    room: Label | UnsetType = UNSET
    rfs: Number | UnsetType = UNSET
    hfs: Number | UnsetType = UNSET


class Switches(msgspec.Struct, frozen=True, kw_only=True):
    """Every switch, in the order of their names."""

    switches: list[Switch]


Scalar = bool | int | float | str


class Variables(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The settings that are changed while the hall runs."""

    allow_self_registration: Annotated[
        bool, about("Machines that boot for the first time may register themselves.")
    ] = False


class Variable(msgspec.Struct, frozen=True, kw_only=True):
    """One of them: its type in words, its value and default, and when it was last set (seconds since the epoch)."""

    key: str
    type: str
    value: Scalar
    default: Scalar
    about: str
    updated: float


class VariableValue(Strict, frozen=True, kw_only=True):
    """What to set one to."""

    value: Scalar


class VariablesList(msgspec.Struct, frozen=True, kw_only=True):
    """All of them."""

    settings: list[Variable]


class Pool(msgspec.Struct, frozen=True, kw_only=True):
    """Where machines of a type get their addresses, and what is left there."""

    type: MachineType
    first: IPv4Address
    last: IPv4Address
    excluded: list[str]
    size: int
    used: int
    resting: int
    free: int


class MachinesQuery(Strict, frozen=True, kw_only=True):
    """Which machines to list."""

    q: Annotated[str, Meta(max_length=500), about("Words that must hold; see docs/mdb.md.")] = ""
    limit: Annotated[int, Meta(ge=1, le=20_000), about("At most so many.")] = 20_000
    offset: Annotated[int, Meta(ge=0, le=1_000_000), about("After so many.")] = 0


class Machines(msgspec.Struct, frozen=True, kw_only=True):
    """Machines in the order of their host names; `total` is how many there are in all."""

    machines: list[Machine]
    total: int


Id = Annotated[int, Meta(ge=0, le=2**63 - 1)]  # BIGINT


class Change(Strict, frozen=True, kw_only=True):
    """A machine to change; with `match`, only while its revision is that one."""

    id: Id
    patch: MachinePatch
    match: int | None = None


class Removal(Strict, frozen=True, kw_only=True):
    """A machine to remove; with `match`, only while its revision is that one."""

    id: Id
    match: int | None = None


class Edits(Strict, frozen=True, kw_only=True):
    """Many edits, done all or not at all; `dry` only tells what would be."""

    create: Annotated[list[NewMachine], Meta(max_length=20_000)] = []
    update: Annotated[list[Change], Meta(max_length=20_000)] = []
    delete: Annotated[list[Removal], Meta(max_length=20_000)] = []
    dry: bool = False


class Edited(msgspec.Struct, frozen=True, kw_only=True):
    """The machines that were made or changed, in the order of the edits."""

    machines: list[Machine]
    dry: bool


class ExportQuery(Strict, frozen=True, kw_only=True):
    """Which machines to write down, and how."""

    format: Annotated[Format, about("csv, json or yaml.")] = Format.CSV
    q: Annotated[str, Meta(max_length=500), about("Words that must hold; see docs/mdb.md.")] = ""


class ImportQuery(Strict, frozen=True, kw_only=True):
    """How to import."""

    dry: Annotated[bool, about("Only tell what would be.")] = False


class Taken(msgspec.Struct, frozen=True, kw_only=True):
    """What a row of an import did; `before` and `after` hold the fields that differ, null for no record."""

    line: int
    id: int
    hostname: str
    action: Action
    before: dict[str, Any] | None
    after: dict[str, Any] | None


class Imported(msgspec.Struct, frozen=True, kw_only=True):
    """What an import did, or with `dry` would do. `changes` are in the order of the rows, without those that agree."""

    created: int
    updated: int
    unchanged: int
    changes: list[Taken]
    dry: bool


class TargetsQuery(Strict, frozen=True, kw_only=True):
    """Which machines to watch, and where they answer."""

    port: Annotated[int, Meta(ge=1, le=65_535), about("Port of the exporter: hostd's when absent.")] = 20_210
    q: Annotated[str, Meta(max_length=500), about("Words that must hold; see docs/mdb.md.")] = ""


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """A target as Prometheus' HTTP service discovery reads it."""

    targets: list[str]
    labels: dict[str, str]


class InventoryQuery(Strict, frozen=True, kw_only=True):
    """Which machines to name."""

    q: Annotated[str, Meta(max_length=500), about("Words that must hold; see docs/mdb.md.")] = ""


class Pools(msgspec.Struct, frozen=True, kw_only=True):
    """Every pool."""

    pools: list[Pool]


class Topic(Enum):
    """Kinds of records in the history; codes are those of machines that register again."""

    MACHINES = "machines"
    SWITCHES = "switches"
    SETTINGS = "settings"
    CODES = "codes"


Key = Annotated[str, Meta(max_length=128, pattern=_NO_NUL)]


class AuditQuery(Strict, frozen=True, kw_only=True):
    """Which part of the history."""

    machine: Annotated[Id | None, about("Of one machine, by its id.")] = None
    topic: Annotated[Topic | None, about("Of one kind of record.")] = None
    key: Annotated[Key | None, about("Of one record: the id of a switch or machine, the key of a setting.")] = None
    before: Annotated[Id | None, about("Older than this entry.")] = None
    limit: Annotated[int, Meta(ge=1, le=1000), about("At most so many.")] = 100
