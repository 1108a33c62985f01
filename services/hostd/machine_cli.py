"""`backline machine`: the machines of this iron. For root, on the iron itself; no other service is needed."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from services.common.commands import json_option, print_json
from services.common.errors import Exit

if TYPE_CHECKING:
    from collections.abc import Sequence

    from services.common.signing import Signer
    from services.hall.schema import Hall
    from services.hostd.machines import Machines
    from services.hostd.machines_schema import Card, Outcome, Record, Status

SUMMARY = "machines of this iron: role images in containers"


def parser(prog: str) -> argparse.ArgumentParser:
    """The command line of `backline machine`."""
    root = argparse.ArgumentParser(prog=prog, description="Machines of this iron: role images in containers. As root.")
    commands = root.add_subparsers(metavar="COMMAND", required=True)

    asking = argparse.ArgumentParser(add_help=False)
    json_option(asking)
    one = argparse.ArgumentParser(add_help=False)
    one.add_argument("name", metavar="NAME", help="the machine")
    why = argparse.ArgumentParser(add_help=False)
    why.add_argument("--why", default="", metavar="TEXT", help="for the machine's history")

    commands.add_parser("list", parents=[asking], help="machines and how they are").set_defaults(run=_list)
    commands.add_parser("show", parents=[one, asking], help="all that is known of a machine").set_defaults(run=_show)

    create = commands.add_parser("create", parents=[one], help="make a machine, and start it")
    create.add_argument("--role", default="", help="its image; what hall.toml says of NAME when absent")
    create.add_argument("--version", default="", help="the newest that this host holds when absent")
    create.add_argument(
        "--card",
        action="append",
        metavar="KIND:INTERFACE[,MAC]",
        help="a network card, bridge:br0 or macvlan:eno1; what hall.toml says of NAME when absent",
    )
    create.add_argument("--memory", metavar="SIZE", help="at most this much, as in 2G")
    create.add_argument("--cpus", type=float, metavar="N", help="at most this many processors, as in 1.5")
    create.add_argument("--tasks", type=int, metavar="N", help="at most this many processes and threads")
    create.add_argument(
        "--folder",
        action="append",
        default=[],
        metavar="INSIDE[=OUTSIDE]",
        help="a persistent folder beside /var, and where on the iron it is; upgrades do not copy it",
    )
    create.add_argument("--stopped", action="store_true", help="do not start it")
    create.set_defaults(run=_create)

    commands.add_parser("start", parents=[one], help="start a machine, now and with the iron").set_defaults(run=_start)
    commands.add_parser("stop", parents=[one], help="stop a machine, and leave it off").set_defaults(run=_stop)

    upgrade = commands.add_parser("upgrade", parents=[one, why], help="another version, with a copy of /var and a gate")
    upgrade.add_argument("version", nargs="?", default="", metavar="VERSION", help="the newest here when absent")
    upgrade.add_argument(
        "--gate", type=float, metavar="SECONDS", help="how long until its default target is reached (default 180)"
    )
    upgrade.add_argument(
        "--settle", type=float, metavar="SECONDS", help="how long no unit may fail from then on (default 5)"
    )
    upgrade.set_defaults(run=_upgrade)
    revert = commands.add_parser("revert", parents=[one, why], help="back to the version before, also amid an upgrade")
    revert.set_defaults(run=_revert)

    commands.add_parser(
        "rm", parents=[one], help="take a stopped machine away; its folders are set aside"
    ).set_defaults(run=_rm)
    forget = commands.add_parser("forget", parents=[one], help="throw away a /var that was kept aside")
    forget.add_argument("var", metavar="VAR", help="as `show` names it: var-2")
    forget.set_defaults(run=_forget)

    credential = commands.add_parser(
        "credential", parents=[one], help="give a machine a secret of its own, from standard input or a file"
    )
    credential.add_argument("credential", metavar="CREDENTIAL", help="its name, as in backline.tls")
    credential.add_argument("file", nargs="?", type=Path, metavar="FILE", help="standard input when absent")
    credential.set_defaults(run=_credential)

    commands.add_parser("images", parents=[asking], help="versions that this host holds").set_defaults(run=_images)
    take = commands.add_parser("import", help="take in a version: check its signature and hashes, and keep it")
    take.add_argument("folder", type=Path, metavar="FOLDER", help="a version's folder, as the store has it")
    take.add_argument("--unsigned", action="store_true", help="take it though nobody whom the hall trusts signed it")
    take.set_defaults(run=_import)
    drop = commands.add_parser("drop-image", help="remove a version that no machine runs or can go back to")
    drop.add_argument("version", metavar="ROLE@VERSION", help="as `images` prints it")
    drop.set_defaults(run=_drop_image)

    settle = commands.add_parser("settle", parents=[one], help="bring a machine to what its record says (systemd does)")
    settle.set_defaults(run=_settle)
    commands.add_parser("boot", help="start all machines (systemd does)").set_defaults(run=_boot)
    return root


def _machines() -> Machines:
    import os

    from services.common.errors import HostError
    from services.hostd.machines import Machines
    from services.hostd.machines_iron import Systemd

    if os.geteuid() != 0:
        raise HostError("machine.root", "machines are root's business", hint="use sudo")
    return Machines(Systemd())


def _hall() -> Hall | None:
    """What this iron was told of the hall."""
    from services.common import toml
    from services.hall.schema import Hall
    from services.hostd.machines import CREDENTIALS

    path = CREDENTIALS / "backline.hall"
    return toml.decode(toml.load(path, area="hall"), Hall) if path.exists() else None


def _signers() -> Sequence[Signer]:
    hall = _hall()
    return [each.signer() for each in hall.trust.signers] if hall else []


def _status(machines: Machines, record: Record) -> Status:
    from services.hostd.machines_iron import NotReady, Systemd
    from services.hostd.machines_schema import Status

    name = record.machine.name
    state = machines.iron.state(name)
    failed: list[str] = []
    if state == "active":
        try:
            failed = [text.splitlines()[0] for text in machines.iron.failed_units(name)]
        except NotReady:
            state = "unknown"
    return Status(
        name=name,
        role=record.machine.role,
        version=record.running.version,
        state=state,
        wanted=record.wanted,
        previous=record.previous.version if record.previous else "",
        change=f"to {record.change.to.version}: {record.change.step.value}" if record.change else "",
        leader=machines.iron.leader(name) if isinstance(machines.iron, Systemd) else None,
        failed_units=failed,
    )


def _list(arguments: argparse.Namespace) -> int:
    machines = _machines()
    found = [_status(machines, machines.records.load(name)) for name in machines.records.names()]
    if arguments.json:
        return print_json(found)
    for each in found:
        notes = [each.change, f"{len(each.failed_units)} failed units" if each.failed_units else ""]
        text = ", ".join(note for note in notes if note)
        print(f"{each.name:<15} {each.role:<10} {each.version}  {each.state:<10} {text}".rstrip())
    return int(Exit.OK)


def _show(arguments: argparse.Namespace) -> int:
    from services.common.codec import to_builtins

    machines = _machines()
    record = machines.records.load(arguments.name)
    status = _status(machines, record)
    home = machines.records.home(arguments.name)
    if arguments.json:
        return print_json({"record": to_builtins(record), "status": to_builtins(status), "home": str(home)})
    machine, limits = record.machine, record.machine.resources
    cards = [f"host{n}: {card.kind} on {card.on}" for n, card in enumerate(machine.network)]
    bounds = [("memory", limits.memory), ("cpus", limits.cpus), ("tasks", limits.tasks)]
    lines = [
        ("machine", f"{machine.name}, {machine.role} {status.version}"),
        ("state", f"{status.state}, wanted: {record.wanted}"),
        ("upgrade", f"{status.change} {record.change.failure}".rstrip() if record.change else ""),
        ("failed", ", ".join(status.failed_units)),
        ("goes back to", status.previous),
        ("network", "; ".join(cards) or "none"),
        ("at most", ", ".join(f"{value} {key}" for key, value in bounds if value is not None)),
        ("/var", str(home / record.running.var)),
        *[(inside, outside) for inside, outside in machine.folders.items()],
        *[("kept", f"{home / kept.var}: {kept.why} ({kept.since})") for kept in record.kept],
        *[("history", _sentence(outcome)) for outcome in record.history],
    ]
    for key, value in lines:
        if value:
            print(f"{key:<12} {value}")
    return int(Exit.OK)


def _sentence(outcome: Outcome) -> str:
    before = {"upgraded": f" from {outcome.before}", "reverted": f", away from {outcome.before}"}.get(outcome.kind, "")
    detail = f": {outcome.detail}" if outcome.detail else ""
    return f"{outcome.at} {outcome.kind} {outcome.version}{before}{detail}"


def _card(text: str) -> Card:
    import msgspec

    from services.common.errors import UsageError
    from services.hostd.machines_schema import Card

    kind, _, rest = text.partition(":")
    on, _, mac = rest.partition(",")
    try:
        return msgspec.convert({"kind": kind, "on": on, **({"mac": mac.lower()} if mac else {})}, Card)
    except msgspec.ValidationError as error:
        raise UsageError("machine.card", f"{text!r} is no card: {error}", hint="as in bridge:br0") from error


def _create(arguments: argparse.Namespace) -> int:
    import msgspec

    from services.common.errors import InputError, UsageError
    from services.hostd.machines_hall import cards
    from services.hostd.machines_schema import Resources

    machines = _machines()
    hall = _hall()
    host = hall.hosts.get(arguments.name) if hall else None
    role = arguments.role or (host.role if host else "")
    if not role:
        raise UsageError("machine.role", f"hall.toml does not know {arguments.name}", hint="name its image: --role")
    network = cards(host) if arguments.card is None and host else [_card(text) for text in arguments.card or []]
    limits = {"memory": arguments.memory, "cpus": arguments.cpus, "tasks": arguments.tasks}
    try:
        resources = msgspec.convert({key: value for key, value in limits.items() if value is not None}, Resources)
    except msgspec.ValidationError as error:
        raise InputError("machine.invalid", f"no machine can be like this: {error}") from error
    folders = {}
    for text in arguments.folder:
        inside, _, outside = text.partition("=")
        default = machines.records.base / "folders" / arguments.name / inside.strip("/").replace("/", "-")
        folders[inside] = outside or str(default)
    machines.create(
        arguments.name,
        role,
        version=arguments.version,
        network=network,
        resources=resources,
        folders=folders,
        wanted="stopped" if arguments.stopped else "running",
    )
    return _until_settled(machines, arguments.name)


def _start(arguments: argparse.Namespace) -> int:
    machines = _machines()
    machines.want(arguments.name, "running")
    return _until_settled(machines, arguments.name)


def _stop(arguments: argparse.Namespace) -> int:
    machines = _machines()
    machines.want(arguments.name, "stopped")
    return _until_settled(machines, arguments.name)


def _upgrade(arguments: argparse.Namespace) -> int:
    from services.hostd.machines import GATE_SECONDS, SETTLE_SECONDS, MachineFailed

    machines = _machines()
    planned = machines.plan_upgrade(
        arguments.name,
        arguments.version,
        why=arguments.why,
        gate_seconds=GATE_SECONDS if arguments.gate is None else arguments.gate,
        settle_seconds=SETTLE_SECONDS if arguments.settle is None else arguments.settle,
    )
    assert planned.change is not None
    to = planned.change.to.version
    print(f"{arguments.name}: {planned.current.version} -> {to}", file=sys.stderr)
    code = _until_settled(machines, arguments.name)
    record = machines.records.load(arguments.name)
    if record.current.version != to:
        outcome = record.history[-1]
        aside = (
            f"; what it wrote is kept in {machines.records.home(arguments.name) / outcome.kept}" if outcome.kept else ""
        )
        raise MachineFailed(
            "machine.reverted",
            f"{arguments.name} runs {record.current.version} again: {outcome.detail}",
            hint=f"`backline machine show {arguments.name}`{aside}",
        )
    return code


def _revert(arguments: argparse.Namespace) -> int:
    machines = _machines()
    machines.revert(arguments.name, why=arguments.why)
    return _until_settled(machines, arguments.name)


def _until_settled(machines: Machines, name: str) -> int:
    """Wait until the unit that settles a machine has done so; print how the machine is."""
    from services.common.process import run
    from services.hostd.machines import MachineFailed
    from services.hostd.machines_iron import SETTLING

    unit = SETTLING.format(name=name)
    while True:
        # Joins the run that is under way, or begins one: so it is not missed either way.
        done = run(["systemctl", "start", unit], check=False)
        record = machines.records.load(name)
        if done.returncode == 0 and record.change is None:
            break
        if done.returncode == 0:
            continue
        shown = run(["systemctl", "show", "--property=ActiveState", "--value", unit], check=False).stdout.strip()
        if shown != "activating":  # else it was killed, and is about to be started again
            argv = ["journalctl", "--unit", unit, "--lines=6", "--output=cat", "--no-pager", "--quiet"]
            tail = run(argv, check=False).stdout.strip() or done.stderr.strip()
            raise MachineFailed(
                "machine.start", f"{name} is not as it should be\n{tail}", hint=f"`journalctl -u {unit}` has more"
            )
    print(f"{name}: {record.machine.role} {record.current.version}, {machines.iron.state(name)}")
    return int(Exit.OK)


def _rm(arguments: argparse.Namespace) -> int:
    place = _machines().remove(arguments.name)
    print(f"{arguments.name} is no machine any more; its folders are in {place}, its secrets where they were")
    return int(Exit.OK)


def _forget(arguments: argparse.Namespace) -> int:
    _machines().forget(arguments.name, arguments.var)
    return int(Exit.OK)


def _credential(arguments: argparse.Namespace) -> int:
    machines = _machines()
    machines.records.load(arguments.name)
    data = arguments.file.read_bytes() if arguments.file else sys.stdin.buffer.read()
    path = machines.add_credential(arguments.name, arguments.credential, data)
    print(f"{path}: given to {arguments.name} from its next start on")
    return int(Exit.OK)


def _images(arguments: argparse.Namespace) -> int:
    machines = _machines()
    used = machines.used()
    found = [
        {"role": role, "version": version, "used": (role, version) in used}
        for role in machines.images.roles()
        for version in machines.images.versions(role)
    ]
    if arguments.json:
        return print_json(found)
    for each in found:
        print(f"{each['role']}@{each['version']}{'  in use' if each['used'] else ''}")
    return int(Exit.OK)


def _import(arguments: argparse.Namespace) -> int:
    from services.common.progress import Progress

    machines = _machines()
    size = (arguments.folder / "root.erofs").stat().st_size
    progress = Progress().step(f"taking in {arguments.folder.name}", total=size, unit="B")
    with machines.records.lock_all(wait=True), progress as step:
        role, version = machines.images.take_in(
            arguments.folder, _signers(), unsigned=arguments.unsigned, told=step.advance
        )
    print(f"{role}@{version}")
    return int(Exit.OK)


def _drop_image(arguments: argparse.Namespace) -> int:
    from services.hostd.machines_images import parse

    role, version = parse(arguments.version)
    _machines().drop_image(role, version)
    return int(Exit.OK)


def _settle(arguments: argparse.Namespace) -> int:
    record = _machines().settle(arguments.name)
    print(f"{arguments.name}: {record.machine.role} {record.current.version}, wanted: {record.wanted}")
    return int(Exit.OK)


def _boot(arguments: argparse.Namespace) -> int:  # noqa: ARG001
    machines = _machines()
    for name in machines.records.names():
        machines.iron.wake(name)
    return int(Exit.OK)
