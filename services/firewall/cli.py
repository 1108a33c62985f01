"""`backline firewall`: run the service, ask who gets out of the hall and why, or say which groups do."""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING

from services.common.commands import asking_options, moment, one_line, place_of, print_json, service_options, table
from services.common.errors import Exit

if TYPE_CHECKING:
    from services.firewall.client import FirewallClient
    from services.firewall.schema import FeedStanding, GroupState, GroupStates

EVENTS = "connections"
"""FileDescriptorName= of the socket on which the kernel tells of new connections."""
_GROUPS = ("user", "orga", "root")
SUMMARY = "who gets out of the hall: nftables on gw, from mdb, udb and presence"


def parser(prog: str) -> argparse.ArgumentParser:
    """The command line of `backline firewall`."""
    root = argparse.ArgumentParser(
        prog=prog,
        description="Who gets out of the hall, and why. Asks gw's own service, "
        "elsewhere the one that you are logged in to (backline login https://firewall.DOMAIN).",
    )
    commands = root.add_subparsers(metavar="COMMAND", required=True)

    serve = commands.add_parser("serve", parents=[service_options("firewall")], help="run the service (systemd does)")
    serve.set_defaults(run=_serve)

    asking = asking_options("unix:/path or http://host:port of the service")

    why = commands.add_parser(
        "why", parents=[asking], help="whether a machine gets out, and why; exit code 1 when it does not"
    )
    why.add_argument("host", metavar="HOST", help="host name, alias or address")
    why.set_defaults(run=_why)

    every = commands.add_parser("list", parents=[asking], help="machines, who sits there, and whether they get out")
    which = every.add_mutually_exclusive_group()
    which.add_argument("--allowed", action="store_true", help="only those that get out")
    which.add_argument("--refused", action="store_true", help="only those that do not")
    every.set_defaults(run=_list)

    show = commands.add_parser("show", parents=[asking], help="what is in force, counters, feeds, what is left out")
    show.set_defaults(run=_show)

    groups = commands.add_parser("groups", parents=[asking], help="which groups of users get out, and who decided")
    groups.set_defaults(run=_groups)
    for name, text in (
        ("allow", "let seats of a group of users out, whatever hall.toml says"),
        ("deny", "keep them in; what they have open ends at once"),
        ("default", "leave it to hall.toml again"),
    ):
        decide = commands.add_parser(name, parents=[asking], help=text)
        decide.add_argument("group", choices=_GROUPS, metavar="GROUP", help=" ".join(_GROUPS))
        decide.set_defaults(run=_decide, allowed={"allow": True, "deny": False}.get(name))

    history = commands.add_parser("history", parents=[asking], help="who let which group out or kept it in, and when")
    history.set_defaults(run=_history)
    return root


def _serve(arguments: argparse.Namespace) -> int:
    from services.common.access import Access, Role
    from services.common.errors import InputError
    from services.common.notify import inherited_socket
    from services.common.serve import serve
    from services.common.settings import read
    from services.common.tokens import Tokens
    from services.firewall.app import make_app
    from services.firewall.schema import Settings
    from services.firewall.work import make_worker

    settings = read(Settings, section="firewall", file=arguments.config)
    try:
        worker = make_worker(settings, inherited_socket(os.environ, EVENTS))
    except ValueError as error:
        raise InputError("settings.invalid", str(error), where=str(arguments.config or "settings")) from error
    groups = {Role.ORGANIZER: settings.organizer_groups}
    access = Access(settings.access, groups=groups, tokens=Tokens.of_this_service())
    # Everybody may connect: what a caller may see is decided by who the kernel says it is.
    app = make_app(worker, access, htmx=settings.htmx)
    return serve(app, listen=arguments.listen, mode=0o666, grace_seconds=settings.grace_seconds)


def _client(arguments: argparse.Namespace) -> FirewallClient:
    from services.firewall.client import SOCKET, FirewallClient

    return FirewallClient(place_of(arguments.address, SOCKET))


