"""The command line of `backline host init`; what it does is in `host_init`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from services.common.errors import Exit, UsageError


def add_parser(commands: argparse._SubParsersAction[Any]) -> None:
    """The command line of `backline host init`."""
    init = commands.add_parser("init", help="make this plain Debian 13 iron: a host that role images run on")
    init.add_argument("--hall", type=Path, required=True, metavar="FILE", help="the hall's hall.toml")
    init.add_argument(
        "--from", dest="tree", type=Path, required=True, metavar="FOLDER", help="the mounted root.erofs of a role image"
    )
    init.add_argument(
        "--secret",
        action="append",
        default=[],
        metavar="NAME=FILE",
        help="a credential for /etc/credstore; MACHINE/NAME=FILE for one of a machine's own",
    )
    init.set_defaults(run=_init)


def _init(arguments: argparse.Namespace) -> int:
    from services.hostd.host_init import init

    secrets = {}
    for text in arguments.secret:
        name, equals, file = text.partition("=")
        if not equals:
            raise UsageError("host.secret", f"{text!r} is no NAME=FILE")
        secrets[name] = Path(file)
    done = init(tree=arguments.tree, hall=arguments.hall, secrets=secrets)
    for line in done:
        print(line, file=sys.stderr)
    print("this host is iron" + ("" if done else "; nothing was to do"))
    return int(Exit.OK)
