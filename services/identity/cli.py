"""`backline identity`: run the service, or ask which users of the hall are on this machine."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from services.common.commands import asking_options, moment, one_line, print_json, service_options
from services.common.errors import Exit

if TYPE_CHECKING:
    from services.identity.schema import Status

SUMMARY = "users of the hall on this machine, from udb"


def parser(prog: str) -> argparse.ArgumentParser:
    """The command line of `backline identity`."""
    root = argparse.ArgumentParser(
        prog=prog, description="Which users of udb are on this machine. Asks this machine's own service."
    )
    commands = root.add_subparsers(metavar="COMMAND", required=True)

    serve = commands.add_parser("serve", parents=[service_options("identity")], help="run the service (systemd does)")
    serve.set_defaults(run=_serve)

    asking = asking_options("unix:/path or http://host:port of the service")
    show = commands.add_parser("show", parents=[asking], help="how many users are in force, since when, who is not")
    show.set_defaults(run=_show)
    check = commands.add_parser("check", parents=[asking], help="say whether all that udb knows is in force here")
    check.set_defaults(run=_check)
    return root


def _serve(arguments: argparse.Namespace) -> int:
    from services.common.serve import serve
    from services.common.settings import read
    from services.identity.app import make_app
    from services.identity.schema import Settings
    from services.identity.work import make_worker

    settings = read(Settings, section="identity", file=arguments.config)
    # Everybody may connect: it is read-only, and tells what is in passwd anyway.
    app = make_app(make_worker(settings))
    return serve(app, listen=arguments.listen, mode=0o666, grace_seconds=settings.grace_seconds)


def _status(arguments: argparse.Namespace) -> Status:
    from services.identity.client import SOCKET, Identity

    with Identity(arguments.address or SOCKET) as client:
        return client.status()


def _show(arguments: argparse.Namespace) -> int:
    status = _status(arguments)
    if arguments.json:
        print_json(status)
        return int(Exit.OK)
    since = moment(status.applied) if status.applied else "never"
    print(f"{status.state}: {status.users} users at revision {status.revision}, in force since {since}")
    print(f"ssh keys of root: {status.keys}")
    if status.problem:
        print(f"problem: {one_line(status.problem)}")
    _left_out(status)
    return int(Exit.OK)


def _left_out(status: Status) -> None:
    for each in status.left_out:
        print(f"left out: {one_line(each.login)} (user {one_line(each.user)}): {one_line(each.reason)}")
    if status.left_out_total > len(status.left_out):
        print(f"left out: {status.left_out_total - len(status.left_out)} more")


def _check(arguments: argparse.Namespace) -> int:
    status = _status(arguments)
    good = status.state == "applied" and not status.left_out_total
    if arguments.json:
        print_json(status)
    elif good:
        print(f"all of {status.users} users are on this machine, at revision {status.revision}")
    else:
        if status.problem:
            print(f"not in force: {one_line(status.problem)}")
        _left_out(status)
    return int(Exit.OK if good else Exit.DIFFERENT)
