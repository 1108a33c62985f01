"""`backline hostd`: run the service, or ask one what runs on its host."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from services.common.commands import asking_options, moment, print_json, service_options
from services.common.errors import Exit

if TYPE_CHECKING:
    from services.hostd.client import Hostd
    from services.hostd.schema import Journal, Units

SUMMARY = "what runs on a host: image version, units, journals"


def parser(prog: str) -> argparse.ArgumentParser:
    """The command line of `backline hostd`."""
    root = argparse.ArgumentParser(prog=prog, description="What runs on a host. Asks the host's own hostd by default.")
    commands = root.add_subparsers(metavar="COMMAND", required=True)

    serve = commands.add_parser("serve", parents=[service_options("hostd")], help="run the service (systemd does)")
    serve.set_defaults(run=_serve)

    supervise = commands.add_parser(
        "supervise",
        parents=[service_options("supervisor")],
        help="run the supervisor, which changes the host (systemd does)",
    )
    supervise.set_defaults(run=_supervise)

    asking = asking_options("unix:/path or http://host:port of another hostd")

    version = commands.add_parser("version", parents=[asking], help="the host's role and image version")
    version.set_defaults(run=_version)

    units = commands.add_parser("units", parents=[asking], help="units and their states")
    units.add_argument("pattern", nargs="*", help="shell patterns, as in 'backline-*'")
    units.add_argument("--state", action="append", default=[], help="only units in this state, as in failed")
    units.set_defaults(run=_units)

    journal = commands.add_parser("journal", parents=[asking], help="the last lines of a unit's journal")
    journal.add_argument("unit", metavar="UNIT", help="as in nginx.service")
    journal.add_argument("-n", "--lines", type=int, metavar="N", help="how many (default 100, at most 1000)")
    journal.set_defaults(run=_journal)
    return root


def printable(text: str) -> str:
    """Text without control characters: what a program logs must not steer the terminal of who reads it."""
    return "".join(char if char.isprintable() or char in "\n\t" else "\ufffd" for char in text)


def _serve(arguments: argparse.Namespace) -> int:
    from services.common.bus.manager import SystemdManager
    from services.common.identity import read_identity
    from services.common.serve import serve
    from services.common.settings import read
    from services.hostd.app import make_app
    from services.hostd.journal import JournalReader
    from services.hostd.schema import Settings
    from services.hostd.store import Store

    settings = read(Settings, section="hostd", file=arguments.config)
    store = Store(
        manager=SystemdManager(settings.bus),
        journal=JournalReader(seconds=settings.journal_seconds, size=settings.journal_bytes),
        identity=read_identity(),
        disks=settings.disks,
    )
    app = make_app(store, journal_groups=settings.journal_groups)
    # Everybody may connect: what a caller may see is decided by who the kernel says it is.
    return serve(app, listen=arguments.listen, mode=0o666, grace_seconds=settings.grace_seconds)


def _supervise(arguments: argparse.Namespace) -> int:
    from services.common.identity import read_identity
    from services.common.serve import serve
    from services.common.settings import read
    from services.hostd.supervisor_app import make_supervisor_app
    from services.hostd.supervisor_parts import make_store, make_supervisor, tls_of_this_host
    from services.hostd.supervisor_schema import Settings

    settings = read(Settings, section="supervisor", file=arguments.config)
    identity = read_identity()
    app = make_supervisor_app(
        make_supervisor(settings, identity),
        make_store(settings, identity),
        idle_seconds=settings.idle_seconds,
        identity=identity,
    )
    # Only root gets anything; who else connects is told so, instead of being refused without a word.
    return serve(
        app,
        listen=arguments.listen,
        mode=0o666,
        grace_seconds=settings.grace_seconds,
        tls=tls_of_this_host(settings.ca),
    )


def _client(arguments: argparse.Namespace) -> Hostd:
    from services.hostd.client import SOCKET, Hostd

    return Hostd(arguments.address or SOCKET)


def _version(arguments: argparse.Namespace) -> int:
    with _client(arguments) as client:
        host = client.host()
    if arguments.json:
        return print_json(host)
    print(f"{host.hostname}: {host.role or 'no role'}, {host.version or 'no version'} ({host.state})")
    return int(Exit.OK)


def _units(arguments: argparse.Namespace) -> int:
    with _client(arguments) as client:
        found = client.units(state=arguments.state, match=arguments.pattern)
    if arguments.json:
        return print_json(found)
    print_units(found)
    return int(Exit.OK)


def print_units(found: Units) -> None:
    """One unit a line."""
    width = max((len(unit.name) for unit in found.units), default=0)
    for unit in found.units:
        print(f"{unit.name:<{width}}  {unit.active:<12} {unit.sub:<12} {printable(unit.description)}")


def _journal(arguments: argparse.Namespace) -> int:
    with _client(arguments) as client:
        journal = client.journal(arguments.unit, lines=arguments.lines)
    if arguments.json:
        return print_json(journal)
    print_journal(journal)
    return int(Exit.OK)


def print_journal(journal: Journal) -> None:
    """One entry a line, without what could steer a terminal."""
    for entry in journal.entries:
        source = printable(entry.identifier or journal.unit)
        process = f"[{entry.pid}]" if entry.pid is not None else ""
        message = "(too long to show)" if entry.message is None else printable(entry.message)
        print(f"{moment(entry.time, timespec='milliseconds')} {source}{process}: {message}")
