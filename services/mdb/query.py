"""The one way to ask for machines: in the API, in the pages' search box, and on the command line. Pure.

The words are those of `services.common.query`; fields are `hostname`, `name` (host name or alias), `mac`, `ip`, `rfs`,
`hfs`, `type`, `room`, `channel`, `pinned`, `faulty`, `id`.

- `name:rfs1` is not rfs10. `hostname:pas-r[01-08]p[01-12]` is a host range.
- `ip:192.168.0.0/25` is a network, `ip:192.168.0.1-192.168.0.9` a range; `faulty:yes`, `faulty:no`; `pinned:` is none.
- A word without a field is looked for anywhere in names, MAC, address, room and notes; one with brackets is a range.

`notes` are searched by `"no fan"`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from ipaddress import IPv4Address, IPv4Network

from services.common.addresses import Range
from services.common.errors import UsageError
from services.common.names import normal_mac
from services.common.query import Field, Language, choice, flag, number, text
from services.common.ranges import expand, is_range
from services.mdb.schema import Machine, MachineType

Test = Callable[[Machine], bool]


def parse(words: str) -> Test:
    """A query as a test of one machine. Raises UsageError("query.syntax") with what is wrong and what there is."""
    return _LANGUAGE.parse(words)


def _anywhere(word: str) -> Test:
    wanted = word.lower()
    if is_range(wanted):
        names = frozenset(expand(wanted))
        return lambda machine: not names.isdisjoint((machine.hostname, *machine.aliases))
    try:
        mac = normal_mac(word)
    except ValueError:
        mac = wanted

    def found(machine: Machine) -> bool:
        texts = (machine.hostname, *machine.aliases, str(machine.ip), machine.room, machine.notes.lower())
        return mac in (machine.mac or "") or any(wanted in text for text in texts)

    return found


def _mac(value: str) -> Test:
    if "*" in value or "?" in value or not value:
        return _MACS(value.replace("-", ":"))
    try:
        wanted = normal_mac(value)
    except ValueError as error:
        raise UsageError("query.syntax", str(error)) from error
    return lambda machine: machine.mac == wanted


def _ip(value: str) -> Test:
    if "*" in value or "?" in value:
        return _IPS(value)
    try:
        if "/" in value:
            network = IPv4Network(value)
            return lambda machine: machine.ip in network
        if "-" in value:
            span = Range.parse(value)
            return lambda machine: machine.ip in span
        address = IPv4Address(value)
    except ValueError as error:
        raise UsageError("query.syntax", f"{value!r} is no address, network or range: {error}") from error
    return lambda machine: machine.ip == address


def _part_of_a_mac(word: str) -> bool:
    """A MAC address has colons too, and no field is called like a part of one."""
    return re.fullmatch(r"[0-9A-Fa-f]{2}", word.partition(":")[0]) is not None


_MACS: Field[Machine] = text(lambda machine: [machine.mac or ""])
_IPS: Field[Machine] = text(lambda machine: [str(machine.ip)])
_FIELDS: dict[str, Field[Machine]] = {
    "id": number(lambda machine: machine.id),
    "hostname": text(lambda machine: [machine.hostname]),
    "name": text(lambda machine: [machine.hostname, *machine.aliases]),
    "mac": _mac,
    "ip": _ip,
    "rfs": number(lambda machine: machine.rfs),
    "hfs": number(lambda machine: machine.hfs),
    "type": choice("type of machine", [type.value for type in MachineType], lambda machine: machine.type.value),
    "room": text(lambda machine: [machine.room]),
    "channel": text(lambda machine: [machine.channel]),
    "pinned": text(lambda machine: [machine.pinned or ""]),
    "faulty": flag(lambda machine: machine.faulty),
}
_LANGUAGE = Language("machines", _FIELDS, _anywhere, whole=_part_of_a_mac)
