"""import and export: machines as CSV, JSON and YAML."""

from __future__ import annotations

import argparse

from services.common.commands import format_of, one_line, print_json, read_file, write_file
from services.common.errors import Exit
from services.common.formats import Format
from services.mdb.commands.common import BULK_SECONDS, client
from services.mdb.schema import Action, Taken

SHOWN = 50
"""So many changes are shown; --json has all."""


def take(arguments: argparse.Namespace) -> int:
    format, content = format_of(arguments.format, arguments.file, area="mdb"), read_file(arguments.file, area="mdb")
    with client(arguments, seconds=BULK_SECONDS) as mdb:
        done = mdb.take(content, format, dry=arguments.dry_run)
    if arguments.json:
        return print_json(done)
    for change in done.changes[:SHOWN]:
        _show(change)
    if (more := len(done.changes) - SHOWN) > 0:
        print(f"... and {more} more")
    what = f"{done.created} created, {done.updated} changed, {done.unchanged} as they were"
    print(f"would be: {what}" if done.dry else what)
    return int(Exit.OK)


def _show(change: Taken) -> None:
    if change.action is Action.CREATED or change.before is None or change.after is None:
        after = change.after or {}
        print(f"+ {change.hostname}, {after.get('ip')}, {after.get('mac')}")
        return
    print(f"~ {change.hostname}")
    for name, value in change.after.items():
        print(f"  {name}: {one_line(str(change.before[name]))} → {one_line(str(value))}")


def export(arguments: argparse.Namespace) -> int:
    format = format_of(arguments.format, arguments.output, area="mdb", usual=Format.CSV)
    with client(arguments, seconds=BULK_SECONDS) as mdb:
        content = mdb.export(format, " ".join(arguments.query))
    write_file(arguments.output, content, area="mdb")
    return int(Exit.OK)
