"""`backline host`: what runs on a host of the hall, and what should; on the host itself and from another one."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from services.common.commands import json_option, moment, print_json
from services.common.errors import Exit
from services.hostd import host_init_cli

if TYPE_CHECKING:
    from services.hostd.desired import Desired
    from services.hostd.supervisor_client import Supervisor
    from services.hostd.supervisor_schema import Job

SUMMARY = "hosts: what runs, what should, and its history"
ACTIONS = ("start", "stop", "restart", "reload")


def parser(prog: str) -> argparse.ArgumentParser:
    """The command line of `backline host`."""
    text = "What runs on a host, and what should. Asks this host's own supervisor unless --host names another."
    root = argparse.ArgumentParser(prog=prog, description=text)
    commands = root.add_subparsers(metavar="COMMAND", required=True)
    host_init_cli.add_parser(commands)

    hall = argparse.ArgumentParser(add_help=False)
    hall.add_argument("--hall", type=Path, metavar="FILE", help="hall.toml; this machine's, or ./hall.toml")
    json_option(hall)
    asking = argparse.ArgumentParser(add_help=False, parents=[hall])
    asking.add_argument("--host", metavar="HOST", help="a host of hall.toml")
    asking.add_argument("--address", metavar="ADDRESS", help="unix:/path or https://host:port of a supervisor")
    asking.add_argument("--certificate", type=Path, metavar="FILE", help="ours, of scope host (PEM, with its key)")

    command = commands.add_parser("list", parents=[hall], help="every host of the hall, and whether it answers")
    command.add_argument("--seconds", type=float, default=3.0, metavar="N", help="how long to wait (default 3)")
    command.set_defaults(run=_list)

    command = commands.add_parser("show", parents=[asking], help="a host, its document in force, and what has drifted")
    command.add_argument("--document", action="store_true", help="print the document alone, to edit and apply")
    command.set_defaults(run=_show)

    command = commands.add_parser("history", parents=[asking], help="generations, with who and why")
    command.set_defaults(run=_history)

    command = commands.add_parser("units", parents=[asking], help="units and their states")
    command.add_argument("pattern", nargs="*", help="shell patterns, as in 'backline-*'")
    command.add_argument("--state", action="append", default=[], help="only units in this state, as in failed")
    command.set_defaults(run=_units)

    command = commands.add_parser("journal", parents=[asking], help="the last lines of a unit's journal")
    command.add_argument("unit", metavar="UNIT", help="as in nginx.service")
    command.add_argument("-n", "--lines", type=int, metavar="N", help="how many (default 100, at most 1000)")
    command.set_defaults(run=_journal)

    for name, help_text in (
        ("plan", "what applying a document would do"),
        ("apply", "bring a document into force, or leave the host as it was"),
    ):
        command = commands.add_parser(name, parents=[asking], help=help_text)
        command.add_argument("file", type=Path, metavar="FILE", help="the document, TOML, or JSON when named .json")
        if name == "apply":
            command.add_argument("--why", required=True, metavar="TEXT", help="for the history")
            command.add_argument(
                "--match", type=int, metavar="N", help="refuse when another generation than N is the newest"
            )
        command.set_defaults(run=_plan if name == "plan" else _apply)

    command = commands.add_parser("rollback", parents=[asking], help="bring back what was in force before")
    command.add_argument("--to", type=int, metavar="N", help="generation N instead; 0 is the empty document")
    command.add_argument("--why", default="rollback", metavar="TEXT", help="for the history")
    command.set_defaults(run=_rollback)

    command = commands.add_parser("again", parents=[asking], help="set right what has drifted from the document")
    command.set_defaults(run=_again)

    for action in ACTIONS:
        command = commands.add_parser(action, parents=[asking], help=f"{action} a unit, once")
        command.add_argument("unit", metavar="UNIT", help="as in nginx.service")
        command.set_defaults(run=_act, action=action)

    command = commands.add_parser("cancel", parents=[asking], help="end a job; what it has changed is taken back")
    command.add_argument("job", metavar="JOB", help="as `apply` prints it")
    command.set_defaults(run=_cancel)
    return root


def _connect(arguments: argparse.Namespace) -> Supervisor:
    from services.hostd import hosts
    from services.hostd.supervisor_client import SOCKET, Supervisor

    if arguments.host is not None:
        return hosts.supervisor(arguments.host, hall=arguments.hall, certificate=arguments.certificate)
    if arguments.address is not None and arguments.certificate is not None:
        from services.common.tls import TlsSettings

        return Supervisor(arguments.address, tls=TlsSettings(certificate=arguments.certificate))
    return Supervisor(arguments.address or SOCKET)


def _list(arguments: argparse.Namespace) -> int:
    from services.hostd import hosts

    found = hosts.ask_all(hosts.read_hall(arguments.hall), seconds=arguments.seconds)
    if arguments.json:
        print_json(found)
    else:
        width = max((len(host.name) for host in found.hosts), default=0)
        for host in found.hosts:
            what = host.version or "no version"
            what += f", failed: {', '.join(host.failed)}" if host.failed else ""
            print(f"{host.name:<{width}}  {host.state:<8} {host.role:<12} {host.why or what}")
    return int(Exit.OK if all(host.state == "up" for host in found.hosts) else Exit.DIFFERENT)


def _show(arguments: argparse.Namespace) -> int:
    with _connect(arguments) as client:
        force = client.desired()
        if arguments.document:
            print_json(force.desired)
            return int(Exit.OK)
        host, observed, failed = client.host(), client.observed(), client.units(state=["failed"])
    if arguments.json:
        from services.hostd.hosts import Shown

        print_json(Shown(host, force, observed, [unit.name for unit in failed.units]))
        return int(Exit.OK)
    print(f"{host.hostname}: {host.role or 'no role'}, {host.version or 'no version'} ({host.state})")
    newest = f" (the newest is {force.newest})" if force.newest != force.number else ""
    print(f"generation {force.number}{newest}" if force.number else "no generation in force")
    for name, unit in sorted(observed.units.items()):
        files = ["file"] if unit.file is not None else []
        files += [f"drop-in {key}" for key in sorted(unit.drop_ins)]
        print(f"  {name}: {unit.active}, {unit.file_state or 'no unit file'}{''.join(f', {file}' for file in files)}")
    for step in observed.drift:
        print(f"  drifted: {step}")
    if failed.units:
        print(f"failed: {', '.join(unit.name for unit in failed.units)}")
    return int(Exit.OK if not observed.drift and not failed.units else Exit.DIFFERENT)


def _history(arguments: argparse.Namespace) -> int:

    from services.hostd.cli import printable

    with _connect(arguments) as client:
        found = client.generations()
    if arguments.json:
        print_json(found)
        return int(Exit.OK)
    for each in found.generations:
        mark = "*" if each.number == found.in_force else " "
        outcome = each.outcome.value if each.outcome is not None else "never begun"
        again = f" (as {each.restores})" if each.restores is not None else ""
        print(f"{mark}{each.number:>4}  {moment(each.at)}  {outcome:<10} {each.by}: {printable(each.why)}{again}")
    return int(Exit.OK)


def _units(arguments: argparse.Namespace) -> int:
    from services.hostd.cli import print_units

    with _connect(arguments) as client:
        found = client.units(state=arguments.state, match=arguments.pattern)
    if arguments.json:
        print_json(found)
    else:
        print_units(found)
    return int(Exit.OK)


def _journal(arguments: argparse.Namespace) -> int:
    from services.hostd.cli import print_journal

    with _connect(arguments) as client:
        journal = client.journal(arguments.unit, lines=arguments.lines)
    if arguments.json:
        print_json(journal)
    else:
        print_journal(journal)
    return int(Exit.OK)


def _document(path: Path) -> Desired:
    from services.common import toml
    from services.common.codec import decode_json
    from services.common.errors import InputError
    from services.hostd.desired import Desired

    if path.suffix == ".json":
        import msgspec

        try:
            return decode_json(path.read_bytes(), Desired)
        except (OSError, msgspec.DecodeError) as error:
            raise InputError("desired.syntax", str(error), where=str(path)) from error
    return toml.decode(toml.load(path, area="desired"), Desired)


def _plan(arguments: argparse.Namespace) -> int:
    desired = _document(arguments.file)
    with _connect(arguments) as client:
        planned = client.plan(desired)
    if arguments.json:
        print_json(planned)
        return int(Exit.OK)
    for step in planned.steps:
        print(step)
    if not planned.steps:
        print("nothing to do")
    return int(Exit.OK)


def _apply(arguments: argparse.Namespace) -> int:
    desired = _document(arguments.file)
    with _connect(arguments) as client:
        expected = client.generations().newest if arguments.match is None else arguments.match
        return _follow(arguments, client, client.apply(desired, why=arguments.why, expected=expected))


def _rollback(arguments: argparse.Namespace) -> int:
    with _connect(arguments) as client:
        return _follow(arguments, client, client.rollback(why=arguments.why, to=arguments.to))


def _again(arguments: argparse.Namespace) -> int:
    with _connect(arguments) as client:
        started = client.again()
        if started.jobs:
            return _follow(arguments, client, started.jobs[0])
    if arguments.json:
        print_json(started)
    else:
        print("nothing to do")
    return int(Exit.OK)


def _act(arguments: argparse.Namespace) -> int:
    from services.hostd.supervisor_schema import Action

    with _connect(arguments) as client:
        return _follow(arguments, client, client.act(arguments.unit, Action(arguments.action)))


def _cancel(arguments: argparse.Namespace) -> int:
    with _connect(arguments) as client:
        return _follow(arguments, client, client.cancel(arguments.job), wanted="cancelled")


def _follow(arguments: argparse.Namespace, client: Supervisor, job: Job, *, wanted: str = "done") -> int:
    """Wait for a job, and say how it ended; anything but what was wanted is an exit code other than 0."""
    import sys
    import time

    from services.hostd.cli import printable

    said = None
    while job.state == "running":
        line = f"{job.done}/{job.total} {job.step or ''}".rstrip()
        if not arguments.json and line != said:
            print(f"{job.id}: {line}", file=sys.stderr)
            said = line
        job = client.wait(job.id, deadline=time.monotonic() + 5)
    if arguments.json:
        print_json(job)
        return int(Exit.OK if job.state == wanted else Exit.FAILED)
    what = f"generation {job.generation}" if job.generation is not None else f"{job.action} {job.unit}"
    print(f"{what}: {job.state}")
    if job.failure is not None:
        for line in job.failure.journal:
            print(f"  {printable(line)}", file=sys.stderr)
        print(f"error: {printable(job.failure.message)} ({job.failure.code})", file=sys.stderr)
        if job.failure.hint is not None:
            print(f"hint: {job.failure.hint}", file=sys.stderr)
    return int(Exit.OK if job.state == wanted else Exit.FAILED)
