"""`backline overview`: run the service, or print what it shows."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import TYPE_CHECKING

from services.common.commands import asking_options, moment, one_line, print_json, service_options
from services.common.errors import Exit

if TYPE_CHECKING:
    from services.overview.schema import Hall

SUMMARY = "the hall at a glance: hosts, seats, channels, rollouts, and what wants attention"


def parser(prog: str) -> argparse.ArgumentParser:
    """The command line of `backline overview`."""
    root = argparse.ArgumentParser(
        prog=prog, description="The hall at a glance. Who is silent is unknown, and never taken for up."
    )
    commands = root.add_subparsers(metavar="COMMAND", required=True)

    serve = commands.add_parser("serve", parents=[service_options("overview")], help="run the service (systemd does)")
    serve.set_defaults(run=_serve)

    asking = asking_options("unix:/path or https://host of the service")
    show = commands.add_parser("show", parents=[asking], help="print it; exit code 1 when something wants attention")
    show.set_defaults(run=_show)
    return root


def _serve(arguments: argparse.Namespace) -> int:
    from services.common.access import Access, Role
    from services.common.serve import serve
    from services.common.settings import read
    from services.common.tokens import Tokens
    from services.overview.app import make_app
    from services.overview.schema import Settings
    from services.overview.watch import Watch

    settings = read(Settings, section="overview", file=arguments.config)
    access = Access(settings.access, groups={Role.ORGANIZER: settings.reader_groups}, tokens=Tokens.of_this_service())
    app = make_app(Watch(settings), access, htmx=settings.htmx)
    # Everybody may connect: what a caller may see is decided by who the kernel says it is.
    return serve(app, listen=arguments.listen, mode=0o666, grace_seconds=settings.grace_seconds)


def _show(arguments: argparse.Namespace) -> int:
    from services.overview.client import SOCKET, OverviewClient

    with OverviewClient(arguments.address or SOCKET) as client:
        hall = client.hall()
    if arguments.json:
        print_json(hall)
    else:
        for line in lines(hall):
            print(one_line(line).rstrip())
    return int(Exit.DIFFERENT if hall.faults else Exit.OK)


def lines(hall: Hall) -> Iterator[str]:
    """What people read of it."""
    yield f"{hall.name}, {moment(hall.at)}"
    for fault in hall.faults:
        yield f"! {fault.text}"
    yield "hosts"
    width = max((len(host.name) for host in hall.hosts), default=0)
    for host in hall.hosts:
        version = host.version or "no version"
        if host.published is not None and host.published != host.version:
            version += f" (published: {host.published})"
        told = f"since {moment(host.since)}: {host.why}" if host.why else version
        yield f"  {host.name:<{width}}  {host.state.value:<8} {host.role:<12} {told}"
    yield "seats: " + _counts(hall.seats)
    for room in hall.rooms:
        versions = ", ".join(f"{each.seats} run {each.version}" for each in room.versions)
        yield f"  {room.name}: {_counts(room.counts)}{'; ' + versions if versions else ''}"
    yield "channels"
    for pointer in hall.channels:
        channel = pointer.channel
        trial = (
            "" if channel.committed or channel.commit_by is None else f", on trial until {moment(channel.commit_by)}"
        )
        before = f", before: {channel.previous}" if channel.previous else ""
        yield f"  {channel.name}: {channel.current or 'nothing'}{trial}{before}"
    for rollout in hall.rollouts:
        yield f"rollout {rollout.id} of {rollout.version} on {rollout.channel}: {rollout.state} {rollout.why}"
    for each in hall.quarantines:
        yield f"in quarantine: {each.version} {each.why}"


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{number} {state}" for state, number in counts.items() if number) or "none"
