"""message: what seats show to who has not logged in yet."""

from __future__ import annotations

import argparse
import sys

from services.common.commands import moment, one_line, print_json
from services.common.errors import Exit, UsageError
from services.udb.commands.common import client


def message(arguments: argparse.Namespace) -> int:
    words, none = arguments.text, arguments.none
    if words is not None and none:
        raise UsageError("udb.value", "a message and none at once: which one?")
    with client(arguments) as udb:
        if words is None and not none:
            said = udb.message()
        else:
            said = udb.announce("" if none else sys.stdin.read() if words == "-" else words)
    if arguments.json:
        return print_json(said)
    if not said.text:
        print("there is no message of the day")
        return int(Exit.OK)
    print(f"since {moment(said.updated)}:" if said.updated else "now:")
    for line in said.text.split("\n"):
        print(f"  {one_line(line)}".rstrip())
    return int(Exit.OK)
