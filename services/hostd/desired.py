"""What a host should be: one document, a generation of which is in force. Structs, and what makes no sense in them.

A wish that is absent leaves the unit's state alone; one that was made in an earlier generation and is not made any more
is taken back: the unit gets the state that it had before (`services.hostd.planner`).
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from services.common.bus import is_unit_name
from services.common.errors import InputError
from services.hostd.machines_schema import Card, Inside, Name, Outside, Resources, Role, Version

UNITS_MAX = 256
MACHINES_MAX = 64
ROOTS_MAX = 64
UNTOUCHABLE = ("backline-hostd-supervisor.service", "backline-hostd-supervisor.socket", "dbus.service", "dbus.socket")
"""Who stops these can put nothing right any more."""

UnitName = Annotated[str, Meta(max_length=255, description="name of one unit, as in nginx.service")]
Text = Annotated[str, Meta(max_length=65536, description="text in the format of systemd.syntax(7)")]
DropInName = Annotated[
    str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$", description="NAME of /etc/systemd/system/UNIT.d/NAME.conf")
]
RootName = Annotated[
    str, Meta(pattern=r"^[a-z][a-z0-9-]{0,31}@[0-9]{8}\.[0-9a-f]{12}$", description="as nfsroot@20260131.0123456789ab")
]
Export = Annotated[str, Meta(pattern=r"^(/[A-Za-z0-9_.-]+)+$", max_length=200, description="path that clients mount")]


class UnitWish(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What one unit should be. Null leaves the state alone, or restores what it was before it was wished for."""

    enabled: Annotated[bool | None, Meta(description="whether it starts with the system")] = None
    running: Annotated[bool | None, Meta(description="whether it is active")] = None
    file: Annotated[Text | None, Meta(description="the whole unit file, for a unit that the image has not")] = None
    drop_ins: Annotated[dict[DropInName, Text], Meta(description="drop-ins by name", max_length=16)] = {}


class MachineWish(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What one machine of an iron should be. Its network, limits and folders are what is here, and nothing else."""

    role: Role
    version: Version
    network: Annotated[list[Card], Meta(max_length=8, description="its cards: host0, host1...")] = []
    resources: Annotated[Resources, Meta(description="what it may use at most")] = Resources()
    folders: Annotated[
        dict[Inside, Outside], Meta(max_length=64, description="persistent folders beside /var, and where they are")
    ] = {}
    running: Annotated[bool, Meta(description="whether it runs, now and whenever the iron starts")] = True


class Desired(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The desired state of one host."""

    units: Annotated[dict[UnitName, UnitWish], Meta(description="wishes by unit", max_length=UNITS_MAX)] = {}
    machines: Annotated[
        dict[Name, MachineWish], Meta(description="wishes by machine; on iron only", max_length=MACHINES_MAX)
    ] = {}
    roots: Annotated[
        list[RootName],
        Meta(description="versions to hold beside those of channels; on a root file server only", max_length=ROOTS_MAX),
    ] = []
    exports: Annotated[
        list[Export], Meta(description="exports that have to be served; on a root file server only", max_length=8)
    ] = []


def check(desired: Desired) -> None:
    """Refuse what no host can be.

    Raises InputError: "desired.unit", "desired.protected", "desired.text", "desired.twice".
    """
    for what, names in (("roots", desired.roots), ("exports", desired.exports)):
        if len(set(names)) < len(names):
            raise InputError("desired.twice", f"{what} name something twice")
    for name, wish in desired.units.items():
        if not is_unit_name(name):
            raise InputError(
                "desired.unit", f"{name[:80]!r} is not the name of a unit", hint="write it as nginx.service"
            )
        if name in UNTOUCHABLE:
            raise InputError("desired.protected", f"{name} carries the supervisor itself, and is no unit of a document")
        if "@." in name and wish.running is not None:
            raise InputError("desired.unit", f"{name} is a template: only its instances run")
        texts = {f"drop-in {key} of {name}": text for key, text in wish.drop_ins.items()}
        if wish.file is not None:
            if "@" in name and "@." not in name:
                raise InputError("desired.text", f"{name} is an instance: its file is that of the template")
            texts[f"the file of {name}"] = wish.file
        for what, text in texts.items():
            if "\0" in text or not text.strip():
                raise InputError("desired.text", f"{what} is empty or holds a NUL character")


def installs(text: str) -> bool:
    """Has a unit file an [Install] section with something in it?"""
    section = ""
    for raw in text.splitlines():
        line = raw.strip()
        if line.startswith("[") and line.endswith("]"):
            section = line
        elif section == "[Install]" and line and line[0] not in "#;" and "=" in line:
            return True
    return False
