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

UNITS_MAX = 256
UNTOUCHABLE = ("backline-hostd-supervisor.service", "backline-hostd-supervisor.socket", "dbus.service", "dbus.socket")
"""Who stops these can put nothing right any more."""

UnitName = Annotated[str, Meta(max_length=255, description="name of one unit, as in nginx.service")]
Text = Annotated[str, Meta(max_length=65536, description="text in the format of systemd.syntax(7)")]
DropInName = Annotated[
    str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$", description="NAME of /etc/systemd/system/UNIT.d/NAME.conf")
]
Reserved = Annotated[list[str], Meta(max_length=0, description="for a later release; empty until then")]


class UnitWish(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What one unit should be. Null leaves the state alone, or restores what it was before it was wished for."""

    enabled: Annotated[bool | None, Meta(description="whether it starts with the system")] = None
    running: Annotated[bool | None, Meta(description="whether it is active")] = None
    file: Annotated[Text | None, Meta(description="the whole unit file, for a unit that the image has not")] = None
    drop_ins: Annotated[dict[DropInName, Text], Meta(description="drop-ins by name", max_length=16)] = {}


class Desired(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The desired state of one host."""

    units: Annotated[dict[UnitName, UnitWish], Meta(description="wishes by unit", max_length=UNITS_MAX)] = {}
    machines: Reserved = []
    roots: Reserved = []
    exports: Reserved = []


def check(desired: Desired) -> None:
    """Refuse what no host can be. Raises InputError: "desired.unit", "desired.protected", "desired.text"."""
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
