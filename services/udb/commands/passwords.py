"""password and sheet: what people have forgotten, and what they are given."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from services.common.commands import print_json, table
from services.common.errors import Exit, UsageError
from services.udb.commands.common import BULK_SECONDS, chosen, client


def password(arguments: argparse.Namespace) -> int:
    with client(arguments, seconds=BULK_SECONDS) as udb:
        shown = udb.sheet([each.id for each in chosen(udb, arguments.user)])
    if arguments.json:
        return print_json(shown)
    return table(
        [
            ("LOGIN", "NAME", "PASSWORD"),
            *(
                (
                    each.login,
                    f"{each.firstname} {each.lastname}".strip(),
                    "(none)" if each.password is None else each.password,
                )
                for each in shown.people
            ),
        ]
    )


def sheet(arguments: argparse.Namespace) -> int:
    from services.udb import sheets

    with client(arguments, seconds=BULK_SECONDS) as udb:
        shown = udb.sheet([each.id for each in chosen(udb, arguments.user)])
    if arguments.json:
        return print_json(shown)
    ending = "" if arguments.output is None else arguments.output.suffix
    if (arguments.format or ending.removeprefix(".")) == "html":
        text = sheets.page(shown.people, hall=arguments.title, per_page=arguments.per_page)
    else:
        text = sheets.tsv(shown.people)
    _write(arguments.output, text)
    if without := [each.login for each in shown.people if each.password is None]:
        print(f"without a password, and not on it: {', '.join(without)}", file=sys.stderr)
    return int(Exit.OK)


def _write(file: Path | None, text: str) -> None:
    """A new file that nobody else reads, never another one's. Raises UsageError("udb.file")."""
    if file is None:
        sys.stdout.write(text)
        return
    try:
        with open(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as out:
            out.write(text)
    except OSError as error:
        raise UsageError("udb.file", f"cannot be written: {error.strerror}", where=str(file)) from error
