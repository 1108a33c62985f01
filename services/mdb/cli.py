"""`backline mdb`: run the machine database, or look into it and change it."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from services.common.errors import Exit, UsageError

if TYPE_CHECKING:
    import msgspec

    from services.mdb.client import Mdb
    from services.mdb.schema import Machine

SUMMARY = "the machine database: names, addresses, servers and versions of machines"

_EDITABLE = ("hostname", "mac", "ip", "rfs", "hfs", "type", "room", "faulty_reason", "channel", "pinned", "notes")
_TYPES = ("user", "orga", "cluster", "service")


def parser(prog: str) -> argparse.ArgumentParser:
    """The command line of `backline mdb`."""
    root = argparse.ArgumentParser(
        prog=prog, description="Which machines there are. Asks this host's own mdb by default."
    )
    commands = root.add_subparsers(metavar="COMMAND", required=True)

    serve = commands.add_parser("serve", help="run the service (systemd does)")
    serve.add_argument("--listen", action="append", default=[], metavar="ADDRESS", help="unix:/path or host:port")
    serve.add_argument("--config", type=Path, metavar="FILE", help="settings; /etc/backline/mdb.toml when it exists")
    serve.set_defaults(run=_serve)

    asking = argparse.ArgumentParser(add_help=False)
    asking.add_argument("--address", metavar="ADDRESS", help="unix:/path or http://host:port of mdb")
    asking.add_argument("--json", action="store_true", help="print the answer as JSON")

    list_ = commands.add_parser("list", parents=[asking], help="machines, all or those that a query finds")
    list_.add_argument("query", nargs="*", help="words or field:value, as in 'room:pasteur -faulty:yes'")
    list_.set_defaults(run=_list)

    show = commands.add_parser("show", parents=[asking], help="one machine with its history")
    show.add_argument("machine", metavar="MACHINE", help="host name, alias, MAC, address or id")
    show.set_defaults(run=_show)

    writing = argparse.ArgumentParser(add_help=False)
    writing.add_argument("--dry-run", action="store_true", help="only say what would change")

    add = commands.add_parser("add", parents=[asking, writing], help="add a machine")
    add.add_argument("hostname", metavar="HOSTNAME")
    _fields(add, without=("hostname", "faulty_reason"))
    add.set_defaults(run=_add)

    edit = commands.add_parser("edit", parents=[asking, writing], help="change a machine")
    edit.add_argument("machine", metavar="MACHINE", help="host name, alias, MAC, address or id")
    _fields(edit)
    faulty = edit.add_mutually_exclusive_group()
    faulty.add_argument("--faulty", dest="faulty", action="store_true", default=None, help="let it boot nothing")
    faulty.add_argument("--sound", dest="faulty", action="store_false", help="let it boot again")
    edit.set_defaults(run=_edit)

    remove = commands.add_parser("rm", parents=[asking, writing], help="remove machines")
    remove.add_argument("machine", nargs="+", metavar="MACHINE", help="host name, alias, MAC, address or id")
    remove.set_defaults(run=_remove)

    pools = commands.add_parser("pools", parents=[asking], help="what is left of the addresses")
    pools.set_defaults(run=_pools)
    return root


def _fields(parser: argparse.ArgumentParser, *, without: Sequence[str] = ()) -> None:
    for name in _EDITABLE:
        if name not in without:
            option = f"--{name.replace('_', '-')}"
            if name in ("rfs", "hfs"):
                parser.add_argument(option, type=int, metavar="NUMBER")
            else:
                parser.add_argument(option, choices=_TYPES if name == "type" else None)
    parser.add_argument("--alias", dest="aliases", action="append", metavar="NAME", help="repeat for more of them")


def _serve(arguments: argparse.Namespace) -> int:
    from services.common.access import Access, Role
    from services.common.database import Database
    from services.common.serve import serve
    from services.common.settings import read
    from services.common.tokens import Tokens
    from services.mdb.app import make_app
    from services.mdb.pages.sources import sources
    from services.mdb.pools import bounds_of
    from services.mdb.schema import Settings
    from services.mdb.store import Store

    settings = read(Settings, section="mdb", file=arguments.config)
    bounds = bounds_of(settings)
    groups = {Role.ROOT: settings.writer_groups, Role.SERVICE: settings.registrar_groups}
    access = Access(settings.access, groups=groups, tokens=Tokens.of_this_service())
    with Database(settings.database) as database:
        store = Store(database, bounds, seeds=settings.seeds)
        app = make_app(store, access, htmx=settings.htmx, sources=sources(dhcp=settings.dhcp, netboot=settings.netboot))
        # Everybody may connect: what a caller may do is decided by who the kernel says it is.
        return serve(app, listen=arguments.listen, mode=0o666, grace_seconds=settings.grace_seconds)


def _client(arguments: argparse.Namespace) -> Mdb:
    from services.mdb.client import SOCKET, Mdb

    return Mdb(arguments.address or SOCKET)


def _print_json(answer: msgspec.Struct) -> int:
    from services.common.codec import encode_json

    print(encode_json(answer).decode())
    return int(Exit.OK)


def _list(arguments: argparse.Namespace) -> int:
    with _client(arguments) as client:
        found = client.machines(" ".join(arguments.query))
    if arguments.json:
        return _print_json(found)
    rows = [("HOSTNAME", "IP", "MAC", "TYPE", "ROOM", "RFS", "HFS", "BOOTS", "ALIASES")]
    rows += [
        (
            each.hostname,
            str(each.ip),
            each.mac or "-",
            each.type.value,
            each.room,
            str(each.rfs),
            str(each.hfs),
            "faulty" if each.faulty else each.pinned or each.channel,
            " ".join(each.aliases),
        )
        for each in found.machines
    ]
    _table(rows)
    return int(Exit.OK)


def _table(rows: Sequence[Sequence[str]]) -> None:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _show(arguments: argparse.Namespace) -> int:
    from services.common.codec import to_builtins

    with _client(arguments) as client:
        machine = client.machine(arguments.machine)
        history = client.audit(machine.id, limit=20)
    if arguments.json:
        return _print_json(machine)
    plain = to_builtins(machine)
    assert isinstance(plain, dict)
    for name, value in plain.items():
        if name in ("created", "updated"):
            value = _moment(value)
        shown = " ".join(value) if isinstance(value, list) else "" if value is None else str(value)
        print(f"{name:<14} {_one_line(shown)}".rstrip())
    print()
    for entry in history.entries:
        what = _difference(entry.before, entry.after)
        print(f"{_moment(entry.at)}  {entry.actor} ({entry.origin}) {entry.action.value}: {what}")
    return int(Exit.OK)


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).astimezone().isoformat(sep=" ", timespec="seconds")


def _one_line(text: str) -> str:
    """Text of others, without what could steer the terminal."""
    return "".join(char if char.isprintable() else " " for char in text)


def _difference(before: dict[str, Any] | None, after: dict[str, Any] | None) -> str:
    if before is None or after is None:
        return ", ".join(f"{name} {(after or before or {}).get(name)}" for name in ("hostname", "mac", "ip"))
    return _one_line(", ".join(f"{name} {before[name]!r} → {after[name]!r}" for name in after))


def _given(arguments: argparse.Namespace) -> dict[str, Any]:
    """The fields on the command line, as the API takes them."""
    values = {name: getattr(arguments, name, None) for name in (*_EDITABLE, "aliases", "faulty")}
    given = {name: value for name, value in values.items() if value is not None}
    if given.get("pinned") == "":
        given["pinned"] = None
    return given


def _edits(arguments: argparse.Namespace, **what: object) -> Any:
    import msgspec

    from services.common.codec import convert
    from services.mdb.schema import Edits

    try:
        return convert({**what, "dry": arguments.dry_run}, Edits)
    except msgspec.ValidationError as error:
        message = str(error).partition(" - at ")[0]
        raise UsageError("mdb.value", f"{message[:1].lower()}{message[1:]}") from error


def _add(arguments: argparse.Namespace) -> int:
    if arguments.mac is None:
        raise UsageError("mdb.value", "a machine is known by its MAC address", hint="--mac 52:54:00:12:34:56")
    edits = _edits(arguments, create=[_given(arguments)])
    with _client(arguments) as client:
        return _changed(arguments, [None], client.edit(edits))


def _edit(arguments: argparse.Namespace) -> int:
    patch = _given(arguments)
    if not patch:
        raise UsageError("mdb.value", "there is nothing to change", hint="--room alt, --faulty, --alias NAME...")
    with _client(arguments) as client:
        before = client.machine(arguments.machine)
        edits = _edits(arguments, update=[{"id": before.id, "patch": patch, "match": before.revision}])
        return _changed(arguments, [before], client.edit(edits))


def _remove(arguments: argparse.Namespace) -> int:
    with _client(arguments) as client:
        gone = [client.machine(name) for name in arguments.machine]
        edits = _edits(arguments, delete=[{"id": each.id, "match": each.revision} for each in gone])
        answer = client.edit(edits)
    if arguments.json:
        return _print_json(answer)
    for each in gone:
        print(f"{'would remove' if arguments.dry_run else 'removed'} {each.hostname} ({each.ip}, {each.mac})")
    return int(Exit.OK)


def _changed(arguments: argparse.Namespace, before: Sequence[Machine | None], answer: Any) -> int:
    from services.common.codec import to_builtins

    if arguments.json:
        return _print_json(answer)
    for old, new in zip(before, answer.machines, strict=True):
        print(f"{'would be' if arguments.dry_run else 'now'}: {new.hostname}, {new.ip}, {new.mac}")
        then, now = (to_builtins(each) if each else {} for each in (old, new))
        assert isinstance(then, dict)
        assert isinstance(now, dict)
        for name, value in now.items():
            if old is not None and value != then[name] and name not in ("revision", "updated"):
                print(f"  {name}: {_one_line(str(then[name]))} → {_one_line(str(value))}")
    return int(Exit.OK)


def _pools(arguments: argparse.Namespace) -> int:
    with _client(arguments) as client:
        found = client.pools()
    if arguments.json:
        return _print_json(found)
    rows = [("TYPE", "RANGE", "SIZE", "USED", "RESTING", "FREE")]
    for each in found.pools:
        numbers = (str(number) for number in (each.size, each.used, each.resting, each.free))
        rows.append((each.type.value, f"{each.first}-{each.last}", *numbers))  # type: ignore[arg-type]
    _table(rows)
    return int(Exit.OK)
