"""switch and setting: what is plugged in where, and what is allowed now."""

from __future__ import annotations

import argparse
import json

from services.common.commands import converted, difference, moment, print_json, show_changes, table
from services.common.errors import Exit, MissingError, UsageError
from services.mdb.client import Mdb
from services.mdb.commands.common import TELLING, client
from services.mdb.schema import NewSwitch, Switch, SwitchPatch

_FIELDS = ("name", "chassis", "room", "rfs", "hfs")


def switch_list(arguments: argparse.Namespace) -> int:
    with client(arguments) as mdb:
        found = mdb.switches()
    if arguments.json:
        return print_json({"switches": found})
    rows = [("NAME", "CHASSIS", "ROOM", "RFS", "HFS")]
    rows += [(each.name, each.chassis, each.room, str(each.rfs), str(each.hfs)) for each in found]
    table(rows)
    return int(Exit.OK)


def _fields(arguments: argparse.Namespace) -> dict[str, object]:
    return {name: value for name in _FIELDS if (value := getattr(arguments, name, None)) is not None}


def _find(mdb: Mdb, name: str) -> Switch:
    for each in mdb.switches():
        if name in (each.name, each.chassis, str(each.id)):
            return each
    raise MissingError("switch.unknown", f"there is no switch {name}")


def switch_add(arguments: argparse.Namespace) -> int:
    new = converted(_fields(arguments), NewSwitch, code="mdb.value")
    with client(arguments) as mdb:
        return _shown(arguments, None, mdb.create_switch(new))


def switch_edit(arguments: argparse.Namespace) -> int:
    given = _fields(arguments)
    if not given:
        raise UsageError("mdb.value", "there is nothing to change", hint="--rfs 3, --room alt...")
    patch = converted(given, SwitchPatch, code="mdb.value")
    with client(arguments) as mdb:
        before = _find(mdb, arguments.switch)
        return _shown(arguments, before, mdb.change_switch(before.id, patch, match=before.revision))


def switch_remove(arguments: argparse.Namespace) -> int:
    with client(arguments) as mdb:
        gone = _find(mdb, arguments.switch)
        mdb.delete_switch(gone.id, match=gone.revision)
    if arguments.json:
        return print_json(gone)
    print(f"removed {gone.name} ({gone.chassis})")
    return int(Exit.OK)


def _shown(arguments: argparse.Namespace, before: Switch | None, after: Switch) -> int:
    if arguments.json:
        return print_json(after)
    print(f"now: {after.name}, {after.chassis}, room {after.room}, rfs {after.rfs}, hfs {after.hfs}")
    show_changes(before, after)
    return int(Exit.OK)


def setting_list(arguments: argparse.Namespace) -> int:
    with client(arguments) as mdb:
        found = mdb.settings()
    if arguments.json:
        return print_json({"settings": found})
    rows = [("SETTING", "VALUE", "DEFAULT", "MEANING")]
    rows += [(each.key, json.dumps(each.value), json.dumps(each.default), each.about) for each in found]
    table(rows)
    return int(Exit.OK)


def setting_set(arguments: argparse.Namespace) -> int:
    words = {"yes": True, "no": False, "on": True, "off": False}
    try:
        value = words[arguments.value] if arguments.value in words else json.loads(arguments.value)
    except json.JSONDecodeError:
        value = arguments.value
    if not isinstance(value, bool | int | float | str):
        raise UsageError("mdb.value", f"{arguments.value} is no value of a setting", hint="yes, no, a number or a text")
    with client(arguments) as mdb:
        after = mdb.set(arguments.key, value)
    if arguments.json:
        return print_json(after)
    print(f"now: {after.key} = {json.dumps(after.value)}")
    return int(Exit.OK)


def setting_history(arguments: argparse.Namespace) -> int:
    with client(arguments) as mdb:
        found = mdb.audit(topic="settings", key=arguments.key)
    if arguments.json:
        return print_json(found)
    for entry in found.entries:
        print(f"{moment(entry.at)}  {entry.actor} ({entry.origin}): {difference(entry.before, entry.after, TELLING)}")
    return int(Exit.OK)
