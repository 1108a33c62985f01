"""`backline rollout`: run the service, or start, watch, pause, resume and abort rollouts."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from services.common.commands import asking_options, moment, one_line, print_json, service_options, table
from services.common.errors import Exit, MissingError, UsageError

if TYPE_CHECKING:
    from services.rollout.client import RolloutClient
    from services.rollout.schema import Rollout

SUMMARY = "a new version, ring by ring, and back when seats are not well"
WATCH_SECONDS = 1.0


def parser(prog: str) -> argparse.ArgumentParser:
    """The command line of `backline rollout`."""
    root = argparse.ArgumentParser(
        prog=prog, description="A new version goes to one seat, its row, its room and then all, or back by itself."
    )
    commands = root.add_subparsers(metavar="COMMAND", required=True)

    serve = commands.add_parser("serve", parents=[service_options("rollout")], help="run the service (systemd does)")
    serve.set_defaults(run=_serve)

    asking = asking_options("unix:/path or http://host:port of the service")

    start = commands.add_parser("start", parents=[asking], help="begin with a version")
    start.add_argument("version", metavar="VERSION")
    start.add_argument("--channel", default="stable", metavar="CHANNEL", help="stable when absent")
    start.add_argument("--why", default="", metavar="TEXT", help="for the history")
    start.add_argument("--first", metavar="HOST", help="the seat that is first; one that nobody uses when absent")
    start.add_argument(
        "--rings", default="seat,row,room,all", metavar="LIST", help="of seat, row, room and all; all four when absent"
    )
    start.add_argument("--within", type=int, default=900, metavar="SECONDS", help="the time that a ring has")
    start.add_argument("--settle", type=int, default=30, metavar="SECONDS", help="how long a seat has to be well")
    start.add_argument("--need", type=int, default=100, metavar="PERCENT", help="how many seats have to be good")
    start.add_argument("--probe", action="append", default=[], metavar="UNIT", help="a unit that has to be active")
    start.add_argument("--even-with-user", action="store_true", help="restart seats where somebody is logged in")
    start.add_argument("--lift-quarantine", action="store_true", help="also a version that is in quarantine")
    start.add_argument("--watch", action="store_true", help="show how it goes until it is over")
    start.set_defaults(run=_start)

    status = commands.add_parser("status", parents=[asking], help="how the newest rollout of a channel goes")
    _of_channel(status)
    status.add_argument("--watch", action="store_true", help="until it is over; exit code 1 unless it was kept")
    status.set_defaults(run=_status)
    commands.add_parser("list", parents=[asking], help="rollouts, the newest first").set_defaults(run=_list)
    for name, told in (
        ("pause", "hold it where it is"),
        ("resume", "go on, without seats that did not restart in time"),
        ("abort", "take it back"),
    ):
        command = commands.add_parser(name, parents=[asking], help=told)
        _of_channel(command)
        if name != "resume":
            command.add_argument("--why", default="", metavar="TEXT", help="for the history")
        command.set_defaults(run=_change, what=name)
    return root


def _of_channel(command: argparse.ArgumentParser) -> None:
    command.add_argument("channel", nargs="?", default="stable", metavar="CHANNEL", help="stable when absent")


def _serve(arguments: argparse.Namespace) -> int:
    from services.common.access import Access, Role
    from services.common.serve import serve
    from services.common.settings import read
    from services.common.tokens import Tokens
    from services.rollout.app import make_app
    from services.rollout.schema import Settings
    from services.rollout.store import Store
    from services.rollout.work import Work

    settings = read(Settings, section="rollout", file=arguments.config)
    groups = {Role.ROOT: settings.writer_groups, Role.ORGANIZER: settings.reader_groups}
    access = Access(settings.access, groups=groups, tokens=Tokens.of_this_service())
    store = Store(Path(settings.state))
    work = Work(store, netboot=settings.netboot, look_seconds=settings.look_seconds, clock=time.time)
    # Everybody may connect: what a caller may do is decided by who the kernel says it is.
    app = make_app(work, access, htmx=settings.htmx)
    return serve(app, listen=arguments.listen, mode=0o666, grace_seconds=settings.grace_seconds)


def _client(arguments: argparse.Namespace) -> RolloutClient:
    from services.rollout.client import SOCKET, RolloutClient

    return RolloutClient(arguments.address or SOCKET)


def _start(arguments: argparse.Namespace) -> int:
    import msgspec

    from services.common.codec import convert
    from services.rollout.schema import Plan

    names = ("version", "channel", "why", "first", "within", "settle", "need", "even_with_user", "lift_quarantine")
    values = {name: getattr(arguments, name) for name in names}
    values |= {"rings": [each.strip() for each in arguments.rings.split(",")], "probes": arguments.probe}
    try:
        plan = convert(values, Plan)
    except msgspec.ValidationError as error:
        message = str(error)
        raise UsageError("rollout.plan", f"{message[:1].lower()}{message[1:]}") from error
    with _client(arguments) as client:
        rollout = client.start(plan)
        if arguments.watch:
            return _watch(client, rollout.id, json=arguments.json)
    return _show(rollout, json=arguments.json)


def _newest(client: RolloutClient, channel: str) -> Rollout:
    found = client.rollouts(channel, limit=1).rollouts
    if not found:
        raise MissingError("rollout.unknown", f"{channel} has had no rollout", hint="backline rollout start VERSION")
    return found[0]


def _status(arguments: argparse.Namespace) -> int:
    with _client(arguments) as client:
        rollout = _newest(client, arguments.channel)
        if arguments.watch:
            return _watch(client, rollout.id, json=arguments.json)
    return _show(rollout, json=arguments.json)


def _watch(client: RolloutClient, id: int, *, json: bool) -> int:
    """Print what happens until it is over. Exit code 1 when the version was not kept."""
    from services.rollout.schema import OVER, Phase

    told = 0.0
    while True:
        rollout = client.rollout(id)
        for event in rollout.events:
            if event.at > told and not json:
                print(f"{moment(event.at)}  {event.text}", flush=True)
        told = rollout.events[-1].at if rollout.events else told
        if rollout.phase in OVER:
            if json:
                _show(rollout, json=True)
            return int(Exit.OK if rollout.phase is Phase.DONE else Exit.DIFFERENT)
        time.sleep(WATCH_SECONDS)


def _change(arguments: argparse.Namespace) -> int:
    with _client(arguments) as client:
        id = _newest(client, arguments.channel).id
        if arguments.what == "resume":
            rollout = client.resume(id)
        elif arguments.what == "pause":
            rollout = client.pause(id, arguments.why)
        else:
            rollout = client.abort(id, arguments.why)
    return _show(rollout, json=arguments.json)


def _list(arguments: argparse.Namespace) -> int:
    with _client(arguments) as client:
        found = client.rollouts(limit=100)
    if arguments.json:
        return print_json(found)
    rows = [("ID", "CHANNEL", "VERSION", "IS", "STARTED", "BY", "WHY")]
    rows += [
        (str(each.id), each.plan.channel, each.plan.version, _state(each), moment(each.started), each.by, each.why)
        for each in found.rollouts
    ]
    return table(rows)


def _show(rollout: Rollout, *, json: bool) -> int:
    if json:
        return print_json(rollout)
    for line in _lines(rollout):
        print(one_line(line))
    return int(Exit.OK)


def _state(rollout: Rollout) -> str:
    return "paused" if rollout.paused is not None else rollout.phase.value


def _lines(rollout: Rollout) -> Sequence[str]:
    plan = rollout.plan
    lines = [
        f"rollout {rollout.id} of {plan.version} on {plan.channel} (before: {rollout.previous}): {_state(rollout)}"
    ]
    if rollout.paused is not None:
        lines.append(f"  {rollout.paused}")
    elif rollout.why:
        lines.append(f"  {rollout.why}")
    for number, ring in enumerate(rollout.rings, start=1):
        if ring.opened is None:
            lines.append(f"  ring {number} ({ring.kind.value}): not open")
            continue
        counts: dict[str, int] = {}
        for progress in ring.seats:
            counts[progress.standing.value] = counts.get(progress.standing.value, 0) + 1
        told = ", ".join(f"{count} {name}" for name, count in counts.items()) or "no seat"
        lines.append(f"  ring {number} ({ring.kind.value}): {'good' if ring.passed else 'open'}: {told}")
        if ring.passed is None:
            lines += [f"    {each.hostname}: {each.standing.value} {each.detail}".rstrip() for each in ring.seats[:20]]
    lines += [f"  {moment(event.at)}  {event.text}" for event in rollout.events[-10:]]
    return lines
