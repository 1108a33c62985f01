"""`backline dns`: run the service, make named's files before it starts, or ask what is in force."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from services.common.commands import (
    asking_options,
    moment,
    one_line,
    print_json,
    service_options,
    settings_options,
    table,
)
from services.common.errors import Exit

if TYPE_CHECKING:
    from services.dns.client import Dns
    from services.dns.schema import LeftOut, Settings

SUMMARY = "names and addresses of the hall: what BIND is given from mdb"


def parser(prog: str) -> argparse.ArgumentParser:
    """The command line of `backline dns`."""
    root = argparse.ArgumentParser(prog=prog, description="What BIND on gw is given from mdb. Asks gw's own service.")
    commands = root.add_subparsers(metavar="COMMAND", required=True)

    serve = commands.add_parser("serve", parents=[service_options("dns")], help="run the service (systemd does)")
    serve.set_defaults(run=_serve)

    prepare = commands.add_parser(
        "prepare",
        parents=[settings_options("dns")],
        help="write named.conf and zones before named starts (systemd does)",
    )
    prepare.set_defaults(run=_prepare)

    asking = asking_options("unix:/path or http://host:port of the service")

    show = commands.add_parser("show", parents=[asking], help="zones and serials, or what DNS has on a name")
    show.add_argument("name", nargs="?", metavar="NAME", help="host name, alias, whole name or address")
    show.set_defaults(run=_show)

    check = commands.add_parser("check", parents=[asking], help="say whether all that mdb knows is in force in DNS")
    check.set_defaults(run=_check)
    return root


def _settings(arguments: argparse.Namespace) -> Settings:
    from services.common.settings import read
    from services.dns.schema import Settings

    return read(Settings, section="dns", file=arguments.config)


def _serve(arguments: argparse.Namespace) -> int:
    from services.common.serve import serve
    from services.dns.app import make_app
    from services.dns.work import make_applier, make_worker

    settings = _settings(arguments)
    app = make_app(make_worker(settings, make_applier(settings)))
    # Everybody may connect: it is read-only, and tells what is in DNS anyway.
    return serve(app, listen=arguments.listen, mode=0o666, grace_seconds=settings.grace_seconds)


def _prepare(arguments: argparse.Namespace) -> int:
    from services.common import log
    from services.dns.work import forwarders, last_known, make_applier

    log.setup("backline-dns")
    settings = _settings(arguments)
    applier = make_applier(settings)
    machines = last_known(applier.folder)
    written = applier.put(machines or [], forwarders(settings, applier.layout.addresses), only_missing=machines is None)
    if (refusal := applier.refusal()) is not None:  # named starts with the last good files
        print(f"warning: {refusal}", file=sys.stderr)
    known = "no machines are known yet" if machines is None else f"{len(machines)} machines, as they were last known"
    print(f"{known}; {len(written)} zones written")
    return int(Exit.OK)


def _client(arguments: argparse.Namespace) -> Dns:
    from services.dns.client import SOCKET, Dns

    return Dns(arguments.address or SOCKET)


def _show(arguments: argparse.Namespace) -> int:
    if arguments.name is not None:
        return _lookup(arguments)
    with _client(arguments) as client:
        status = client.status()
    if arguments.json:
        print_json(status)
        return int(Exit.OK)
    since = moment(status.applied) if status.applied else "never"
    print(f"{status.state}: {status.machines} machines at revision {status.revision}, in force since {since}")
    if status.problem:
        print(f"problem: {one_line(status.problem)}")
    rows = [("ZONE", "VIEW", "SERIAL", "SERVED", "RECORDS")]
    rows += [
        (each.zone, each.view, str(each.serial or "-"), str(each.served or "-"), str(each.records))
        for each in status.zones
    ]
    table(rows)
    _left_out(status.left_out, status.left_out_total)
    return int(Exit.OK)


def _left_out(left_out: list[LeftOut], total: int) -> None:
    for each in left_out:
        print(f"left out: {one_line(each.name)} (machine {one_line(each.machine)}): {one_line(each.reason)}")
    if total > len(left_out):
        print(f"left out: {total - len(left_out)} more")


def _lookup(arguments: argparse.Namespace) -> int:
    with _client(arguments) as client:
        found = client.lookup(arguments.name)
    if arguments.json:
        print_json(found)
    else:
        for each in found.answers:
            print(f"{each.name} {each.type} {each.value} (view {each.view}, {_whose(each.machine)})")
        _left_out(found.left_out, len(found.left_out))
        if found.served is None:
            print("named does not answer")
        elif sorted(found.served) != sorted({each.value for each in found.answers if each.view == "hall"}):
            print(f"named answers {', '.join(found.served) or 'nothing'}")
    if not found.answers:
        if not arguments.json:
            print(f"{one_line(found.name)}: not in DNS")
        return int(Exit.MISSING)
    return int(Exit.OK)


def _check(arguments: argparse.Namespace) -> int:
    with _client(arguments) as client:
        status = client.status()
    good = status.state == "applied" and not status.left_out_total
    if arguments.json:
        print_json(status)
    elif good:
        print(f"all of {status.machines} machines are in DNS, at revision {status.revision}")
    else:
        if status.problem:
            print(f"not in force: {one_line(status.problem)}")
        _left_out(status.left_out, status.left_out_total)
    return int(Exit.OK if good else Exit.DIFFERENT)


def _whose(machine: str) -> str:
    return f"machine {machine}" if machine.isdigit() else machine or "of every server"
