"""`backline netboot`: run the boot service, or say what machines boot."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from services.common.commands import asking_options, moment, one_line, print_json, service_options, table
from services.common.errors import Exit, UsageError

if TYPE_CHECKING:
    from netboot.client import Netboot
    from netboot.schema import Channel

SUMMARY = "what machines boot: versions, channels, pins, boots"


def parser(prog: str) -> argparse.ArgumentParser:
    """The command line of `backline netboot`."""
    root = argparse.ArgumentParser(
        prog=prog, description="What machines boot, and from where. Asks this host's own netboot by default."
    )
    commands = root.add_subparsers(metavar="COMMAND", required=True)

    serve = commands.add_parser("serve", parents=[service_options("netboot")], help="run the service (systemd does)")
    serve.set_defaults(run=_serve)

    asking = asking_options("unix:/path or http://host:port of netboot")

    version = commands.add_parser("version", help="versions that machines can boot").add_subparsers(
        metavar="COMMAND", required=True
    )
    version.add_parser("list", parents=[asking], help="every version").set_defaults(run=_versions)
    add = version.add_parser("add", parents=[asking], help="make a version known")
    add.add_argument("version", metavar="VERSION")
    add.add_argument("--role", default="nfsroot", metavar="ROLE", help="the image that it is a version of")
    add.add_argument("--root-hash", required=True, metavar="HEX", help="dm-verity's root hash, from its manifest")
    add.add_argument("--options", default="", metavar="WORDS", help="further words for the kernel's command line")
    add.add_argument("--size", type=int, default=0, metavar="BYTES", help="how much it is")
    add.set_defaults(run=_add_version)
    remove = version.add_parser("rm", parents=[asking], help="forget a version that nobody uses")
    remove.add_argument("version", metavar="VERSION")
    remove.set_defaults(run=_remove_version)

    commands.add_parser("holdings", parents=[asking], help="which server holds what").set_defaults(run=_holdings)
    for name, run, told in (
        ("hold", _hold, "a root file server holds a version"),
        ("release", _release, "a root file server holds a version no longer"),
    ):
        command = commands.add_parser(name, parents=[asking], help=told)
        command.add_argument("rfs", metavar="RFS", help="number of the root file server, or rfsN")
        command.add_argument("version", metavar="VERSION")
        command.set_defaults(run=run)

    channel = commands.add_parser("channel", help="the pointers of channels").add_subparsers(
        metavar="COMMAND", required=True
    )
    channel.add_parser("list", parents=[asking], help="every channel").set_defaults(run=_channels)
    moving = argparse.ArgumentParser(add_help=False)
    moving.add_argument("channel", metavar="CHANNEL")
    moving.add_argument("--why", default="", metavar="TEXT", help="for the history")
    moving.add_argument("--generation", type=int, metavar="N", help="only while the channel is at this generation")
    switch = channel.add_parser("switch", parents=[asking, moving], help="point a channel to a version")
    switch.add_argument("version", metavar="VERSION")
    switch.add_argument(
        "--commit-within", type=int, metavar="SECONDS", help="point back unless it is committed in that time"
    )
    switch.add_argument("--lift-quarantine", action="store_true", help="also when the version is in quarantine")
    switch.set_defaults(run=_switch_channel)
    channel.add_parser("commit", parents=[asking, moving], help="keep what a channel points to").set_defaults(
        run=_commit_channel
    )
    back = channel.add_parser("rollback", parents=[asking, moving], help="point to the previous version")
    back.add_argument("--quarantine", action="store_true", help="and offer the version that it pointed to no longer")
    back.set_defaults(run=_rollback_channel)
    history = channel.add_parser("history", parents=[asking], help="who moved a channel, when and why")
    history.add_argument("channel", metavar="CHANNEL")
    history.set_defaults(run=_history)

    quarantine = commands.add_parser("quarantine", help="versions that are not offered").add_subparsers(
        metavar="COMMAND", required=True
    )
    quarantine.add_parser("list", parents=[asking], help="every one, and why").set_defaults(run=_quarantines)
    put = quarantine.add_parser("add", parents=[asking], help="offer a version no longer")
    put.add_argument("version", metavar="VERSION")
    put.add_argument("--why", default="", metavar="TEXT", help="what is wrong with it")
    put.set_defaults(run=_quarantine)
    lift = quarantine.add_parser("rm", parents=[asking], help="offer it again")
    lift.add_argument("version", metavar="VERSION")
    lift.set_defaults(run=_lift_quarantine)

    commands.add_parser("pins", parents=[asking], help="pins of rooms and types").set_defaults(run=_pins)
    pin = commands.add_parser("pin", parents=[asking], help="have a room or type boot one version")
    pin.add_argument("kind", choices=("room", "type"))
    pin.add_argument("value", metavar="NAME", help="the room or type")
    pin.add_argument("version", metavar="VERSION")
    pin.add_argument("--why", default="", metavar="TEXT", help="for those who wonder")
    pin.set_defaults(run=_pin)
    unpin = commands.add_parser("unpin", parents=[asking], help="take a pin away")
    unpin.add_argument("kind", choices=("room", "type"))
    unpin.add_argument("value", metavar="NAME", help="the room or type")
    unpin.set_defaults(run=_unpin)

    boots = commands.add_parser("boots", parents=[asking], help="what machines were answered, the newest first")
    boots.add_argument("machine", nargs="?", metavar="HOST", help="host name, alias, MAC, address or id")
    boots.add_argument("--limit", type=int, default=50, metavar="N", help="at most so many")
    boots.set_defaults(run=_boots)
    logs = commands.add_parser("logs", parents=[asking], help="what failing machines sent, the newest first")
    logs.add_argument("machine", nargs="?", metavar="HOST", help="host name, alias, MAC, address or id")
    logs.add_argument("--limit", type=int, default=5, metavar="N", help="at most so many")
    logs.set_defaults(run=_logs)
    leases = commands.add_parser("leases", parents=[asking], help="which version each machine runs, if it is there")
    leases.set_defaults(run=_leases)
    off = commands.add_parser("mark-off", parents=[asking], help="end the lease of a machine that is off")
    off.add_argument("machine", metavar="HOST", help="host name, alias, MAC, address or id")
    off.set_defaults(run=_mark_off)
    commands.add_parser("aliens", parents=[asking], help="unknown machines that asked").set_defaults(run=_aliens)
    return root


def _serve(arguments: argparse.Namespace) -> int:
    from netboot.app import make_app
    from netboot.machines import Machines
    from netboot.schema import Settings
    from netboot.scripts import options_problem
    from netboot.store import Store
    from services.common.access import Access, Role
    from services.common.addresses import Range
    from services.common.database import Database
    from services.common.errors import InputError
    from services.common.feed.client import Follower
    from services.common.serve import serve
    from services.common.settings import read
    from services.common.tokens import Tokens

    settings = read(Settings, section="netboot", file=arguments.config)
    try:
        aliens = Range.parse(settings.aliens) if settings.aliens else None
    except ValueError as error:
        raise InputError("settings.invalid", f"aliens: {error}") from error
    if problem := options_problem(settings.options):
        raise InputError("settings.invalid", f"options: {problem}")
    # The thread that writes boot records holds up the loop for this long at most, and not Python's usual 5 ms.
    sys.setswitchinterval(0.001)
    machines = Machines()
    groups = {
        Role.ROOT: settings.writer_groups,
        Role.ORGANIZER: settings.reader_groups,
        Role.SERVICE: settings.publisher_groups,
    }
    access = Access(settings.access, groups=groups, tokens=Tokens.of_this_service())
    # All of mdb's topics, whichever it has: what we do not know is passed over.
    follower = Follower(settings.mdb, memory=Path(settings.memory) if settings.memory else None)
    with Database(settings.database) as database:
        app = make_app(Store(database, machines, aliens=aliens), follower, settings, access)
        # Everybody may connect: what a caller may do is decided by who the kernel says it is.
        return serve(app, listen=arguments.listen, mode=0o666, grace_seconds=settings.grace_seconds)


def _client(arguments: argparse.Namespace) -> Netboot:
    from netboot.client import SOCKET, Netboot

    return Netboot(arguments.address or SOCKET)


def _rfs(text: str) -> int:
    digits = text.removeprefix("rfs")
    if not digits.isdecimal() or len(digits) > 4:
        raise UsageError("netboot.rfs", f"{text!r} is no root file server", hint="write its number, such as 1, or rfs1")
    return int(digits)


# Versions and who holds them


def _versions(arguments: argparse.Namespace) -> int:
    with _client(arguments) as client:
        found = client.versions()
    if arguments.json:
        return print_json(found)
    rows = [("VERSION", "ROLE", "ROOT HASH", "ADDED", "OPTIONS")]
    rows += [
        (each.version, each.role, each.root_hash[:16], moment(each.added), each.options) for each in found.versions
    ]
    return table(rows)


def _add_version(arguments: argparse.Namespace) -> int:
    import msgspec

    from netboot.schema import NewVersion
    from services.common.codec import convert

    values = {name: getattr(arguments, name) for name in ("version", "role", "root_hash", "options", "size")}
    try:
        new = convert(values, NewVersion)
    except msgspec.ValidationError as error:
        message = str(error)
        raise UsageError("netboot.version", f"{message[:1].lower()}{message[1:]}") from error
    with _client(arguments) as client:
        made = client.add_version(new)
    if arguments.json:
        return print_json(made)
    print(f"{made.role} {made.version} is known")
    return int(Exit.OK)


def _remove_version(arguments: argparse.Namespace) -> int:
    with _client(arguments) as client:
        client.remove_version(arguments.version)
    if not arguments.json:
        print(f"{arguments.version} is forgotten")
    return int(Exit.OK)


def _holdings(arguments: argparse.Namespace) -> int:
    with _client(arguments) as client:
        found = client.holdings()
    if arguments.json:
        return print_json(found)
    rows = [("RFS", "VERSION", "CONFIRMED")]
    rows += [(f"rfs{each.rfs}", each.version, moment(each.confirmed_at)) for each in found.holdings]
    return table(rows)


def _hold(arguments: argparse.Namespace) -> int:
    with _client(arguments) as client:
        made = client.hold(_rfs(arguments.rfs), arguments.version)
    if arguments.json:
        return print_json(made)
    print(f"rfs{made.rfs} holds {made.version}")
    return int(Exit.OK)


def _release(arguments: argparse.Namespace) -> int:
    rfs = _rfs(arguments.rfs)
    with _client(arguments) as client:
        client.release(rfs, arguments.version)
    if not arguments.json:
        print(f"rfs{rfs} does not hold {arguments.version} any more")
    return int(Exit.OK)


# Channels


def _channels(arguments: argparse.Namespace) -> int:
    with _client(arguments) as client:
        found = client.channels()
    if arguments.json:
        return print_json(found)
    rows = [("CHANNEL", "BOOTS", "CURRENT", "PREVIOUS", "COMMITTED", "GENERATION", "CHANGED", "BY", "WHY")]
    rows += [
        (
            each.name,
            each.effective or "nothing",
            each.current or "",
            each.previous or "",
            _commitment(each),
            str(each.generation),
            moment(each.changed),
            each.changed_by,
            each.why,
        )
        for each in found.channels
    ]
    return table(rows)


def _commitment(channel: Channel) -> str:
    if channel.committed:
        return "yes"
    tried = "" if channel.only is None else f", {len(channel.only)} machines try it"
    return f"by {moment(channel.commit_by)}{tried}"


def _moved(arguments: argparse.Namespace, channel: Channel) -> int:
    if arguments.json:
        return print_json(channel)
    until = "" if channel.committed else f", to be committed by {moment(channel.commit_by)}"
    print(f"{channel.name} points to {channel.effective or 'nothing'}, generation {channel.generation}{until}")
    return int(Exit.OK)


def _switch_channel(arguments: argparse.Namespace) -> int:
    from netboot.schema import NewPointer

    new = NewPointer(
        version=arguments.version,
        why=arguments.why,
        commit_within=arguments.commit_within,
        lift_quarantine=arguments.lift_quarantine,
        generation=arguments.generation,
    )
    with _client(arguments) as client:
        return _moved(arguments, client.switch_channel(arguments.channel, new))


def _commit_channel(arguments: argparse.Namespace) -> int:
    from netboot.schema import Move

    move = Move(why=arguments.why, generation=arguments.generation)
    with _client(arguments) as client:
        return _moved(arguments, client.commit_channel(arguments.channel, move))


def _rollback_channel(arguments: argparse.Namespace) -> int:
    from netboot.schema import Rollback

    back = Rollback(why=arguments.why, generation=arguments.generation, quarantine=arguments.quarantine)
    with _client(arguments) as client:
        return _moved(arguments, client.rollback_channel(arguments.channel, back))


def _history(arguments: argparse.Namespace) -> int:
    with _client(arguments) as client:
        found = client.channel_history(arguments.channel)
    if arguments.json:
        return print_json(found)
    rows = [("WHEN", "GENERATION", "WHAT", "CURRENT", "PREVIOUS", "BY", "WHY")]
    rows += [
        (
            moment(each.at),
            str(each.generation),
            each.action.value,
            each.current or "nothing",
            each.previous or "",
            each.by,
            each.why,
        )
        for each in found.changes
    ]
    return table(rows)


# Quarantine


def _quarantines(arguments: argparse.Namespace) -> int:
    with _client(arguments) as client:
        found = client.quarantines()
    if arguments.json:
        return print_json(found)
    rows = [("VERSION", "SINCE", "BY", "WHY")]
    return table([*rows, *((each.version, moment(each.at), each.by, each.why) for each in found.quarantines)])


def _quarantine(arguments: argparse.Namespace) -> int:
    from netboot.schema import NewQuarantine

    with _client(arguments) as client:
        made = client.quarantine(arguments.version, NewQuarantine(why=arguments.why))
    if arguments.json:
        return print_json(made)
    print(f"{made.version} is not offered any more")
    return int(Exit.OK)


def _lift_quarantine(arguments: argparse.Namespace) -> int:
    with _client(arguments) as client:
        client.lift_quarantine(arguments.version)
    if not arguments.json:
        print(f"{arguments.version} is offered again")
    return int(Exit.OK)


# Pins and boots


def _pins(arguments: argparse.Namespace) -> int:
    with _client(arguments) as client:
        found = client.pins()
    if arguments.json:
        return print_json(found)
    rows = [("PIN", "OF", "VERSION", "SINCE", "BY", "WHY")]
    rows += [(each.kind.value, each.value, each.version, moment(each.at), each.by, each.why) for each in found.pins]
    return table(rows)


def _pin(arguments: argparse.Namespace) -> int:
    from netboot.schema import NewPin, PinKind

    with _client(arguments) as client:
        made = client.pin(
            PinKind(arguments.kind), arguments.value, NewPin(version=arguments.version, why=arguments.why)
        )
    if arguments.json:
        return print_json(made)
    print(f"{made.kind.value} {made.value} boots {made.version}")
    return int(Exit.OK)


def _unpin(arguments: argparse.Namespace) -> int:
    from netboot.schema import PinKind

    with _client(arguments) as client:
        client.unpin(PinKind(arguments.kind), arguments.value)
    if not arguments.json:
        print(f"{arguments.kind} {arguments.value} boots what its channels say")
    return int(Exit.OK)


def _boots(arguments: argparse.Namespace) -> int:
    with _client(arguments) as client:
        found = client.boots(arguments.machine, limit=arguments.limit)
    if arguments.json:
        return print_json(found)
    rows = [("WHEN", "HOST", "ANSWER", "VERSION", "RFS", "RULE", "STAGE", "DETAIL")]
    rows += [
        (
            moment(each.at),
            each.hostname,
            each.outcome.value,
            each.version or "",
            "" if each.rfs is None else f"rfs{each.rfs}",
            each.rule,
            each.stage.value if each.stage else "",
            each.stage_detail or each.detail,
        )
        for each in found.boots
    ]
    return table(rows)


def _leases(arguments: argparse.Namespace) -> int:
    with _client(arguments) as client:
        found = client.leases()
    if arguments.json:
        return print_json(found)
    rows = [("HOST", "IS", "VERSION", "SINCE", "LAST SIGN", "ENDS")]
    rows += [
        (
            each.hostname,
            each.state.value,
            each.version,
            moment(each.since),
            moment(each.last_sign),
            moment(each.ends),
        )
        for each in found.leases
    ]
    return table(rows)


def _mark_off(arguments: argparse.Namespace) -> int:
    with _client(arguments) as client:
        client.mark_off(arguments.machine)
    if not arguments.json:
        print(f"{arguments.machine} is off, and has no lease")
    return int(Exit.OK)


def _logs(arguments: argparse.Namespace) -> int:
    with _client(arguments) as client:
        found = client.bootlogs(arguments.machine, limit=arguments.limit)
    if arguments.json:
        return print_json(found)
    for each in found.logs:
        print(f"{moment(each.at)}  machine {each.machine}, from {each.sent_from}, boot {each.boot}")
        for line in each.text.splitlines():
            print(f"    {one_line(line)}")
    return int(Exit.OK)


def _aliens(arguments: argparse.Namespace) -> int:
    with _client(arguments) as client:
        found = client.aliens()
    if arguments.json:
        return print_json(found)
    rows = [("MAC", "ASKED FROM", "TIMES", "FIRST", "LAST")]
    rows += [
        (each.mac, each.asked_from, str(each.times), moment(each.first), moment(each.last)) for each in found.aliens
    ]
    return table(rows)
