"""`backline machine`: the machines of this iron. For root, on the iron itself; no other service is needed.

With `--host`, those of another one, through its supervisor (`machine_remote`).
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from services.common.commands import json_option, print_json
from services.common.errors import Exit
from services.hostd import machine_remote

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

    where = machine_remote.arguments()
    command = commands.add_parser("list", parents=[asking, where], help="machines and how they are")
    command.set_defaults(run=_list)
    command = commands.add_parser("show", parents=[one, asking, where], help="all that is known of a machine")
    command.set_defaults(run=_show)

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

    command = commands.add_parser("start", parents=[one, where], help="start a machine, now and with the iron")
    command.set_defaults(run=_start)
    command = commands.add_parser("stop", parents=[one, where], help="stop a machine, and leave it off")
    command.set_defaults(run=_stop)

    text = "another version, with a copy of /var and a gate"
    upgrade = commands.add_parser("upgrade", parents=[one, why, where], help=text)
    upgrade.add_argument("version", nargs="?", default="", metavar="VERSION", help="the newest here when absent")
    upgrade.add_argument(
        "--gate", type=float, metavar="SECONDS", help="how long until its default target is reached (default 180)"
    )
    upgrade.add_argument(
        "--settle", type=float, metavar="SECONDS", help="how long no unit may fail from then on (default 5)"
    )
    upgrade.set_defaults(run=_upgrade)
    text = "back to the version before, also amid an upgrade"
    revert = commands.add_parser("revert", parents=[one, why, where], help=text)
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
    pull = commands.add_parser("pull", help="fetch a published version from gw's depot: verified, and gone on with")
    pull.add_argument("version", metavar="ROLE[@VERSION]", help="the newest one that was published, when absent")
    pull.add_argument("--channel", default="stable", metavar="CHANNEL", help="where it was published (default stable)")
    pull.add_argument("--depot", metavar="ADDRESS", help="https://depot.DOMAIN of hall.toml when absent")
    pull.add_argument("--certificate", type=Path, metavar="FILE", help="ours, of scope host (PEM, with its key)")
    pull.set_defaults(run=_pull)
    drop = commands.add_parser("drop-image", help="remove a version that no machine runs or can go back to")
    drop.add_argument("version", metavar="ROLE@VERSION", help="as `images` prints it")
    drop.set_defaults(run=_drop_image)

    settle = commands.add_parser("settle", parents=[one], help="bring a machine to what its record says (systemd does)")
    settle.set_defaults(run=_settle)
    ask = commands.add_parser("answer", parents=[one], help="do what the supervisor asks for (systemd does)")
    ask.set_defaults(run=_answer)
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


def _pull(arguments: argparse.Namespace) -> int:
    import tempfile

    from services.common.depot import DepotFiles
    from services.common.errors import MissingError
    from services.common.progress import Progress
    from services.common.tls import TlsSettings
    from services.hostd.hosts import CREDENTIALS
    from services.hostd.machines_images import parse
    from services.hostd.machines_pull import Puller, size_of

    role, version = parse(arguments.version)
    machines, hall = _machines(), _hall()
    if hall is None:
        raise MissingError("hall.missing", "this host does not know its hall", hint="backline host init --hall FILE")
    certificate = arguments.certificate or (CREDENTIALS if CREDENTIALS.exists() else None)
    address = arguments.depot or f"https://depot.{hall.site.domain}"
    at = None if arguments.depot else str(hall.gateway.address)
    with tempfile.NamedTemporaryFile("w", suffix=".pem") as ca:
        ca.write(hall.trust.ca)
        ca.flush()
        tls = TlsSettings(ca=Path(ca.name), certificate=certificate) if address.startswith("https:") else None
        with DepotFiles(address, tls=tls, at=at) as depot, machines.records.lock_all(wait=True):
            puller = Puller(machines.images, depot, signers=_signers(), hall=hall.site.name)
            found = puller.find(role, version, channel=arguments.channel)
            total = size_of(depot, found.ref)
            with Progress().step(f"pulling {found.ref}", total=total, unit="B") as step:
                fresh = puller.pull(found, step.advance)
    print(f"{found.ref.role}@{found.ref.version}{'' if fresh else ' is here already'}")
    return int(Exit.OK)


def _signers() -> Sequence[Signer]:
    hall = _hall()
    return [each.signer() for each in hall.trust.signers] if hall else []


def _status(machines: Machines, record: Record) -> Status:
    import msgspec

    from services.hostd.machines_iron import NotReady, Systemd
    from services.hostd.machines_seen import status

    name = record.machine.name
    state = machines.iron.state(name)
    failed: list[str] = []
    if state == "active":
        try:
            failed = [text.splitlines()[0] for text in machines.iron.failed_units(name)]
        except NotReady:
            state = "unknown"
    leader = machines.iron.leader(name) if isinstance(machines.iron, Systemd) else None
    return msgspec.structs.replace(status(record, state), leader=leader, failed_units=failed)


def _list(arguments: argparse.Namespace) -> int:
    if machine_remote.elsewhere(arguments):
        with machine_remote.connect(arguments) as client:
            found = client.machines().machines
    else:
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

    if machine_remote.elsewhere(arguments):
        with machine_remote.connect(arguments) as client:
            detail = client.machine(arguments.name)
        record, status, home = detail.record, detail.status, Path(detail.home)
    else:
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
    if machine_remote.elsewhere(arguments):
        return machine_remote.change(arguments, "start")
    machines = _machines()
    machines.want(arguments.name, "running")
    return _until_settled(machines, arguments.name)


def _stop(arguments: argparse.Namespace) -> int:
    if machine_remote.elsewhere(arguments):
        return machine_remote.change(arguments, "stop")
    machines = _machines()
    machines.want(arguments.name, "stopped")
    return _until_settled(machines, arguments.name)


def _upgrade(arguments: argparse.Namespace) -> int:
    from services.common.errors import UsageError
    from services.hostd.machines import GATE_SECONDS, SETTLE_SECONDS
    from services.hostd.machines_asking import must_run

    if machine_remote.elsewhere(arguments):
        if arguments.gate is not None or arguments.settle is not None:
            raise UsageError("machine.gate", "--gate and --settle are for the iron itself")
        return machine_remote.change(arguments, "upgrade")
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
    must_run(machines, arguments.name, to)
    return code


def _revert(arguments: argparse.Namespace) -> int:
    if machine_remote.elsewhere(arguments):
        return machine_remote.change(arguments, "revert")
    machines = _machines()
    machines.revert(arguments.name, why=arguments.why)
    return _until_settled(machines, arguments.name)


def _until_settled(machines: Machines, name: str) -> int:
    """Wait until the unit that settles a machine has done so; print how the machine is."""
    from services.hostd.machines_asking import wait_until_settled

    record = wait_until_settled(machines, name)
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


def _answer(arguments: argparse.Namespace) -> int:
    from services.hostd.machines_asking import Asks, answer, wait_until_settled

    verdict = answer(Asks(), _machines(), arguments.name, wait=wait_until_settled)
    print(f"{arguments.name}: {verdict.failure.message if verdict.failure else 'done'}")
    return int(Exit.OK)


def _boot(arguments: argparse.Namespace) -> int:  # noqa: ARG001
    machines = _machines()
    for name in machines.records.names():
        machines.iron.wake(name)
    return int(Exit.OK)
