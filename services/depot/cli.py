"""`backline depot`: run the service, or see what was published and who has it."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from services.common.commands import asking_options, gc_options, moment, one_line, print_json, service_options, table
from services.common.errors import Exit, UsageError

if TYPE_CHECKING:
    from services.common.statement import Statement
    from services.depot.client import Depot
    from services.depot.schema import Publication

SUMMARY = "published versions on gw: what there is, on which channel, who has it"


def parser(prog: str) -> argparse.ArgumentParser:
    """The command line of `backline depot`."""
    root = argparse.ArgumentParser(
        prog=prog, description="Versions that were published, and how far their receivers are. Asks gw's own depot."
    )
    commands = root.add_subparsers(metavar="COMMAND", required=True)

    serve = commands.add_parser("serve", parents=[service_options("depot")], help="run the service (systemd does)")
    serve.set_defaults(run=_serve)

    asking = asking_options("unix:/path or https://depot.DOMAIN")

    versions = commands.add_parser("versions", parents=[asking], help="versions that are here, and deltas to them")
    versions.set_defaults(run=_versions)

    history = commands.add_parser("history", parents=[asking], help="what was published, by whom and why; newest first")
    history.add_argument("channel", nargs="?", metavar="CHANNEL", help="of one channel only")
    history.add_argument("-n", "--limit", type=int, default=20, metavar="N", help="how many (default: %(default)s)")
    history.set_defaults(run=_history)

    show = commands.add_parser("show", parents=[asking], help="one publication, and how far each receiver is")
    show.add_argument("id", type=int, metavar="ID", help="its number in `history`")
    show.set_defaults(run=_show)

    collect = commands.add_parser("gc", parents=[asking, gc_options()], help="delete every version that nobody needs")
    collect.set_defaults(run=_collect)

    remove = commands.add_parser("rm", parents=[asking], help="delete a version that no channel got last")
    remove.add_argument("version", metavar="ROLE/VERSION")
    remove.set_defaults(run=_remove)
    return root


def _serve(arguments: argparse.Namespace) -> int:
    from services.common.access import Access, Role
    from services.common.database import Database
    from services.common.serve import serve
    from services.common.settings import read
    from services.common.tokens import Tokens
    from services.depot.app import make_app
    from services.depot.files import Files
    from services.depot.schema import Settings
    from services.depot.store import Store

    settings = read(Settings, section="depot", file=arguments.config)
    access = Access(settings.access, groups={Role.ROOT: settings.writer_groups}, tokens=Tokens.of_this_service())
    with Database(settings.database) as database:
        store = Store(
            database,
            Files(Path(settings.folder)),
            signers_file=Path(settings.signers),
            hall=settings.hall,
            receivers=settings.receivers,
        )
        # Everybody may connect: what a caller may do is decided by who the kernel says it is.
        app = make_app(store, settings, access)
        return serve(app, listen=arguments.listen, mode=0o666, grace_seconds=settings.grace_seconds)


def _client(arguments: argparse.Namespace) -> Depot:
    from services.depot.client import SOCKET, Depot

    return Depot(arguments.address or SOCKET)


def _versions(arguments: argparse.Namespace) -> int:
    from services.common.versions import human

    with _client(arguments) as client:
        found = client.versions()
    if arguments.json:
        return print_json(found)
    rows = [("VERSION", "SIZE", "SINCE", "DELTAS")]
    for each in found.versions:
        sizes: dict[str, int] = {}
        for delta in each.deltas:
            sizes[delta.from_version] = sizes.get(delta.from_version, 0) + (
                delta.result_bytes if delta.bytes is None else delta.bytes
            )
        deltas = ", ".join(f"{human(size)} from {old}" for old, size in sizes.items())
        pending = f" ({each.pending} to be made)" if each.pending else ""
        rows.append((f"{each.role}/{each.version}", human(each.bytes), moment(each.added), deltas + pending))
    return table(rows)


def _history(arguments: argparse.Namespace) -> int:
    with _client(arguments) as client:
        found = client.publications(arguments.channel, limit=arguments.limit)
    if arguments.json:
        return print_json(found)
    rows = [("ID", "CHANNEL", "NUMBER", "VERSION", "WHEN", "SIGNED BY", "WHY")]
    for each in found.publications:
        said = _statement(each)
        rows.append(
            (
                str(each.id),
                said.channel,
                str(said.sequence),
                f"{said.role}/{said.version}",
                moment(each.at),
                ", ".join(each.signed_by),
                said.why,
            )
        )
    return table(rows)


def _statement(publication: Publication) -> Statement:
    from services.common.statement import decode

    return decode(publication.statement)


def _show(arguments: argparse.Namespace) -> int:
    from services.common.versions import human

    with _client(arguments) as client:
        found = client.publication(arguments.id)
    if arguments.json:
        return print_json(found)
    said = _statement(found)
    print(f"{said.role}/{said.version}: number {said.sequence} of channel {said.channel}, {moment(found.at)}")
    print(one_line(f"signed by {', '.join(found.signed_by)}, brought by {found.published_by}: {said.why or '-'}"))
    rows = [("RECEIVER", "STATE", "RECEIVED", "OF FULL", "WHEN", "DETAIL")]
    words = {each.host: each for each in found.progress}
    for host in found.receivers:
        word = words.get(host)
        if word is None:
            rows.append((host, "not heard", "", "", "", ""))
        else:
            moved = f"{human(word.bytes)} of {human(word.total)}"
            rows.append((host, word.state.value, moved, human(word.full), moment(word.at), word.detail))
    return table(rows)


def _collect(arguments: argparse.Namespace) -> int:
    from services.common.collecting import gc_request, print_collected

    request = gc_request(arguments)
    with _client(arguments) as client:
        answer = client.collect(request)
    if arguments.json:
        return print_json(answer)
    return print_collected(answer, plan=arguments.plan)


def _remove(arguments: argparse.Namespace) -> int:
    role, slash, version = arguments.version.partition("/")
    if not slash:
        raise UsageError("depot.name", f"{arguments.version!r} is no version", hint="write ROLE/VERSION")
    with _client(arguments) as client:
        client.remove_version(role, version)
    return int(Exit.OK)
