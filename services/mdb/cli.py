"""`backline mdb`: run the machine database, or look into it and change it. What the verbs do is in `commands`."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Callable, Sequence
from pathlib import Path

from services.common.commands import asking_options, service_options

SUMMARY = "the machine database: names, addresses, servers and versions of machines"

_EDITABLE = ("hostname", "mac", "ip", "rfs", "hfs", "type", "room", "faulty_reason", "channel", "pinned", "notes")
_TYPES = ("user", "orga", "cluster", "service")
_FORMATS = ("csv", "json", "yaml")
_MACHINES = "host names, ranges such as pas-r[01-08]p[01-12], MACs, addresses, ids; or field:value words of a query"


def parser(prog: str) -> argparse.ArgumentParser:
    """The command line of `backline mdb`."""
    root = argparse.ArgumentParser(
        prog=prog,
        description="Which machines there are. Asks this host's own mdb by default, elsewhere "
        "the one that you are logged in to (backline login https://mdb.DOMAIN).",
    )
    commands = root.add_subparsers(metavar="COMMAND", required=True)

    serve = commands.add_parser("serve", parents=[service_options("mdb")], help="run the service (systemd does)")
    serve.set_defaults(run=_serve)

    asking = asking_options("unix:/path or http://host:port of mdb")
    writing = argparse.ArgumentParser(add_help=False)
    writing.add_argument("--dry-run", action="store_true", help="only say what would change")

    list_ = commands.add_parser("list", parents=[asking], help="machines, all or those that a query finds")
    list_.add_argument("query", nargs="*", help="words, ranges or field:value, as in 'room:pasteur -faulty:yes'")
    list_.set_defaults(run=_verb("machines", "list_"))

    show = commands.add_parser("show", parents=[asking], help="one machine with its history")
    show.add_argument("machine", metavar="MACHINE", help="host name, alias, MAC, address or id")
    show.set_defaults(run=_verb("machines", "show"))

    add = commands.add_parser("add", parents=[asking, writing], help="add a machine")
    add.add_argument("hostname", metavar="HOSTNAME")
    _fields(add, without=("hostname", "faulty_reason"))
    add.set_defaults(run=_verb("machines", "add"))

    edit = commands.add_parser("edit", parents=[asking, writing], help="change machines")
    edit.add_argument("machine", nargs="+", metavar="MACHINE", help=_MACHINES)
    _fields(edit)
    faulty = edit.add_mutually_exclusive_group()
    faulty.add_argument("--faulty", dest="faulty", action="store_true", default=None, help="let it boot nothing")
    faulty.add_argument("--sound", dest="faulty", action="store_false", help="let it boot again")
    edit.set_defaults(run=_verb("machines", "edit"))

    remove = commands.add_parser("rm", parents=[asking, writing], help="remove machines")
    remove.add_argument("machine", nargs="+", metavar="MACHINE", help=_MACHINES)
    remove.add_argument("--yes", action="store_true", help="also when a range or query means several")
    remove.set_defaults(run=_verb("machines", "remove"))

    take = commands.add_parser("import", parents=[asking, writing], help="take machines from a table, all or none")
    take.add_argument("file", type=Path, metavar="FILE", help="CSV, JSON or YAML; - is standard input")
    take.add_argument("--format", choices=_FORMATS, help="what it is, where its name does not say so")
    take.set_defaults(run=_verb("tables", "take"))

    export = commands.add_parser("export", parents=[asking], help="write machines as a table that import takes back")
    export.add_argument("query", nargs="*", help="as for list")
    export.add_argument("--format", choices=_FORMATS, help="csv, unless the name of the file says something else")
    export.add_argument("--output", type=Path, metavar="FILE", help="standard output when absent")
    export.set_defaults(run=_verb("tables", "export"))

    pssh = commands.add_parser("pssh", parents=[asking], help="run a command on many machines through ssh")
    pssh.add_argument("machines", metavar="MACHINES", help=f"one word: {_MACHINES}")
    pssh.add_argument("command", nargs=argparse.REMAINDER, metavar="-- COMMAND", help="the command and its arguments")
    pssh.add_argument("--user", default="root", metavar="NAME", help="who to be there; root")
    pssh.add_argument("--port", type=int, default=22, metavar="PORT", help="of sshd; 22")
    pssh.add_argument("--jobs", type=_count, default=32, metavar="NUMBER", help="so many at a time; 32")
    pssh.add_argument("--timeout", type=_seconds, default=60.0, metavar="SECONDS", help="for one machine; 60")
    pssh.add_argument("--connect-timeout", type=_count, default=5, metavar="SECONDS", help="to reach it; 5")
    pssh.add_argument(
        "--known-hosts",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="host keys by name, these alone; else those that seats told netboot, and the user's own",
    )
    pssh.add_argument("--netboot", metavar="ADDRESS", help="netboot, which knows the seats' host keys; this host's own")
    pssh.add_argument("--identity", type=Path, metavar="FILE", help="private key; else the agent's and the usual ones")
    pssh.set_defaults(run=_verb("ssh", "pssh"))

    code = commands.add_parser("code", parents=[asking], help="a one-time code with which a machine registers again")
    code.add_argument("machine", metavar="MACHINE", help="host name, alias, MAC, address or id")
    code.set_defaults(run=_verb("machines", "code"))

    pools = commands.add_parser("pools", parents=[asking], help="what is left of the addresses")
    pools.set_defaults(run=_verb("machines", "pools"))

    _switches(commands.add_parser("switch", help="switches, by which machines find their servers"), asking)
    _settings(commands.add_parser("setting", help="what is allowed now"), asking)
    return root


def _switches(switch: argparse.ArgumentParser, asking: argparse.ArgumentParser) -> None:
    verbs = switch.add_subparsers(metavar="VERB", required=True)
    list_ = verbs.add_parser("list", parents=[asking], help="every switch")
    list_.set_defaults(run=_verb("hall", "switch_list"))
    fields = argparse.ArgumentParser(add_help=False)
    fields.add_argument("--room", help="room of what is plugged into it")
    fields.add_argument("--rfs", type=int, metavar="NUMBER", help="nearest root file server")
    fields.add_argument("--hfs", type=int, metavar="NUMBER", help="nearest home file server")
    add = verbs.add_parser("add", parents=[asking, fields], help="add a switch")
    add.add_argument("name", metavar="NAME")
    add.add_argument("chassis", metavar="CHASSIS", help="the chassis id that it sends in LLDP, a MAC address")
    add.set_defaults(run=_verb("hall", "switch_add"))
    edit = verbs.add_parser("edit", parents=[asking, fields], help="change a switch")
    edit.add_argument("switch", metavar="SWITCH", help="name, chassis id or id")
    edit.add_argument("--name")
    edit.add_argument("--chassis")
    edit.set_defaults(run=_verb("hall", "switch_edit"))
    remove = verbs.add_parser("rm", parents=[asking], help="remove a switch")
    remove.add_argument("switch", metavar="SWITCH", help="name, chassis id or id")
    remove.set_defaults(run=_verb("hall", "switch_remove"))


def _settings(setting: argparse.ArgumentParser, asking: argparse.ArgumentParser) -> None:
    verbs = setting.add_subparsers(metavar="VERB", required=True)
    list_ = verbs.add_parser("list", parents=[asking], help="every setting with its value")
    list_.set_defaults(run=_verb("hall", "setting_list"))
    set_ = verbs.add_parser("set", parents=[asking], help="change a setting")
    set_.add_argument("key", metavar="SETTING")
    set_.add_argument("value", metavar="VALUE", help="yes, no, a number or a text")
    set_.set_defaults(run=_verb("hall", "setting_set"))
    history = verbs.add_parser("history", parents=[asking], help="who set it, when and from where")
    history.add_argument("key", metavar="SETTING")
    history.set_defaults(run=_verb("hall", "setting_history"))


def _verb(module: str, name: str) -> Callable[[argparse.Namespace], int]:
    """A verb, whose module is loaded when it is called: the shell's completion needs none of them."""

    def run(arguments: argparse.Namespace) -> int:
        return int(getattr(importlib.import_module(f"services.mdb.commands.{module}"), name)(arguments))

    return run


def _count(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 1000:
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 1 to 1000")
    return int(text)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= 86_400:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds")
    return seconds


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
