"""`backline udb`: run the user database, or look into it and change it. What the verbs do is in `commands`."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Callable
from pathlib import Path

from services.common.commands import asking_options, service_options

SUMMARY = "the user database: logins, groups, keys and passwords"

_GROUPS = ("user", "orga", "root")
_FORMATS = ("csv", "json", "yaml")
_LISTS = ("names", "logins", "passwords", "site", *_FORMATS)
_PER_PAGE = (1, 2, 4, 6, 8, 10, 12, 16, 24)  # `services.udb.sheets.GRIDS`
_PER_PAGE_HELP = f"so many on a page of html: {', '.join(map(str, _PER_PAGE))}; 10"
_USERS = "logins, ranges such as team[01-20], ids; or field:value words of a query"


def parser(prog: str) -> argparse.ArgumentParser:
    """The command line of `backline udb`."""
    root = argparse.ArgumentParser(
        prog=prog,
        description="Who logs in to the hall. Asks this host's own udb by default, elsewhere "
        "the one that you are logged in to (backline login https://udb.DOMAIN). Organizers see contestants.",
    )
    commands = root.add_subparsers(metavar="COMMAND", required=True)

    serve = commands.add_parser("serve", parents=[service_options("udb")], help="run the service (systemd does)")
    serve.set_defaults(run=_serve)

    asking = asking_options("unix:/path or https://host of udb")
    writing = argparse.ArgumentParser(add_help=False)
    writing.add_argument("--dry-run", action="store_true", help="only say what would change")

    list_ = commands.add_parser("list", parents=[asking], help="users, all or those that a query finds")
    list_.add_argument("query", nargs="*", help="words, ranges or field:value, as in 'group:user -password:yes'")
    list_.set_defaults(run=_verb("users", "list_"))

    show = commands.add_parser("show", parents=[asking], help="one user with the history; never the password")
    show.add_argument("user", metavar="USER", help="login or id")
    show.set_defaults(run=_verb("users", "show"))

    add = commands.add_parser("add", parents=[asking, writing], help="add users")
    add.add_argument("login", metavar="LOGIN", help="a login, or a range such as team[01-20]")
    _fields(add)
    add.set_defaults(run=_verb("users", "add"))

    edit = commands.add_parser("edit", parents=[asking, writing], help="change users")
    edit.add_argument("user", nargs="+", metavar="USER", help=_USERS)
    edit.add_argument("--login", help="another login; their files stay those of the uid")
    _fields(edit)
    edit.add_argument("--no-password", action="store_true", help="let nobody log in as them by password")
    edit.add_argument("--no-keys", action="store_true", help="take their SSH keys away")
    edit.set_defaults(run=_verb("users", "edit"))

    remove = commands.add_parser("rm", parents=[asking, writing], help="remove users")
    remove.add_argument("user", nargs="+", metavar="USER", help=_USERS)
    remove.add_argument("--yes", action="store_true", help="also when a range or query means several")
    remove.set_defaults(run=_verb("users", "remove"))

    take = commands.add_parser("import", parents=[asking, writing], help="take people from a list, all or none")
    take.add_argument("file", type=Path, metavar="FILE", help="- is standard input")
    take.add_argument(
        "--format",
        choices=_LISTS,
        help="names: first and last name with a tab; logins; passwords: login:password; site: the website's JSON; "
        "else a table, as the file's name says",
    )
    take.add_argument("--group", choices=_GROUPS, default="user", help="of new users; user")
    take.add_argument("--no-generate", action="store_true", help="make no password for who brings none")
    take.set_defaults(run=_verb("tables", "take"))

    export = commands.add_parser("export", parents=[asking], help="write users as a table, without passwords")
    export.add_argument("query", nargs="*", help="as for list")
    export.add_argument("--format", choices=_FORMATS, help="csv, unless the name of the file says something else")
    export.add_argument("--output", type=Path, metavar="FILE", help="standard output when absent")
    export.set_defaults(run=_verb("tables", "export"))

    password = commands.add_parser("password", parents=[asking], help="show passwords; the history says who saw them")
    password.add_argument("user", nargs="+", metavar="USER", help=_USERS)
    password.set_defaults(run=_verb("passwords", "password"))

    sheet = commands.add_parser("sheet", parents=[asking], help="passwords to print; the history says who saw them")
    sheet.add_argument("user", nargs="+", metavar="USER", help=_USERS)
    sheet.add_argument("--output", type=Path, metavar="FILE", help="standard output when absent; yours alone to read")
    sheet.add_argument(
        "--format",
        choices=("tsv", "html"),
        help="tsv: name, login, password, for badge printers; html: A4 pages to cut; as the file's name says, else tsv",
    )
    sheet.add_argument("--per-page", type=int, choices=_PER_PAGE, default=10, metavar="NUMBER", help=_PER_PAGE_HELP)
    sheet.add_argument("--title", default="", metavar="TEXT", help="what stands over each name, such as the hall's")
    sheet.set_defaults(run=_verb("passwords", "sheet"))

    told = "the message of the day, which seats show to who has not logged in yet"
    message = commands.add_parser("message", parents=[asking], help=told, description=f"{told[0].upper()}{told[1:]}.")
    message.add_argument("text", nargs="?", metavar="TEXT", help="say this one; - is standard input; else it is shown")
    message.add_argument("--none", action="store_true", help="take it away")
    message.set_defaults(run=_verb("message", "message"))

    pools = commands.add_parser("pools", parents=[asking], help="what is left of the uids")
    pools.set_defaults(run=_verb("users", "pools"))
    return root


def _fields(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--firstname", metavar="NAME")
    parser.add_argument("--lastname", metavar="NAME")
    parser.add_argument("--group", choices=_GROUPS, help="user is a contestant, orga an organizer")
    parser.add_argument("--uid", type=int, metavar="NUMBER", help="of the group's pool; the next free one when absent")
    parser.add_argument("--shell", metavar="PATH")
    parser.add_argument(
        "--key", dest="keys", action="append", metavar="KEY", help="SSH public key, or a .pub file; repeat for more"
    )
    parser.add_argument("--site-id", type=int, metavar="NUMBER", help="id of their account on the website")
    secret = parser.add_mutually_exclusive_group()
    secret.add_argument("--password", action="store_true", help="ask for a password, or read it from standard input")
    secret.add_argument("--generate", action="store_true", help="have a password made; `password` or `sheet` shows it")


def _verb(module: str, name: str) -> Callable[[argparse.Namespace], int]:
    """A verb, whose module is loaded when it is called: the shell's completion needs none of them."""

    def run(arguments: argparse.Namespace) -> int:
        return int(getattr(importlib.import_module(f"services.udb.commands.{module}"), name)(arguments))

    return run


def _serve(arguments: argparse.Namespace) -> int:
    from services.common.access import Access, Role
    from services.common.database import Database
    from services.common.serve import serve
    from services.common.settings import read
    from services.common.tokens import Tokens
    from services.udb.app import make_app
    from services.udb.schema import Settings
    from services.udb.sealing import Seal
    from services.udb.store import Store

    settings = read(Settings, section="udb", file=arguments.config)
    groups = {
        Role.ROOT: settings.writer_groups,
        Role.ORGANIZER: settings.organizer_groups,
        Role.SERVICE: settings.private_groups,
    }
    access = Access(settings.access, groups=groups, tokens=Tokens.of_this_service())
    with Database(settings.database) as database:
        app = make_app(Store(database, Seal.of_this_service()), access, hall=settings.hall, htmx=settings.htmx)
        # Everybody may connect: what a caller may do is decided by who the kernel says it is.
        return serve(app, listen=arguments.listen, mode=0o666, grace_seconds=settings.grace_seconds)
