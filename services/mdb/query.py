"""The one way to ask for machines: in the API, in the pages' search box, and on the command line. Pure.

A query is words. All of them must hold; a minus before one turns it around.

- `field:value` compares one field: `hostname`, `name` (host name or alias), `mac`, `ip`, `rfs`, `hfs`, `type`, `room`,
  `channel`, `pinned`, `faulty`, `id`. Several values with commas: one of them. `*` is any text, `?` any letter; without
  them the whole value is meant, so `name:rfs1` is not rfs10. `hostname:pas-r[01-08]p[01-12]` is a host range
  (`services.mdb.ranges`).
- `ip:192.168.0.0/25` is a network, `ip:192.168.0.1-192.168.0.9` a range; `faulty:yes`, `faulty:no`; `pinned:` is none.
- A word without a field is looked for anywhere in names, MAC, address, room and notes; one with brackets is a range.

Quotes keep a space inside of a word, as in a shell: `notes` are searched by `"no fan"`.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Sequence
from ipaddress import IPv4Address, IPv4Network

from services.common.addresses import Range
from services.common.errors import UsageError, nearest
from services.common.names import normal_mac
from services.mdb.ranges import expand, is_range
from services.mdb.schema import Machine, MachineType

_COMMA = re.compile(r",(?![^\[]*\])")  # not one in brackets

Test = Callable[[Machine], bool]

_HINT = "words, or field:value with a field of: "
_YES, _NO = ("yes", "true", "1"), ("no", "false", "0")


def parse(text: str) -> Test:
    """A query as a test of one machine. Raises UsageError("query.syntax") with what is wrong and what there is."""
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise UsageError("query.syntax", f"the query ends inside of a quote: {text}") from error
    tests = [_word(word) for word in words]
    return lambda machine: all(test(machine) for test in tests)


def _word(word: str) -> Test:
    turned = word.startswith("-") and len(word) > 1
    if turned:
        word = word[1:]
    field, colon, value = word.partition(":")
    # A MAC address has colons too, and no field is called like a part of one.
    test = (
        _field(field, _COMMA.split(value)) if colon and not re.fullmatch(r"[0-9A-Fa-f]{2}", field) else _anywhere(word)
    )
    return (lambda machine: not test(machine)) if turned else test


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


def _field(field: str, values: Sequence[str]) -> Test:
    make = _FIELDS.get(field)
    if make is None:
        raise UsageError(
            "query.syntax",
            f"machines have no field {field!r}",
            hint=nearest(field, list(_FIELDS)) or _HINT + ", ".join(_FIELDS),
        )
    tests = [make(value) for value in values]
    return lambda machine: any(test(machine) for test in tests)


def _text(texts: Callable[[Machine], Sequence[str]]) -> Callable[[str], Test]:
    def make(value: str) -> Test:
        if is_range(value):
            names = frozenset(expand(value.lower()))
            return lambda machine: not names.isdisjoint(texts(machine))
        parts = ({"*": ".*", "?": "."}.get(part, re.escape(part)) for part in re.split(r"([*?])", value.lower()))
        pattern = re.compile("".join(parts), re.DOTALL)
        return lambda machine: any(pattern.fullmatch(text) for text in texts(machine))

    return make


def _number(number: Callable[[Machine], int]) -> Callable[[str], Test]:
    def make(value: str) -> Test:
        if not re.fullmatch(r"[0-9]{1,18}", value):
            raise UsageError("query.syntax", f"{value!r} is no number")
        return lambda machine: number(machine) == int(value)

    return make


def _mac(value: str) -> Test:
    if "*" in value or "?" in value or not value:
        return _text(lambda machine: [machine.mac or ""])(value.replace("-", ":"))
    try:
        wanted = normal_mac(value)
    except ValueError as error:
        raise UsageError("query.syntax", str(error)) from error
    return lambda machine: machine.mac == wanted


def _ip(value: str) -> Test:
    if "*" in value or "?" in value:
        return _text(lambda machine: [str(machine.ip)])(value)
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


def _type(value: str) -> Test:
    known = [type.value for type in MachineType]
    if value not in known:
        raise UsageError("query.syntax", f"{value!r} is no type of machine", hint=f"types: {', '.join(known)}")
    return lambda machine: machine.type.value == value


def _faulty(value: str) -> Test:
    if value.lower() not in (*_YES, *_NO):
        raise UsageError("query.syntax", f"{value!r} is neither yes nor no")
    wanted = value.lower() in _YES
    return lambda machine: machine.faulty is wanted


_FIELDS: dict[str, Callable[[str], Test]] = {
    "id": _number(lambda machine: machine.id),
    "hostname": _text(lambda machine: [machine.hostname]),
    "name": _text(lambda machine: [machine.hostname, *machine.aliases]),
    "mac": _mac,
    "ip": _ip,
    "rfs": _number(lambda machine: machine.rfs),
    "hfs": _number(lambda machine: machine.hfs),
    "type": _type,
    "room": _text(lambda machine: [machine.room]),
    "channel": _text(lambda machine: [machine.channel]),
    "pinned": _text(lambda machine: [machine.pinned or ""]),
    "faulty": _faulty,
}
