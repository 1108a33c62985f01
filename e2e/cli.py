"""`backline lan`: a hall on this machine, to look around in, to rehearse an event, to try what breaks.

`up` owns a lab until Ctrl-C; the other verbs reach it from another terminal.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from e2e.control import LabStatus
    from e2e.lab import Lab
    from e2e.registry import Record
    from e2e.topology import Topology

SUMMARY = "a whole hall on this machine, in containers: start it, look around, break it"
HOSTD = 20210
PAGES: dict[str, tuple[int | str, ...]] = {
    "gw": ("overview", "usermap", "mdb", "udb", "rollout", "firewall", HOSTD),
    "rhfs": (HOSTD,),
    "web": (HOSTD,),
}
"""What `up` makes reachable from the host, by role."""
_DOORS = {
    "overview": "the hall at a glance: hosts, seats, what they run, what wants attention",
    "usermap": "the rooms: who sits where, which seats are free, faulty, silent",
    "mdb": "machines of the hall (mdb); change one, and DNS and DHCP follow",
    "udb": "users of the hall (udb): who logs in, and passwords to give back",
    "rollout": "rollouts, as they move",
    "firewall": "who gets out of the hall, and the switch for groups",
}


def parser(prog: str) -> argparse.ArgumentParser:
    """The command line of `backline lan`."""
    root = argparse.ArgumentParser(prog=prog, description=SUMMARY)
    verbs = root.add_subparsers(metavar="VERB", required=True)

    def add(
        name: str, run: Callable[[argparse.Namespace], int], text: str, *, lab: bool = True
    ) -> argparse.ArgumentParser:
        verb = verbs.add_parser(name, help=text, description=text)
        if lab:
            verb.add_argument("--lab", metavar="NAME", help="which lab; the only one when absent")
        verb.set_defaults(run=run)
        return verb

    up = add("up", _up, "start a hall and keep it until Ctrl-C", lab=False)
    up.add_argument("--topology", default="hall", metavar="NAME|FILE", help="hall, single or a TOML file (hall)")
    up.add_argument("--seats", type=_count, default=4, metavar="N", help="seats beside those of the topology (4)")
    up.add_argument("--name", default="", help="name of the lab (its topology's and a number)")
    up.add_argument("--hall", type=Path, metavar="FILE", help="rehearse with this hall.toml instead of a throwaway one")
    up.add_argument("--journal", type=Path, metavar="FILE", help="keep the merged journal of all machines here")
    up.add_argument(
        "--extract", action="store_true", help="run from extracted trees, as kernels before Linux 6.12 have to"
    )
    add("list", _list, "the labs on this machine", lab=False).add_argument("--json", action="store_true")
    add("status", _status, "every machine of a lab, its state, version and addresses").add_argument(
        "--json", action="store_true"
    )
    top = add("top", _top, "memory and processor time by machine")
    top.add_argument("--json", action="store_true")
    shell = add("shell", _shell, "a root shell in a machine")
    shell.add_argument("node", metavar="NODE")
    run = add("run", _run, "run a program in a machine")
    run.add_argument("node", metavar="NODE")
    run.add_argument("argv", nargs=argparse.REMAINDER, metavar="PROGRAM ...")
    admin = add("admin", _admin, "be the hall's administrator, at this machine: a shell, or a program")
    admin.add_argument("argv", nargs=argparse.REMAINDER, metavar="PROGRAM ...")
    journal = add("journal", _journal, "the merged journal of all machines")
    journal.add_argument("--file", type=Path, help="a journal that was kept, instead of a running lab's")
    journal.add_argument("--node", help="of this machine only")
    journal.add_argument("--unit", help="of this unit only")
    journal.add_argument(
        "--since", metavar="HH:MM[:SS]", help="from this time of today (UTC) on, or seconds since 1970"
    )
    journal.add_argument("--until", metavar="HH:MM[:SS]", help="up to this time")
    journal.add_argument(
        "--priority", type=int, choices=range(8), help="0 (emergency) to 7 (debug): at least that grave"
    )
    journal.add_argument("--grep", type=_regex, metavar="REGEX", help="messages with this")
    journal.add_argument("--lines", "-n", type=_count, help="only the last so many")
    journal.add_argument("--follow", "-f", action="store_true", help="go on with what comes")
    journal.add_argument("--export", action="store_true", help="systemd's Journal Export Format, with every field")
    boot = add("boot", _boot, "power on a seat, a new one if the lab has none of that name")
    boot.add_argument("seat", metavar="SEAT")
    boot.add_argument(
        "--qemu", action="store_true", help="a PXE client with a kernel of its own; takes a minute or more"
    )
    boot.add_argument("--segment", default="", help="the switch that a new seat hangs on")
    boot.add_argument("--version", default="", help="the version of nfsroot (the newest)")
    for name, text in (
        ("start", "power on"),
        ("stop", "shut down in order"),
        ("crash", "pull the plug"),
        ("freeze", "stop every process where it is"),
        ("thaw", "undo freeze"),
        ("reboot", "restart, into another version with --version"),
    ):
        power = add(name, _power, f"{text}: a machine")
        power.add_argument("node", metavar="NODE")
        power.set_defaults(action=name, version="")
        if name in ("start", "reboot"):
            power.add_argument("--version", default="", help="a version of its role")
    edge = "a card (gw:0), a trunk (server-room=room-1), or a machine for all its cards"
    cut = add("cut", _fault, "pull a cable")
    cut.add_argument("edge", metavar="EDGE", help=edge)
    cut.set_defaults(kind="cut")
    lose = add("lose", _fault, "lose a share of an edge's frames")
    lose.add_argument("edge", metavar="EDGE", help=edge)
    lose.add_argument("percent", type=float, metavar="PERCENT")
    lose.set_defaults(kind="lose")
    slow = add("slow", _fault, "limit an edge's rate, delay its frames")
    slow.add_argument("edge", metavar="EDGE", help=edge)
    slow.add_argument("--rate", type=_rate, default=0, metavar="BITS", help="bit/s, such as 10M")
    slow.add_argument("--delay", type=float, default=0.0, metavar="SECONDS", help="needs a kernel with netem")
    slow.set_defaults(kind="slow")
    heal = add("heal", _fault, "undo what is wrong with an edge, or with the whole network")
    heal.add_argument("edge", nargs="?", default="", metavar="EDGE", help=edge)
    heal.set_defaults(kind="heal")
    forward = add("forward", _forward, "make a port or a service of a machine reachable from the host, on 127.0.0.1")
    forward.add_argument("node", metavar="NODE")
    forward.add_argument(
        "door", type=_door, metavar="PORT|SERVICE", help="a TCP port, or a service of ours such as mdb, as root"
    )
    forward.add_argument("--listen", type=int, default=0, metavar="PORT", help="the host's port (a free one)")
    down = add("down", _down, "end a lab, as Ctrl-C in its terminal does", lab=False)
    down.add_argument("lab", nargs="?", metavar="NAME")
    add("clean", _clean, "remove what labs that died have left", lab=False).add_argument("--json", action="store_true")
    add("probe", _probe, "what this machine can do for a lab, and what it lacks", lab=False).add_argument(
        "--json", action="store_true"
    )
    return root


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no number of things")
    return int(text)


def _rate(text: str) -> int:
    factor = {"k": 1000, "M": 1_000_000, "G": 1_000_000_000}.get(text[-1:], 1)
    try:
        return int(float(text.rstrip("kMG")) * factor)
    except (ValueError, OverflowError):
        raise argparse.ArgumentTypeError(f"{text!r} is no rate: bit/s, such as 10M") from None


def _door(text: str) -> int | str:
    if text.isdecimal() and not 0 < int(text) < 1 << 16:
        raise argparse.ArgumentTypeError(f"{text} is no port: 1 to 65535")
    return int(text) if text.isdecimal() else text


def _regex(text: str) -> str:
    import re

    try:
        re.compile(text)
    except re.error as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no regular expression: {error}") from None
    return text


# A lab's owner


def _up(arguments: argparse.Namespace) -> int:
    from contextlib import ExitStack

    from e2e import halls, netbooted, topology
    from e2e.administrator import Administrator
    from e2e.control import ForwardRequest, serving
    from e2e.lab import Lab
    from services.common.progress import Progress

    wanted = topology.load(arguments.topology).with_seats(arguments.seats)
    progress = Progress()
    signal.signal(signal.SIGTERM, _interrupt)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # `lan up &` in a script begins with it ignored
    with ExitStack() as stack:
        lab = stack.enter_context(
            Lab(
                wanted,
                name=arguments.name,
                hall=halls.read(arguments.hall) if arguments.hall else None,
                extract=arguments.extract,
                journal=arguments.journal,
                progress=progress,
                netboot=_has_rhfs(wanted),
            )
        )
        administrator = Administrator(lab)
        if lab.netboot is not None:
            netbooted.follow(lab)
        control = stack.enter_context(serving(lab, administrator))
        try:
            _start(lab)
            administrator.open()
            administrator.begin()
            for node in lab.nodes.values():
                for door in PAGES.get(node.spec.role, ()):
                    if node.running and node.spec.hall and not node.spec.seat:
                        control.forward(ForwardRequest(node=node.name, door=door))
            print(_welcome(lab, control.status()), flush=True)
            signal.pause()
        except KeyboardInterrupt:
            print("\nstopping the lab", file=sys.stderr, flush=True)
    return 0


def _has_rhfs(wanted: Topology) -> bool:
    return bool(wanted.seats()) and any(node.role == "rhfs" and node.hall for node in wanted.nodes.values())


def _interrupt(number: int, frame: object) -> None:  # noqa: ARG001
    raise KeyboardInterrupt


def _start(lab: Lab) -> None:
    """Power everything on, with a line of progress a machine."""
    from concurrent.futures import ThreadPoolExecutor

    from e2e.node import Node

    nodes = [node for node in lab.nodes.values() if not node.spec.off]

    def follow(node: Node) -> None:
        with lab.progress.step(f"{node.name} ({node.booted.get('version') or node.spec.role})"):
            node.wait_ready(seconds=300)
            if node.spec.hall:
                node.wait_for_address()

    lab.power_on(nodes)
    with ThreadPoolExecutor(max_workers=max(1, len(nodes))) as executor:
        for _ in executor.map(follow, nodes):
            pass


def _welcome(lab: Lab, status: LabStatus) -> str:
    seat = next(iter(lab.topology.seats()), "pas-r01p01")
    pages = "\n".join(_page(*forward.split(" → ")) for forward in status.forwards)
    tries = [
        (f"shell {seat}", "be root on a seat"),
        ("journal --follow", "what all machines say, as it happens"),
        ("cut room-1=server-room", "pull the cable between the two switches; `lan heal` puts it back"),
        ("crash rhfs01", "pull a server's plug; `lan start rhfs01` powers it on again"),
        (f"boot {_next_seat(lab)}", "one seat more; with --qemu from its firmware on, in a minute or two"),
        ("run gw backline mdb list", "what gw knows; `mdb edit`, `why`, `dhcp show` and `dns show` are there, too"),
        ("run gw backline udb add zoe --generate", "a user who can log in; `udb password zoe` shows the password"),
        ("admin", "its administrator's shell: `backline publish nfsroot --channel stable`, `backline root rollback`"),
        ("top", "who uses what"),
    ]
    return f"""