def _why(arguments: argparse.Namespace) -> int:
    with _client(arguments) as client:
        found = client.why(arguments.host)
    standing = found.standing
    if arguments.json:
        print_json(found)
        return int(Exit.OK if standing.allowed else Exit.DIFFERENT)
    verdict = "gets out" if standing.allowed else "does not get out"
    print(f"{one_line(standing.hostname)} ({standing.address}, {standing.type}) {verdict}: {one_line(standing.text)}")
    for person in standing.people:
        group = "unknown to udb" if person.group is None else f"in group {person.group.value}"
        print(f"  {one_line(person.login)} is {group}, which {'may' if person.allowed else 'may not'}")
    groups = ", ".join(group.value for group in found.allowed_groups) or "nobody"
    print(f"  groups that may: {groups}")
    if not standing.in_force:
        print("  not in force yet")
    if found.problem:
        print(f"  problem: {one_line(found.problem)}")
    for line in _stale(found.feeds):
        print(f"  {line}")
    return int(Exit.OK if standing.allowed else Exit.DIFFERENT)


def _stale(feeds: list[FeedStanding]) -> list[str]:
    return [
        f"{feed.name} has never told anything"
        if feed.revision is None
        else f"{feed.name} has been silent for {feed.silence:.0f} s: this is what it said before"
        for feed in feeds
        if feed.stale
    ]


def _list(arguments: argparse.Namespace) -> int:
    with _client(arguments) as client:
        found = client.machines()
    shown = [
        each
        for each in found.machines
        if not (arguments.allowed and not each.allowed) and not (arguments.refused and each.allowed)
    ]
    if arguments.json:
        return print_json(shown)
    rows = [("MACHINE", "ADDRESS", "WHO", "OUT", "WHY")]
    rows += [
        (
            each.hostname,
            each.address,
            " ".join(person.login for person in each.people) or "-",
            ("yes" if each.allowed else "no") + ("" if each.in_force else ", not yet"),
            each.text,
        )
        for each in shown
    ]
    return table(rows)


def _show(arguments: argparse.Namespace) -> int:
    with _client(arguments) as client:
        status = client.status()
    if arguments.json:
        return print_json(status)
    groups = ", ".join(group.value for group in status.allowed_groups) or "nobody"
    since = moment(status.applied) if status.applied else "the start of the service"
    print(f"{status.seats} seats and {status.always} others get out, in force since {since}; groups that may: {groups}")
    if status.problem:
        print(f"problem: {one_line(status.problem)}")
    for feed in status.feeds:
        revision = "nothing yet" if feed.revision is None else f"revision {feed.revision}"
        stale = ", stale" if feed.stale else ""
        print(f"{feed.name}: {revision}, heard {feed.silence:.0f} s ago{stale}")
    for name, traffic in status.counters.items():
        print(f"{name}: {traffic.packets} packets, {traffic.bytes} bytes")
    print(
        f"new connections written down: {status.connections}" + (f", LOST {status.lost} times" if status.lost else "")
    )
    for each in status.left_out:
        print(f"left out: {one_line(each.record)}: {one_line(each.reason)}")
    if status.left_out_total > len(status.left_out):
        print(f"left out: {status.left_out_total - len(status.left_out)} more")
    return int(Exit.OK)


def _groups(arguments: argparse.Namespace) -> int:
    with _client(arguments) as client:
        return _show_groups(arguments, client.groups())


def _decide(arguments: argparse.Namespace) -> int:
    from services.common.users import UserGroup

    with _client(arguments) as client:
        return _show_groups(arguments, client.decide(UserGroup(arguments.group), allowed=arguments.allowed))


def _show_groups(arguments: argparse.Namespace, found: GroupStates) -> int:
    if arguments.json:
        return print_json(found)
    rows = [("GROUP", "OUT", "SAYS", "SINCE")]
    for each in found.groups:
        since = moment(each.at) if each.decided and each.at is not None else "-"
        rows.append((each.group.value, "yes" if each.allowed else "no", _says(each), since))
    return table(rows)


def _says(state: GroupState) -> str:
    return one_line(state.by or "nobody knows who") if state.decided else "hall.toml"


def _history(arguments: argparse.Namespace) -> int:
    with _client(arguments) as client:
        found = client.audit()
    if arguments.json:
        return print_json(found)
    for entry in found.entries:
        what = "as hall.toml says" if entry.after is None else "allowed" if entry.after["allowed"] else "denied"
        print(f"{moment(entry.at)}  {one_line(entry.actor)} ({one_line(entry.origin)}) {entry.name}: {what}")
    return int(Exit.OK)
