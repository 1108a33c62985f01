"""`backline dhcp`: run the service, make Kea's configuration at boot, or ask what machines are told."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from services.common.commands import asking_options, moment, print_json, service_options, settings_options
from services.common.errors import Exit

if TYPE_CHECKING:
    from services.dhcp.client import Dhcp
    from services.dhcp.schema import Offer, Settings

SUMMARY = "addresses: what Kea tells machines, and who has a lease"


def parser(prog: str) -> argparse.ArgumentParser:
    """The command line of `backline dhcp`."""
    root = argparse.ArgumentParser(prog=prog, description="What machines are told when they ask for an address.")
    commands = root.add_subparsers(metavar="COMMAND", required=True)

    serve = commands.add_parser("serve", parents=[service_options("dhcp")], help="run the service (systemd does)")
    serve.set_defaults(run=_serve)

    prepare = commands.add_parser(
        "prepare", parents=[settings_options("dhcp")], help="make the configuration that Kea starts with (systemd does)"
    )
    prepare.set_defaults(run=_prepare)

    asking = asking_options("unix:/path or http://host:port of another service")

    show = commands.add_parser("show", parents=[asking], help="what is in force, or what a MAC address is told")
    show.add_argument("mac", nargs="?", metavar="MAC", help="as in 52:54:00:12:34:56")
    show.set_defaults(run=_show)

    leases = commands.add_parser("leases", parents=[asking], help="who has an address until when")
    leases.add_argument("mac", nargs="?", metavar="MAC", help="only those of this MAC address")
    leases.set_defaults(run=_leases)

    check = commands.add_parser(
        "check", parents=[asking], help="is everything that mdb says in force? Exit code 1 and the reasons if not"
    )
    check.set_defaults(run=_check)
    return root


def _settings(arguments: argparse.Namespace) -> Settings:
    from services.common.settings import read
    from services.dhcp.schema import Settings

    return read(Settings, section="dhcp", file=arguments.config)


def _serve(arguments: argparse.Namespace) -> int:
    from services.common.serve import serve
    from services.dhcp.app import make_app
    from services.dhcp.apply import Applier
    from services.dhcp.generations import Generations
    from services.dhcp.kea import Kea
    from services.dhcp.store import Store

    settings = _settings(arguments)
    current = Generations(settings.state).current()
    inputs = current.inputs() if current else None
    applier = Applier(settings, Kea(settings.kea))
    # Everybody may connect: nothing is secret, and nothing can be changed.
    return serve(
        make_app(Store(settings, applier, inputs)),
        listen=arguments.listen,
        mode=0o666,
        grace_seconds=settings.grace_seconds,
    )


def _prepare(arguments: argparse.Namespace) -> int:
    from services.common import log
    from services.dhcp.prepare import prepare

    log.setup("backline-dhcp-prepare")
    prepare(_settings(arguments))
    return int(Exit.OK)


def _client(arguments: argparse.Namespace) -> Dhcp:
    from services.dhcp.client import SOCKET, Dhcp

    return Dhcp(arguments.address or SOCKET)


def _show(arguments: argparse.Namespace) -> int:
    with _client(arguments) as client:
        if arguments.mac is None:
            status = client.status()
            if arguments.json:
                return print_json(status)
            since = f", since {moment(status.applied_at)}" if status.applied_at else ""
            print(f"{status.state.value}: {status.reserved} machines have an address of their own{since}")
            print(f"configuration {status.generation}, on {', '.join(status.cards.values()) or 'no card'}")
            if status.problem:
                print(f"problem: {status.problem}")
            for each in status.left_out:
                print(f"left out: {each.name}: {each.reason}")
            return int(Exit.OK)
        offer = client.offer(arguments.mac)
    if arguments.json:
        return print_json(offer)
    for name, value in _lines(offer):
        print(f"{name:<12} {value}")
    return int(Exit.OK)


def _lines(offer: Offer) -> list[tuple[str, str]]:
    """What a person wants to know of an offer, in order; what is absent is not shown."""
    boot, lease = offer.boot, offer.lease
    lines = [
        ("mac", offer.mac),
        ("standing", offer.standing.value),
        ("machine", f"{offer.hostname} (id {offer.machine})" if offer.hostname else None),
        ("reason", offer.reason),
        ("address", str(offer.ip) if offer.ip else f"one of {offer.pool}" if offer.pool else "none"),
        ("network", offer.network),
        ("router", offer.router),
        ("names", offer.dns),
        ("time", offer.ntp),
        ("domain", offer.domain),
        ("lease", f"{offer.lease_seconds} s" if offer.lease_seconds else None),
        ("BIOS", f"{boot.bios} from {offer.next_server}" if boot else None),
        ("UEFI", f"{boot.uefi} from {offer.next_server}" if boot else None),
        ("UEFI HTTP", boot.uefi_http if boot else None),
        ("iPXE", boot.ipxe if boot else None),
        ("has", f"{lease.ip} until {moment(lease.expires)}" if lease else "no lease"),
    ]
    return [(name, str(value)) for name, value in lines if value]


def _leases(arguments: argparse.Namespace) -> int:
    with _client(arguments) as client:
        found = client.leases(arguments.mac)
    if arguments.json:
        return print_json(found)
    for lease in found.leases:
        kind = lease.network if lease.known else f"{lease.network}, not reserved"
        print(f"{lease.ip!s:<15}  {lease.mac}  until {moment(lease.expires)}  {lease.hostname or '-'} ({kind})")
    return int(Exit.OK)


def _check(arguments: argparse.Namespace) -> int:
    from services.dhcp.schema import State

    with _client(arguments) as client:
        status = client.status()
    good = status.state is State.LIVE and not status.left_out
    if arguments.json:
        print_json(status)
        return int(Exit.OK if good else Exit.DIFFERENT)
    match status.state:
        case State.LIVE:
            print(f"{status.reserved} machines are in force")
        case State.WAITING:
            print("mdb has not been heard yet: Kea answers as it did last")
        case State.REFUSED | State.DOWN:
            print(f"{status.state.value}: {status.problem}")
    for each in status.left_out:
        print(f"left out: {each.name}: {each.reason}")
    return int(Exit.OK if good else Exit.DIFFERENT)