The hall is up: {len(status.nodes)} machines.

{_table(status)}

Look at it from this machine:
{pages}

Try, in another terminal:
{_columns([(f"backline lan {words}", text) for words, text in tries])}

Ctrl-C stops it all and leaves nothing behind."""


def _page(address: str, place: str) -> str:
    node, _, door = place.partition(":")
    if door == str(HOSTD):
        return f"  http://{address}/v1/host   what runs on {node} (hostd)"
    return f"  http://{address}/          {_DOORS.get(door, door)}"


def _next_seat(lab: Lab) -> str:
    from e2e.topology import seat_name

    return next(name for number in range(10_000) if (name := seat_name(number)) not in lab.nodes)


# A lab's visitors


def _record(arguments: argparse.Namespace) -> Record:
    from e2e import registry

    _need_root()
    return registry.find(arguments.lab)


def _need_root() -> None:
    from services.common.errors import HostError

    if os.geteuid() != 0:
        raise HostError("lan.root", "labs belong to root", hint="use sudo")


def _list(arguments: argparse.Namespace) -> int:
    from e2e import registry

    records = [record for record in registry.labs().values() if record.alive]
    if arguments.json:
        print(json.dumps([{"name": r.name, "topology": r.topology, "process": r.owner} for r in records]))
        return 0
    for record in records:
        print(f"{record.name:<24} {record.topology:<12} process {record.owner}")
    left = registry.leftovers()
    if left:
        print(
            f"note: left behind by labs that died: {', '.join(left)}; `backline lan clean` removes it", file=sys.stderr
        )
    return 0


def _status(arguments: argparse.Namespace) -> int:
    from e2e import control

    with control.client(_record(arguments)) as client:
        status = client.send(control.status_call())
    if arguments.json:
        from services.common.codec import encode_json

        print(encode_json(status).decode())
        return 0
    print(f"{status.name}: topology {status.topology}\n\n{_table(status)}")
    for forward in status.forwards:
        print(f"reachable: {forward}")
    for edge, wrong in status.faults.items():
        print(f"wrong: {edge} {wrong}")
    return 0


def _table(status: LabStatus) -> str:
    rows = [("machine", "state", "role", "version", "addresses", "up after")]
    for node in status.nodes:
        seconds = "" if node.seconds is None else f"{node.seconds:.1f} s"
        rows.append((node.name, node.state, node.role, node.version, ", ".join(node.addresses), seconds))
    return _columns(rows)


def _columns(rows: Sequence[tuple[str, ...]]) -> str:
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def _top(arguments: argparse.Namespace) -> int:
    from e2e import control

    with control.client(_record(arguments)) as client:
        status = client.send(control.status_call())
    if arguments.json:
        print(json.dumps({node.name: {"memory": node.memory, "cpu": node.cpu} for node in status.nodes}))
        return 0
    rows = [("machine", "state", "memory", "processor")]
    for node in sorted(status.nodes, key=lambda node: -node.memory):
        rows.append((node.name, node.state, f"{node.memory / 1e6:.0f} MB", f"{node.cpu:.1f} s"))
    total = sum(node.memory for node in status.nodes)
    print(_columns(rows) + f"\n  all: {total / 1e6:.0f} MB")
    return 0


def _shell(arguments: argparse.Namespace) -> int:
    term = os.environ.get("TERM", "linux")
    return _enter(arguments, ["env", f"TERM={term}", "bash", "-l"])


def _run(arguments: argparse.Namespace) -> int:
    from services.common.errors import UsageError

    argv = arguments.argv[1:] if arguments.argv[:1] == ["--"] else arguments.argv
    if not argv:
        raise UsageError("lan.run", "run what?", hint="backline lan run NODE PROGRAM ...")
    return _enter(arguments, argv)


def _admin(arguments: argparse.Namespace) -> int:
    from e2e import control

    argv = arguments.argv[1:] if arguments.argv[:1] == ["--"] else arguments.argv
    if not argv:
        print("gw's services are here as on gw itself, and your signature counts. `exit` leaves.", file=sys.stderr)
    with control.client(_record(arguments)) as client:
        words = client.send(control.administer_call(argv or [os.environ.get("SHELL", "/bin/bash")])).argv
    return _become(words)


def _enter(arguments: argparse.Namespace, argv: list[str]) -> int:
    from e2e import control

    with control.client(_record(arguments)) as client:
        words = client.send(control.enter_call(arguments.node, argv)).argv
    return _become(words)


def _become(words: list[str]) -> int:
    sys.stdout.flush()
    os.execvp(words[0], words)


def _journal(arguments: argparse.Namespace) -> int:
    from e2e import control, journal

    if arguments.file is None:
        record = _record(arguments)
        with control.client(record) as client:
            path = Path(client.send(control.status_call()).journal)
    else:
        record, path = None, arguments.file
    how = {
        "node": arguments.node,
        "unit": arguments.unit,
        "since": _time(arguments.since),
        "until": _time(arguments.until),
        "priority": arguments.priority,
        "grep": arguments.grep,
    }

    def show(entries: list[journal.Entry]) -> None:
        for entry in entries:
            if arguments.export:
                sys.stdout.buffer.write(journal.encode(entry.fields))
            else:
                print(entry.line())
        sys.stdout.flush()

    entries = list(journal.select(journal.read(path), **how))
    show(entries[-arguments.lines :] if arguments.lines else entries)
    if arguments.follow and record is not None:
        for entry in control.follow(record):
            show(list(journal.select([entry], **how)))
    return 0


def _time(text: str | None) -> float | None:
    """A time of day (UTC, today) or seconds since 1970. Raises UsageError("lan.time")."""
    from datetime import UTC, datetime, time

    from services.common.errors import UsageError

    if text is None:
        return None
    try:
        return float(text)
    except ValueError:
        pass
    try:
        return datetime.combine(datetime.now(UTC).date(), time.fromisoformat(text), UTC).timestamp()
    except ValueError as error:
        raise UsageError("lan.time", f"{text!r} is no time", hint="such as 14:05 or 14:05:30") from error


def _boot(arguments: argparse.Namespace) -> int:
    from e2e import control

    seconds = control.EMULATED_SECONDS if arguments.qemu else control.SECONDS
    with control.client(_record(arguments), seconds=seconds) as client:
        status = client.send(control.status_call())
        known = {node.name: node for node in status.nodes}
        if arguments.seat in known:
            wanted = control.Power(action="start", version=arguments.version)
            status = client.send(control.power_call(arguments.seat, wanted))
        else:
            addition = control.Addition(
                name=arguments.seat, qemu=arguments.qemu, segment=arguments.segment, version=arguments.version
            )
            status = client.send(control.add_call(addition))
    return _show_node(status, arguments.seat)


def _show_node(status: LabStatus, name: str) -> int:
    node = next(node for node in status.nodes if node.name == name)
    after = f" after {node.seconds:.1f} s" if node.seconds is not None else ""
    print(f"{node.name}: {node.state}{after}, {node.role}/{node.version} {', '.join(node.addresses)}".rstrip())
    return 0


def _power(arguments: argparse.Namespace) -> int:
    from e2e import control

    with control.client(_record(arguments)) as client:
        wanted = control.Power(action=arguments.action, version=arguments.version)
        status = client.send(control.power_call(arguments.node, wanted))
    return _show_node(status, arguments.node)


def _fault(arguments: argparse.Namespace) -> int:
    from e2e import control

    given = vars(arguments)
    fault = control.Fault(
        kind=arguments.kind,
        edge=arguments.edge,
        percent=given.get("percent", 0.0),
        rate=given.get("rate", 0),
        delay=given.get("delay", 0.0),
    )
    with control.client(_record(arguments)) as client:
        status = client.send(control.fault_call(fault))
    for edge, wrong in status.faults.items():
        print(f"{edge}: {wrong}")
    if not status.faults:
        print("nothing is wrong with the network")
    return 0


def _forward(arguments: argparse.Namespace) -> int:
    from e2e import control

    with control.client(_record(arguments)) as client:
        wanted = control.ForwardRequest(node=arguments.node, door=arguments.door, listen=arguments.listen)
        print(client.send(control.forward_call(wanted)).address)
    return 0


def _down(arguments: argparse.Namespace) -> int:
    from e2e import registry

    record = _record(arguments)
    registry.end(record)
    registry.wait_gone(record)
    print(f"{record.name}: down")
    return 0


def _clean(arguments: argparse.Namespace) -> int:
    from e2e import registry

    _need_root()
    names = registry.clean()
    if arguments.json:
        print(json.dumps(names))
    else:
        print("\n".join(f"{name}: removed" for name in names) or "nothing was left behind")
    return 0


def _probe(arguments: argparse.Namespace) -> int:
    from e2e.capabilities import Capability, missing_text, probe

    found = probe()
    if arguments.json:
        print(
            json.dumps(
                {one.value: "yes" if one in found else found.missing.get(one, "not tried") for one in Capability}
            )
        )
        return 0
    print(f"there: {', '.join(one.value for one in Capability if one in found)}")
    if found.missing:
        print(f"missing:\n{missing_text(found)}")
    return 0
