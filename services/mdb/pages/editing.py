"""A machine as a form shows it, what a form means, and how two people's changes go together. Pure.

A form holds every field as text, with the texts that it began with: so only what somebody really changed becomes a
patch, and when the machine was changed meanwhile, it is known field by field who changed what.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import msgspec

from services.common.codec import convert
from services.common.errors import BacklineError
from services.mdb.schema import Machine, MachinePatch, NewMachine

Texts = dict[str, str]

TITLES: Mapping[str, str] = {
    "hostname": "Host name",
    "aliases": "Aliases",
    "mac": "MAC address",
    "ip": "IP address",
    "type": "Type",
    "room": "Room",
    "rfs": "Root server (rfs)",
    "hfs": "Home server (hfs)",
    "channel": "Channel",
    "pinned": "Pinned version",
    "faulty": "Faulty",
    "faulty_reason": "What is wrong",
    "notes": "Notes",
}
_NUMBERS = ("rfs", "hfs")
_OWNERS = {
    "machine.name": "hostname",
    "machine.mac": "mac",
    "machine.room": "room",
    "machine.channel": "channel",
    "conflict.name": "hostname",
    "conflict.mac": "mac",
    "conflict.ip": "ip",
    "pool": "ip",
}


@dataclass(frozen=True)
class Difference:
    """A field that differs."""

    field: str
    before: str
    after: str

    @property
    def title(self) -> str:
        return TITLES.get(self.field, self.field)


@dataclass(frozen=True)
class Contested:
    """A field that somebody else changed while a form was open: what it was, is now, and would be."""

    field: str
    was: str
    theirs: str
    mine: str

    @property
    def title(self) -> str:
        return TITLES[self.field]

    @property
    def both(self) -> bool:
        """Did the two of them want different things?"""
        return self.mine not in (self.was, self.theirs)


def texts(machine: Machine) -> Texts:
    """A machine's fields as a form shows them, and sends them back when nobody touches them."""
    return {name: "\n".join(text(getattr(machine, name)).splitlines()).strip() for name in TITLES}


def blank() -> Texts:
    """The fields of a machine to be."""
    usual = {field.name: field.default for field in msgspec.structs.fields(NewMachine)}
    return {name: "" if usual[name] is msgspec.NODEFAULT else text(usual[name]) for name in TITLES}


def text(value: object) -> str:
    """A value of a field in a form; `yes` and nothing for a flag, names with spaces."""
    match value:
        case None | False:
            return ""
        case True:
            return "yes"
        case list():
            return " ".join(value)
        case _:
            return str(getattr(value, "value", value))


def shown(value: object) -> str:
    """A value of a record or of the audit log for people."""
    match value:
        case None | "" | []:
            return "-"
        case True:
            return "yes"
        case False:
            return "no"
        case list():
            return " ".join(map(str, value))
        case _:
            return str(getattr(value, "value", value))


class FieldsError(Exception):
    """What is wrong with the fields of a form, by field."""

    def __init__(self, errors: dict[str, str]) -> None:
        super().__init__(", ".join(errors.values()))
        self.errors = errors


def patch(mine: Mapping[str, str], was: Mapping[str, str]) -> MachinePatch:
    """What was changed in a form. Raises FieldsError."""
    changed = {name: value for name, value in mine.items() if value != was.get(name, "")}
    return convert(_plain(changed, MachinePatch), MachinePatch)


def new(mine: Mapping[str, str]) -> NewMachine:
    """The machine that a form describes; what was left empty is as usual. Raises FieldsError."""
    given = {name: value for name, value in mine.items() if value or name in ("hostname", "mac")}
    if missing := {name: f"{TITLES[name]} is needed" for name in ("hostname", "mac") if not given.get(name)}:
        raise FieldsError(missing)
    return convert(_plain(given, NewMachine), NewMachine)


def _plain(given: Mapping[str, str], struct: type[MachinePatch] | type[NewMachine]) -> dict[str, object]:
    """The fields as the API takes them, each of the right type. Raises FieldsError with every one that is not."""
    plain: dict[str, object] = {}
    errors = {}
    needed = {"hostname": "x", "mac": "x"} if struct is NewMachine else {}
    for name, value in given.items():
        plain[name] = _value(name, value)
        try:
            convert({**needed, name: plain[name]}, struct)
        except msgspec.ValidationError as error:
            message = str(error).partition(" - at ")[0]
            errors[name] = f"{TITLES[name]}: {message[:1].lower()}{message[1:]}"
    if errors:
        raise FieldsError(errors)
    return plain


def _value(name: str, value: str) -> object:
    if name == "aliases":
        return value.replace(",", " ").split()
    if name == "faulty":
        return value == "yes"
    if name in ("mac", "ip", "pinned"):
        return value or None
    if name in _NUMBERS and value.isascii() and value.isdigit():
        return int(value[:9])
    return value


def field_of(error: BacklineError) -> str | None:
    """The field that a refusal of the store is about, or None."""
    return _OWNERS.get(error.code) or _OWNERS.get(error.code.partition(".")[0])


def contested(mine: Mapping[str, str], was: Mapping[str, str], theirs: Mapping[str, str]) -> list[Contested]:
    """Every field that somebody else changed since the form was opened."""
    return [
        Contested(name, was.get(name, ""), theirs[name], mine.get(name, ""))
        for name in TITLES
        if theirs[name] != was.get(name, "")
    ]


def merged(mine: Mapping[str, str], was: Mapping[str, str], theirs: Mapping[str, str]) -> Texts:
    """A form's fields with what somebody else changed, except where one changed it oneself."""
    return {name: mine[name] if mine[name] != was.get(name, "") else theirs[name] for name in mine}


def differences(before: Machine, after: Machine) -> list[Difference]:
    """What differs between two states of a machine, in the order of the form."""
    return [
        Difference(name, shown(getattr(before, name)), shown(getattr(after, name)))
        for name in TITLES
        if getattr(before, name) != getattr(after, name)
    ]


@dataclass(frozen=True)
class Change:
    """A machine before and after an edit that is planned; without `after` it goes."""

    before: Machine
    after: Machine | None

    @property
    def differences(self) -> list[Difference]:
        return differences(self.before, self.after) if self.after else []


@dataclass(frozen=True)
class Group:
    """The same difference of several machines."""

    difference: Difference
    count: int


def groups(changes: Iterable[Change]) -> Sequence[Group]:
    """What a preview begins with: each kind of change once, the most frequent first; addresses are one kind."""
    counts: dict[tuple[str, str, str], int] = {}
    for change in changes:
        for one in change.differences:
            key = (one.field, "", "") if one.field == "ip" else (one.field, one.before, one.after)
            counts[key] = counts.get(key, 0) + 1
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return [Group(Difference(*key), count) for key, count in ordered]
