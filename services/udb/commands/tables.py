"""import and export: lists of people in, tables of users out and in."""

from __future__ import annotations

import argparse

from services.common.changes import Action
from services.common.commands import format_of, one_line, print_json, read_file, write_file
from services.common.errors import Exit
from services.common.formats import Format
from services.common.users import UserGroup
from services.udb.commands.common import BULK_SECONDS, client
from services.udb.schema import ImportFormat, Taken

SHOWN = 50
"""So many changes are shown; --json has all."""


def take(arguments: argparse.Namespace) -> int:
    format, content = _list_format(arguments), read_file(arguments.file, area="udb")
    group, generate = UserGroup(arguments.group), not arguments.no_generate
    with client(arguments, seconds=BULK_SECONDS) as udb:
        done = udb.take(content, format, group=group, generate=generate, dry=arguments.dry_run)
    if arguments.json:
        return print_json(done)
    for change in done.changes[:SHOWN]:
        _show(change)
    if (more := len(done.changes) - SHOWN) > 0:
        print(f"... and {more} more")
    what = f"{done.created} created, {done.updated} changed, {done.unchanged} as they were"
    print(f"would be: {what}" if done.dry else what)
    return int(Exit.OK)


def export(arguments: argparse.Namespace) -> int:
    format = format_of(arguments.format, arguments.output, area="udb", usual=Format.CSV)
    with client(arguments, seconds=BULK_SECONDS) as udb:
        content = udb.export(format, " ".join(arguments.query))
    write_file(arguments.output, content, area="udb")
    return int(Exit.OK)


def _list_format(arguments: argparse.Namespace) -> ImportFormat:
    if arguments.format is not None:
        return ImportFormat(arguments.format)
    return ImportFormat(format_of(None, arguments.file, area="udb").value)


def _show(change: Taken) -> None:
    if change.action is Action.CREATED or change.before is None or change.after is None:
        after = change.after or {}
        print(f"+ {change.login}, {one_line(change.name)}, uid {after.get('uid')}, {after.get('group')}")
        return
    print(f"~ {change.login}")
    for name, value in change.after.items():
        if name == "password_set":
            print("  password: another one")
        else:
            print(f"  {name}: {one_line(str(change.before[name]))} → {one_line(str(value))}")
