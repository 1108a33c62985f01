"""import and export: machines as CSV, JSON and YAML."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from services.common.commands import one_line, print_json
from services.common.errors import Exit, InputError, UsageError
from services.mdb.commands.common import BULK_SECONDS, client
from services.mdb.schema import Action, Format, Taken

SHOWN = 50
"""So many changes are shown; --json has all."""


def take(arguments: argparse.Namespace) -> int:
    format, content = _format(arguments.format, arguments.file), _read(arguments.file)
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
    format = _format(arguments.format, arguments.output, usual=Format.CSV)
    with client(arguments, seconds=BULK_SECONDS) as mdb:
        content = mdb.export(format, " ".join(arguments.query))
    if arguments.output is None:
        sys.stdout.write(content.decode())
        return int(Exit.OK)
    try:
        arguments.output.write_bytes(content)
    except OSError as error:
        raise UsageError("mdb.file", f"cannot be written: {error.strerror}", where=str(arguments.output)) from error
    return int(Exit.OK)


def _read(file: Path) -> bytes:
    if str(file) == "-":
        return sys.stdin.buffer.read()
    try:
        return file.read_bytes()
    except OSError as error:
        raise InputError("mdb.file", f"cannot be read: {error.strerror}", where=str(file)) from error


def _format(name: str | None, file: Path | None, *, usual: Format | None = None) -> Format:
    """What is said, else what the file's name says. Raises UsageError("mdb.format")."""
    if name is not None:
        return Format(name)
    ending = "" if file is None else file.suffix.removeprefix(".").lower()
    found = {"yml": Format.YAML, **{format.value: format for format in Format}}.get(ending, usual)
    if found is None:
        raise UsageError("mdb.format", f"is {file} CSV, JSON or YAML?", hint="--format csv")
    return found
