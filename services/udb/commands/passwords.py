"""password: what people have forgotten."""

from __future__ import annotations

import argparse

from services.common.commands import print_json, table
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
