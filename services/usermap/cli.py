"""`backline usermap`: run the service, print the map, or find somebody."""

from __future__ import annotations

import argparse
from pathlib import Path

from services.common.commands import asking_options, print_json, service_options, table
from services.common.errors import Exit

SUMMARY = "the rooms: which seats are free, taken, faulty or silent, and who sits where"


def parser(prog: str) -> argparse.ArgumentParser:
    """The command line of `backline usermap`."""
    root = argparse.ArgumentParser(prog=prog, description="The map of the rooms, live at http://map.DOMAIN/.")
    commands = root.add_subparsers(metavar="COMMAND", required=True)

    serve = commands.add_parser("serve", parents=[service_options("usermap")], help="run the service (systemd does)")
    serve.set_defaults(run=_serve)

    asking = asking_options("unix:/path or https://host of the service")
    show = commands.add_parser("show", parents=[asking], help="print the seats, or those of a name")
    show.add_argument("name", nargs="?", metavar="NAME", help="a login, a seat, or the beginning of seats' names")
    show.set_defaults(run=_show)

    check = commands.add_parser("check", help="say whether a template of the rooms is good, and which seats it has")
    check.add_argument("file", type=Path, metavar="FILE", help="an SVG")
    check.set_defaults(run=_check)
    return root


def _serve(arguments: argparse.Namespace) -> int:
    from services.common.access import Access, Role
    from services.common.serve import serve
    from services.common.settings import read
    from services.common.tokens import Tokens
    from services.usermap.app import make_app
    from services.usermap.schema import Settings
    from services.usermap.watch import Watch

    settings = read(Settings, section="usermap", file=arguments.config)
    access = Access(settings.access, groups={Role.ORGANIZER: settings.reader_groups}, tokens=Tokens.of_this_service())
    app = make_app(Watch(settings), access, htmx=settings.htmx)
    # Everybody may connect: what a caller may see is decided by who the kernel says it is.
    return serve(app, listen=arguments.listen, mode=0o666, grace_seconds=settings.grace_seconds)


def _show(arguments: argparse.Namespace) -> int:
    from services.usermap.client import SOCKET, UsermapClient

    with UsermapClient(arguments.address or SOCKET) as client:
        found = client.map()
    name = arguments.name
    seats = [
        seat
        for seat in found.seats()
        if name is None or seat.hostname.startswith(name) or name in [person.login for person in seat.people]
    ]
    if arguments.json:
        print_json(found if name is None else seats)
    elif seats:
        rows = [("SEAT", "ROOM", "IS", "WHO", "RUNS")]
        rows += [
            (
                seat.hostname,
                seat.room,
                seat.state.value + (", degraded" if seat.degraded else ""),
                " ".join(person.login for person in seat.people) or "-",
                (seat.version or "-") + (", old" if seat.old else ""),
            )
            for seat in seats
        ]
        table(rows)
    return int(Exit.OK if seats or name is None else Exit.MISSING)


def _check(arguments: argparse.Namespace) -> int:
    from services.common.errors import MissingError
    from services.usermap.template import Template

    try:
        content = arguments.file.read_bytes()
    except OSError as error:
        raise MissingError("map.template", f"it cannot be read: {error.strerror}", where=str(arguments.file)) from error
    template = Template.parse(content)
    print(f"{len(template.names)} seats: {' '.join(template.names)}")
    return int(Exit.OK)
