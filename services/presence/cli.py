"""`backline presence`: run the service, list sessions, end one, or pretend one for development."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from services.common.commands import asking_options, moment, print_json, service_options, table
from services.common.errors import Exit

if TYPE_CHECKING:
    from services.presence.client import Presence

SUMMARY = "who is logged in where, and whether somebody may log in"


def parser(prog: str) -> argparse.ArgumentParser:
    """The command line of `backline presence`."""
    root = argparse.ArgumentParser(prog=prog, description="Who is logged in where.")
    commands = root.add_subparsers(metavar="COMMAND", required=True)

    serve = commands.add_parser("serve", parents=[service_options("presence")], help="run the service (systemd does)")
    serve.set_defaults(run=_serve)

    asking = asking_options("unix:/path or https://host of the service")
    listed = commands.add_parser("list", parents=[asking], help="who is logged in where")
    listed.set_defaults(run=_list)

    told = "end a user's session: pages and the firewall forget the user, what runs on the machine goes on"
    logout = commands.add_parser("logout", parents=[asking], help=told, description=f"{told[0].upper()}{told[1:]}.")
    logout.add_argument("login", metavar="LOGIN")
    logout.set_defaults(run=_logout)

    told = "pretend that a user is logged in on a machine, until Ctrl-C; for development, as root on gw"
    fake = commands.add_parser("fake", parents=[asking], help=told, description=f"{told[0].upper()}{told[1:]}.")
    fake.add_argument("login", metavar="LOGIN")
    fake.add_argument("host", metavar="HOST", help="a machine of mdb: id, host name, MAC or address")
    fake.add_argument("--mdb", default="unix:/run/backline/mdb.sock", metavar="ADDRESS", help="where mdb is")
    fake.add_argument("--seconds", type=float, metavar="N", help="how long; until Ctrl-C when absent")
    fake.set_defaults(run=_fake)
    return root


def _serve(arguments: argparse.Namespace) -> int:
    from services.common.access import Access, Role
    from services.common.database import Database
    from services.common.serve import serve
    from services.common.settings import read
    from services.common.tokens import Tokens
    from services.presence.app import make_app
    from services.presence.schema import Settings
    from services.presence.work import make_work

    settings = read(Settings, section="presence", file=arguments.config)
    groups = {Role.SERVICE: settings.heartbeat_groups, Role.ORGANIZER: settings.reader_groups}
    access = Access(settings.access, groups=groups, tokens=Tokens.of_this_service())
    with Database(settings.database) as database:
        # Everybody may connect: what a caller may do is decided by who the kernel says it is.
        app = make_app(make_work(database, settings), access)
        return serve(app, listen=arguments.listen, mode=0o666, grace_seconds=settings.grace_seconds)


def _client(arguments: argparse.Namespace) -> Presence:
    from services.presence.client import SOCKET, Presence

    return Presence(arguments.address or SOCKET)


def _list(arguments: argparse.Namespace) -> int:
    with _client(arguments) as client:
        found = client.sessions()
    if arguments.json:
        return print_json(found)
    rows = [("LOGIN", "MACHINE", "SINCE")]
    rows += [(each.login, each.hostname, moment(each.since)) for each in found.sessions]
    return table(rows)


def _logout(arguments: argparse.Namespace) -> int:
    with _client(arguments) as client:
        client.logout(arguments.login)
    if arguments.json:
        print("{}")
    return int(Exit.OK)


def _fake(arguments: argparse.Namespace) -> int:
    from services.presence.fake import pretend

    with _client(arguments) as client:
        return pretend(client, arguments.mdb, arguments.login, arguments.host, seconds=arguments.seconds)
