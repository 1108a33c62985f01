"""Writes the generated parts of the documents again: `python -m docs.generate`, from the top of the checkout.

A part stands between `<!-- begin NAME -->` and `<!-- end NAME -->`; all else is written by hand and stays. Everything
comes from the code itself (parsers, structs, tables, the syntax tree), so that it cannot be out of date without a test
saying so. With --check nothing is written, and the exit code is 1 when a document is stale. Same code, same bytes: no
date, no path, nothing of this machine.
"""

from __future__ import annotations

import argparse
import ast
import inspect as python
import re
import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec
from msgspec import inspect

ROOT = Path(__file__).resolve().parent.parent
_BLOCK = re.compile(r"(<!-- begin (?P<name>[a-z-]+) -->\n).*?(<!-- end (?P=name) -->\n)", re.DOTALL)
_CODE = re.compile(r"[a-z]+\.[a-z-]+")
# Modules below the builder whose errors a user of `build` can meet.
_COMMON = ("main", "process", "signing", "toml")

# What a field has no docstring of its own for. A field in neither place is an error of this program.
FIELDS = {
    "Id.name": "Name of the user, and of its group unless `group` says another.",
    "Id.gid": "Id of the group of that name; without one there is no such group.",
    "Id.uid": "Id of the user; without one the entry is a group alone.",
    "Id.home": "Home directory.",
    "Id.shell": "Login shell.",
    "Id.gecos": "What `getent passwd` shows as its name.",
    "Id.members": "Users that are in the group besides those whose primary group it is.",
    "Id.needs": "Packages or services that bring it: it is in an image that has one of them.",
    "Initrd.modules": 'Module names, or folders below the kernel\'s modules (with a "/" at the end).',
    "Initrd.exclude": "Folders that are left out of what a folder in `modules` brings.",
    "Lock.format": "Version of this format.",
    "Lock.epoch": "Seconds since 1970: the newest pocket's date; no file of an image is younger.",
    "Lock.apt": "Version of the apt that resolved.",
    "Lock.tools_tree": "Tree id of the tools tree.",
    "Lock.requirements": "SHA-256 of requirements/NAME.txt by NAME, for the sets that images use.",
    "Lock.pockets": "The signed release files that were read.",
    "Lock.roles": "What each image folder asked for.",
    "Lock.packages": "Every .deb, one a line, sorted by name.",
    "Lock.wheels": "Every wheel, one a line, sorted by file.",
    "Pocket.archive": "`debian` or `debian-security`.",
    "Pocket.suite": "Suite, such as `trixie-updates`.",
    "Pocket.components": "Components that were looked at.",
    "Pocket.date": "Date of the release file, in seconds since 1970.",
    "Pocket.sha256": "SHA-256 of the InRelease file.",
    "RoleRequest.request": "Package names that the folder and those it includes list, sorted.",
    "RoleRequest.parent": "The image that it includes.",
    "LockedPackage.name": "Package name; each has one version, for all roles.",
    "LockedPackage.version": "Debian version.",
    "LockedPackage.architecture": "`amd64` or `all`.",
    "LockedPackage.size": "Bytes of the .deb.",
    "LockedPackage.sha256": "SHA-256 of the .deb.",
    "LockedPackage.path": "Path below the archive's base address.",
    "LockedPackage.archive": "`debian` or `debian-security`.",
    "LockedPackage.source": "Source package.",
    "LockedPackage.source_version": "Its version.",
    "LockedPackage.roles": "Image folders whose tree holds it.",
    "LockedWheel.name": "Distribution name.",
    "LockedWheel.version": "Version.",
    "LockedWheel.file": "File name.",
    "LockedWheel.sha256": "SHA-256 of the file.",
    "LockedWheel.sets": "Requirement sets that hold it.",
    "Manifest.format": "Version of this format.",
    "Manifest.role": "Role.",
    "Manifest.version": "Version; its last 12 digits are those of `recipe_id`.",
    "Manifest.recipe_id": "SHA-256 of `recipe.json`: what was asked.",
    "Manifest.tree_id": "SHA-256 of the tree manifest: what came out.",
    "Manifest.root_hash": "dm-verity's root hash, over root.erofs and root.verity.",
    "Manifest.epoch": "SOURCE_DATE_EPOCH of the build, from the lock.",
    "Manifest.kernel": "Kernel release as `uname -r` prints it; none where the role has no kernel.",
    "Manifest.artefacts": "Size in bytes and SHA-256 of every file of the version, by name.",
    "Manifest.packages": "Debian packages inside, with the SHA-256 of their .deb and their source.",
    "Manifest.wheels": "Python wheels inside, with the SHA-256 of their file.",
}
SECTIONS = {
    "format": "version of the recipe's form, and the role",
    "settings": "mkosi's settings in force, from mkosi.conf and what it includes",
    "packages": "version and SHA-256 of every .deb",
    "wheels": "SHA-256 of every wheel",
    "files": "mode and SHA-256 of every file of the image folders, skeletons and scripts included",
    "ids": "entries of images/ids.toml that the image has",
    "services": "mode and SHA-256 of our modules in the image, their data and units",
    "builder": "SHA-256 of the builder's modules that shape bytes",
    "tools": "tree id of the tools tree, version of mkosi",
    "source": "the lock's epoch",
    "initrd": "where the role has a kernel: settings, packages and files of images/initrd, modules",
}


# Tables


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "".join(f"| {' | '.join(map(_cell, line))} |\n" for line in lines)


def _cell(text: str) -> str:
    """Text that Markdown shows as it is, in a table too; what stands between backticks is code."""
    parts = text.replace("|", "\\|").split("`")
    return "`".join(part if number % 2 else part.replace("<", "&lt;") for number, part in enumerate(parts))


def _docstrings(struct: type) -> dict[str, str]:
    """Field → the string that stands below it in the class."""
    (tree,) = ast.parse(textwrap.dedent(python.getsource(struct))).body
    assert isinstance(tree, ast.ClassDef)
    found = {}
    for field, below in zip(tree.body, tree.body[1:], strict=False):
        match field, below:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                found[name] = " ".join(text.split())
    return found


def _type(info: inspect.Type) -> str:
    from services.common.settings import type_text

    match info:
        case inspect.Metadata():
            return _type(info.type)
        case inspect.UnionType():
            return " or ".join(_type(one) for one in info.types if not isinstance(one, inspect.NoneType))
        case inspect.ListType():
            return f"list of {_type(info.item_type)}"
        case inspect.DictType():
            return f"table of {_type(info.value_type)}"
        case inspect.StructType():
            return info.cls.__name__
        case inspect.IntType():
            return "whole number"
        case _:
            return type_text(info)


def _default(field: inspect.Field) -> str:
    if field.required:
        return "required"
    value = field.default
    if value is msgspec.NODEFAULT:
        assert callable(field.default_factory)
        value = field.default_factory()
    if value is None:
        return "none"
    if value in ([], {}, ""):
        return "empty"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _described(struct: type[msgspec.Struct], name: str) -> str:
    text = _docstrings(struct).get(name) or FIELDS.get(f"{struct.__name__}.{name}")
    if not text:
        raise SystemExit(f"docs.generate: {struct.__name__}.{name} has neither a docstring nor a line in FIELDS")
    return text


def struct_table(*structs: type[msgspec.Struct], defaults: bool = True, title: bool = False) -> str:
    """One table a struct: field, type, default, meaning."""
    parts = []
    for struct in structs:
        info = inspect.type_info(struct)
        assert isinstance(info, inspect.StructType)
        rows: list[tuple[str, ...]] = []
        for field in info.fields:
            row: tuple[str, ...] = (
                f"`{field.encode_name}`",
                _type(field.type),
                _default(field),
                _described(struct, field.name),
            )
            rows.append(row if defaults else (*row[:2], row[3]))
        head: tuple[str, ...] = ("field", "type", "default", "meaning") if defaults else ("field", "type", "meaning")
        parts.append((f"**{struct.__name__}**\n\n" if title else "") + _table(head, rows))
    return "\n".join(parts)


# Command lines


def _subparsers(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    return {}


def _spelled(action: argparse.Action) -> str:
    """An argument as it is written: `--days DAYS`, `ROLE...`."""
    word = str(action.metavar or action.dest).upper()
    if action.nargs == 0:
        value = ""
    elif action.nargs in ("*", "+"):
        value = f"{word}..." if action.nargs == "+" or not action.option_strings else f"[{word}...]"
    else:
        value = word
    if not action.option_strings:
        return f"[{value}]" if action.nargs in ("*", "?") else value
    return f"{action.option_strings[-1]} {value}".rstrip()


def command_text(parser: argparse.ArgumentParser, *, depth: int) -> str:
    """A command and its subcommands: a heading, the line to type, what it does, its arguments."""
    parts = []
    for name, command in _subparsers(parser).items():
        parts.append(f"{'#' * depth} {command.prog.removeprefix(parser.prog).strip() or name}\n\n")
        below = _subparsers(command)
        description = (command.description or _help_of(parser, name)).strip()
        if below:
            parts.append(f"{_sentence(description)}\n\n{command_text(command, depth=depth + 1)}")
            continue
        actions = [action for action in command._actions if action.option_strings[:1] != ["-h"]]
        options = [f"[{_spelled(action)}]" for action in actions if action.option_strings]
        words = [*options, *(_spelled(action) for action in actions if not action.option_strings)]
        parts.append(f"    {' '.join([command.prog, *words])}\n\n{_sentence(description)}\n\n")
        rows = [
            (f"`{_spelled(action)}`", (action.help or "").replace("%(default)s", str(action.default)))
            for action in actions
            if action.help and action.option_strings[:1] != ["--json"]
        ]
        if rows:
            parts.append(_table(("argument", "meaning"), rows) + "\n")
    return "".join(parts)


def _help_of(parser: argparse.ArgumentParser, name: str) -> str:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for choice in action._choices_actions:
                if choice.dest == name:
                    return choice.help or ""
    return ""


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + ("" if text.endswith(".") else ".")


# Errors, by the syntax tree


class Raised(msgspec.Struct, frozen=True):
    """One place where an error is made."""

    code: str
    error: str
    module: str
    says: str


def _classes(trees: dict[str, ast.Module]) -> dict[str, str]:
    """Error class → the name of the class of `services.common.errors` that decides its exit code."""
    from services.common import errors

    found = {name: name for name, value in vars(errors).items() if isinstance(value, type)}
    bases = {
        node.name: [base.id for base in node.bases if isinstance(base, ast.Name)]
        for tree in trees.values()
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
    }
    for _ in bases:  # until nothing new is found: a subclass of a subclass
        found |= {n: found[base] for n, above in bases.items() for base in above if base in found and n not in found}
    return found


def _template(node: ast.expr | None) -> str:
    """A message as people read it: what is filled in is an ellipsis."""
    if isinstance(node, ast.Constant):
        text = str(node.value)
    elif isinstance(node, ast.JoinedStr):
        text = "".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values)
    elif isinstance(node, ast.BinOp):
        return _template(node.left)
    else:
        text = ""
    return text.partition("\n")[0].strip()


def _codes(node: ast.expr, function: ast.AST, areas: list[str]) -> list[str]:
    """The codes that a first argument can be: itself, one for each area, or what its variable was set to."""
    if isinstance(node, ast.Constant):
        return [str(node.value)] if _CODE.fullmatch(str(node.value)) else []
    if isinstance(node, ast.JoinedStr):
        tail = "".join(str(part.value) for part in node.values if isinstance(part, ast.Constant))
        return [f"{area}{tail}" for area in areas] if _CODE.fullmatch(f"area{tail}") else []
    constants = {part.value for part in ast.walk(function) if isinstance(part, ast.Constant)}
    return sorted(value for value in constants if isinstance(value, str) and _CODE.fullmatch(value))


def raised() -> list[Raised]:
    """Every error that the builder, and what it uses of services.common, can end with; sorted."""
    paths = [*sorted((ROOT / "builder").glob("*.py")), *(ROOT / f"services/common/{name}.py" for name in _COMMON)]
    trees = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts): ast.parse(path.read_bytes())
        for path in [*paths, ROOT / "services/common/errors.py"]
    }
    classes = _classes(trees)
    calls = [(module, node) for module, tree in trees.items() for node in ast.walk(tree) if isinstance(node, ast.Call)]
    areas = {
        str(word.value.value)
        for _, call in calls
        for word in call.keywords
        if word.arg == "area" and isinstance(word.value, ast.Constant)
    }
    found = set()
    for module, tree in trees.items():
        for function, scope in _scopes(tree):
            for call in ast.walk(function):
                if isinstance(call, ast.Call) and call.args and (kind := _kind(call, scope, classes)):
                    for code in _codes(call.args[0], function, sorted(areas)):
                        says = _template(call.args[1]) if len(call.args) > 1 else ""
                        found.add(Raised(code, kind, module, says))
    return sorted(found, key=lambda one: (one.code, one.module, one.says))


def _scopes(tree: ast.Module) -> Iterator[tuple[ast.AST, str]]:
    """Each outermost function with the class that it is in."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            yield from ((part, node.name) for part in node.body if isinstance(part, ast.FunctionDef))
        elif isinstance(node, ast.FunctionDef):
            yield node, ""


def _kind(call: ast.Call, scope: str, classes: dict[str, str]) -> str | None:
    """The error class that a call makes, also through `super().__init__`; None when it makes none."""
    if isinstance(call.func, ast.Name):
        return classes.get(call.func.id)
    if isinstance(call.func, ast.Attribute) and call.func.attr == "__init__" and scope in classes:
        return classes[scope]
    return None


def error_table() -> str:
    """Code, exit code, modules, an example of what it says."""
    from services.common import errors

    rows: dict[str, list[Raised]] = {}
    for one in raised():
        rows.setdefault(one.code, []).append(one)
    lines = []
    for code, places in rows.items():
        exits = sorted({int(getattr(errors, one.error).exit) for one in places})
        modules = sorted({one.module for one in places})
        says = next((one.says for one in places if one.says.strip("… ")), "")
        lines.append((f"`{code}`", ", ".join(map(str, exits)), ", ".join(f"`{name}`" for name in modules), says))
    return _table(("code", "exit", "raised in", "says, for example"), lines)


def exit_table() -> str:
    """Exit codes with the comment that stands beside each."""
    from services.common.errors import Exit

    text = python.getsource(Exit)
    comments = dict(re.findall(r"^    (\w+) = \d+(?:  # (.*))?$", text, re.MULTILINE))
    own = {"OK": "done", "INTERRUPTED": "interrupted: Ctrl-C"}
    return _table(("exit code", "means"), [(f"{int(code)}", comments[code.name] or own[code.name]) for code in Exit])


# The blocks


def _builder_parser() -> argparse.ArgumentParser:
    from builder import cli

    return cli.parser("build")


def _settings() -> str:
    from builder.settings import Settings

    docs = _docstrings(Settings)
    rows = [
        (f"`BACKLINE_BUILD_{name.upper()}`", f"`{value}`" if value else "not set", docs[name])
        for name, value in zip(Settings.__struct_fields__, Settings.__struct_defaults__, strict=True)
    ]
    return _table(("variable", "default", "meaning"), rows)


def _mkosi_settings() -> str:
    from builder import config

    rows: list[tuple[str, ...]] = [(f"`{section}`", f"`{name}`", "collects") for section, name in sorted(config._LISTS)]
    rows += [(f"`{section}`", f"`{name}`", "replaces") for section, name in sorted(config._SCALARS)]
    rows.append((*(f"`{word}`" for word in config._INCLUDE), "one other folder of images/"))
    return _table(("section", "setting", "what is included and what follows"), sorted(rows))


def _recipe() -> str:
    from builder import config, lock, recipe

    kernel = next(role for role in config.published(ROOT) if config.load(ROOT, role).kernel)
    sections = recipe.of_image(ROOT, kernel, lock.load(ROOT / lock.NAME)).sections
    if unknown := sorted(sections.keys() ^ SECTIONS.keys()):
        raise SystemExit(f"docs.generate: SECTIONS and builder.recipe differ in {', '.join(unknown)}")
    text = _table(("section", "holds"), [(f"`{name}`", SECTIONS[name]) for name in sections])
    return f"{text}\nModules in `builder`: {', '.join(f'`{name}`' for name in recipe.SHAPING)}.\n"


def _removed() -> str:
    from builder import normalise

    text = _table(("what", "why"), [(f"`/{pattern}`", reason) for pattern, reason in normalise.REMOVED.items()])
    refused = ", ".join(f"`/{pattern}`" for pattern in normalise._FORBIDDEN)
    return f"{text}\nA tree that still has one of these is refused (`image.state`): {refused}.\n"


def _elsewhere() -> str:
    from builder.check import ELSEWHERE
    from builder.sandbox import Environment

    usual = Environment()
    names = {"cpus": "CPUs", "clock_offset_days": "clock, days ahead", "work": "path of the work"}
    rows = [
        (names.get(name, name), str("all" if value is None else value), str(getattr(ELSEWHERE, name)))
        for name, value in vars(usual).items()
    ]
    rows.append(
        (
            "file system",
            "memory (tmpfs) where it fits, else the cache's disk",
            "ext4 of its own, in memory, where it fits",
        )
    )
    rows.append(("layers", "base, role, ours", "none: one run of mkosi"))
    return _table(("what", "a build", "`build check`"), rows)


def _image_toml() -> str:
    from builder.config import ImageToml, Initrd

    return struct_table(ImageToml, Initrd, title=True)


def _ids() -> str:
    from builder.ids import Id

    return struct_table(Id)


def _lock() -> str:
    from builder.lock import Lock, LockedPackage, LockedWheel, Pocket, RoleRequest

    return struct_table(Lock, Pocket, RoleRequest, LockedPackage, LockedWheel, defaults=False, title=True)


def _manifest() -> str:
    from services.common.manifest import Manifest

    return struct_table(Manifest, defaults=False)


def _hostd_parser() -> argparse.ArgumentParser:
    from services.hostd import cli

    return cli.parser("backline hostd")


def _host_init_parser() -> argparse.ArgumentParser:
    """`backline host` with the one command that makes iron."""
    from services.hostd import host_init_cli

    root = argparse.ArgumentParser(prog="backline host")
    host_init_cli.add_parser(root.add_subparsers(metavar="COMMAND"))
    return root


def _machine_parser() -> argparse.ArgumentParser:
    from services.hostd import machine_cli

    return machine_cli.parser("backline machine")


def _hostd_settings() -> str:
    from services.common import settings
    from services.hostd.schema import Settings

    return settings.reference(Settings, "hostd")


def openapi_of_hostd() -> dict[str, object]:
    """The document that hostd serves as /openapi.json."""
    from services.common import openapi
    from services.common.bus.fake import FakeSystemd
    from services.common.identity import ImageIdentity
    from services.hostd.app import make_app
    from services.hostd.journal import JournalReader
    from services.hostd.store import Store

    store = Store(manager=FakeSystemd(), journal=JournalReader(seconds=1, size=1), identity=ImageIdentity())
    return openapi.document(make_app(store, journal_groups=[]).operations, title="hostd", version="")


def openapi_of_depot() -> dict[str, object]:
    """The document that the depot serves as /openapi.json."""
    from services.common import openapi
    from services.common.access import Access
    from services.common.database import Database
    from services.depot.app import make_app
    from services.depot.files import Files
    from services.depot.schema import Settings
    from services.depot.store import Store

    with Database("sqlite://") as database:
        store = Store(database, Files(Path("/nonexistent")), signers_file=Path("/nonexistent"), hall="")
        return openapi.document(make_app(store, Settings(), Access()).operations, title="depot", version="")


def _depot_parser() -> argparse.ArgumentParser:
    from services.depot import cli

    return cli.parser("backline depot")


def _publish_parser() -> argparse.ArgumentParser:
    """`backline` with the one command."""
    from builder import publish_cli

    root = argparse.ArgumentParser(prog="backline")
    root.add_subparsers().choices.update({"publish": publish_cli.parser("backline publish")})
    return root


def _depot_settings() -> str:
    from services.common import settings
    from services.depot.schema import Settings

    return settings.reference(Settings, "depot")


def _host_parser() -> argparse.ArgumentParser:
    from services.hostd import host_cli

    return host_cli.parser("backline host")


def _supervisor_settings() -> str:
    from services.common import settings
    from services.hostd.supervisor_schema import Settings

    return settings.reference(Settings, "supervisor")


def openapi_of_supervisor() -> dict[str, object]:
    """The document that the supervisor of a host serves as /openapi.json."""
    from services.common import openapi
    from services.common.identity import ImageIdentity
    from services.hostd.supervisor_app import make_supervisor_app
    from services.hostd.supervisor_parts import make_store, make_supervisor
    from services.hostd.supervisor_schema import Settings

    settings, identity = Settings(), ImageIdentity()
    store = make_store(settings, identity)
    app = make_supervisor_app(make_supervisor(settings, identity), store, idle_seconds=0, identity=identity)
    return openapi.document(app.operations, title="supervisor", version="")


def _roots_parser() -> argparse.ArgumentParser:
    from services.roots import cli

    return cli.parser("backline root")


def _roots_settings() -> str:
    from services.common import settings
    from services.roots.schema import Settings

    return settings.reference(Settings, "roots")


def openapi_of_roots() -> dict[str, object]:
    """The document that the roots service serves as /openapi.json."""
    from services.common import openapi
    from services.common.access import Access
    from services.common.feed.client import Follower
    from services.roots.app import make_app
    from services.roots.held import Folder
    from services.roots.keeper import Keeper
    from services.roots.schema import Settings

    keeper = Keeper(Settings(), Folder(Path("/nonexistent")))
    app = make_app(keeper, Follower("unix:/nonexistent"), access=Access())
    return openapi.document(app.operations, title="roots", version="")


def _state_parser() -> argparse.ArgumentParser:
    from services.state import cli

    return cli.parser("backline state")


def _state_settings() -> str:
    from services.common import settings
    from services.state.schema import Settings

    return settings.reference(Settings, "state")


def openapi_of_state() -> dict[str, object]:
    """The document that the state service serves as /openapi.json."""
    from services.common import openapi
    from services.common.access import Access
    from services.state.app import make_app
    from services.state.schema import Settings

    return openapi.document(make_app(Settings(), access=Access()).operations, title="state", version="")


def openapi_of_dhcp() -> dict[str, object]:
    """The document that the DHCP service serves as /openapi.json."""
    from services.common import openapi
    from services.dhcp.app import make_app
    from services.dhcp.apply import Applier
    from services.dhcp.kea import Kea
    from services.dhcp.schema import Settings
    from services.dhcp.store import Store

    settings = Settings()
    store = Store(settings, Applier(settings, Kea(settings.kea)), None)
    return openapi.document(make_app(store).operations, title="dhcp", version="")


def _dhcp_parser() -> argparse.ArgumentParser:
    from services.dhcp import cli

    return cli.parser("backline dhcp")


def _dhcp_settings() -> str:
    from services.common import settings
    from services.dhcp.schema import Settings

    return settings.reference(Settings, "dhcp")


def openapi_of_mdb() -> dict[str, object]:
    """The document that mdb serves as /openapi.json."""
    from services.common import openapi
    from services.common.access import Access
    from services.common.database import Database
    from services.mdb.app import make_app
    from services.mdb.store import Store

    with Database("sqlite://") as database:
        return openapi.document(make_app(Store(database, {}), Access()).operations, title="mdb", version="")


def openapi_of_dns() -> dict[str, object]:
    """The document that the DNS service serves as /openapi.json."""
    from services.common import openapi
    from services.common.identity import ImageIdentity
    from services.dns.app import make_app
    from services.dns.schema import Settings
    from services.dns.work import make_applier, make_worker

    settings = Settings(domain="prolo")
    app = make_app(make_worker(settings, make_applier(settings)), identity=ImageIdentity())
    return openapi.document(app.operations, title="dns", version="")


def _dns_parser() -> argparse.ArgumentParser:
    from services.dns import cli

    return cli.parser("backline dns")


def _dns_settings() -> str:
    from services.common import settings
    from services.dns.schema import Settings

    return settings.reference(Settings, "dns")


def _login_parser() -> argparse.ArgumentParser:
    """`backline` with the two commands that have no subcommands of their own."""
    from services.common import login, logout

    root = argparse.ArgumentParser(prog="backline")
    commands = root.add_subparsers()
    commands.choices.update({"login": login.parser("backline login"), "logout": logout.parser("backline logout")})
    return root


def openapi_of_sessions() -> dict[str, object]:
    """The operations that every service has where administrators log in."""
    from services.common import openapi
    from services.common.access import Access
    from services.common.edge import Operation
    from services.common.sessions import Sessions
    from services.common.tokens import Tokens

    tokens = Tokens(bytes(32))
    routes = Sessions("any", Access(tokens=tokens), tokens).routes()
    return openapi.document([each for each in routes if isinstance(each, Operation)], title="any", version="")


def _mdb_parser() -> argparse.ArgumentParser:
    from services.mdb import cli

    return cli.parser("backline mdb")


def _mdb_settings() -> str:
    from services.common import settings
    from services.mdb.schema import Settings

    return settings.reference(Settings, "mdb")


def openapi_of_netboot() -> dict[str, object]:
    """The document that netboot serves as /openapi.json."""
    from netboot.app import make_app
    from netboot.machines import Machines
    from netboot.schema import Settings
    from netboot.store import Store
    from services.common import openapi
    from services.common.access import Access
    from services.common.database import Database
    from services.common.feed.client import Follower

    machines = Machines()
    with Database("sqlite://") as database:
        app = make_app(Store(database, machines), Follower("unix:/run/backline/mdb.sock"), Settings(), Access())
        return openapi.document(app.operations, title="netboot", version="")


def _netboot_parser() -> argparse.ArgumentParser:
    from netboot import cli

    return cli.parser("backline netboot")


def _netboot_settings() -> str:
    from netboot.schema import Settings
    from services.common import settings

    return settings.reference(Settings, "netboot")


def openapi_of_udb() -> dict[str, object]:
    """The document that udb serves as /openapi.json."""
    from services.common import openapi
    from services.common.access import Access
    from services.common.database import Database
    from services.udb.app import make_app
    from services.udb.store import Store

    with Database("sqlite://") as database:
        return openapi.document(make_app(Store(database, None), Access()).operations, title="udb", version="")


def _udb_parser() -> argparse.ArgumentParser:
    from services.udb import cli

    return cli.parser("backline udb")


def _udb_settings() -> str:
    from services.common import settings
    from services.udb.schema import Settings

    return settings.reference(Settings, "udb")


def openapi_of_firewall() -> dict[str, object]:
    """The document that the firewall's service serves as /openapi.json."""
    from services.common import openapi
    from services.common.access import Access
    from services.firewall.app import make_app
    from services.firewall.schema import Settings
    from services.firewall.work import make_worker

    return openapi.document(make_app(make_worker(Settings()), Access()).operations, title="firewall", version="")


def _firewall_parser() -> argparse.ArgumentParser:
    from services.firewall import cli

    return cli.parser("backline firewall")


def _firewall_settings() -> str:
    from services.common import settings
    from services.firewall.schema import Settings

    return settings.reference(Settings, "firewall")


def openapi_of_usermap() -> dict[str, object]:
    """The document that the map serves as /openapi.json."""
    from services.common import openapi
    from services.common.access import Access
    from services.usermap.app import make_app
    from services.usermap.schema import Settings
    from services.usermap.watch import Watch

    return openapi.document(make_app(Watch(Settings()), Access()).operations, title="usermap", version="")


def _usermap_parser() -> argparse.ArgumentParser:
    from services.usermap import cli

    return cli.parser("backline usermap")


def _usermap_settings() -> str:
    from services.common import settings
    from services.usermap.schema import Settings

    return settings.reference(Settings, "usermap")


def openapi_of_overview() -> dict[str, object]:
    """The document that the overview serves as /openapi.json."""
    from services.common import openapi
    from services.common.access import Access
    from services.overview.app import make_app
    from services.overview.schema import Settings
    from services.overview.watch import Watch

    return openapi.document(make_app(Watch(Settings()), Access()).operations, title="overview", version="")


def _overview_parser() -> argparse.ArgumentParser:
    from services.overview import cli

    return cli.parser("backline overview")


def _overview_settings() -> str:
    from services.common import settings
    from services.overview.schema import Settings

    return settings.reference(Settings, "overview")


def openapi_of_identity() -> dict[str, object]:
    """The document that the identity service serves as /openapi.json."""
    from services.common import openapi
    from services.identity.accounts import Own
    from services.identity.app import make_app
    from services.identity.folder import Folder
    from services.identity.schema import Settings
    from services.identity.work import Worker, make_follower

    worker = Worker(Folder(Path("/nowhere")), make_follower(Settings(), {}), own=Own)
    return openapi.document(make_app(worker).operations, title="identity", version="")


def _identity_parser() -> argparse.ArgumentParser:
    from services.identity import cli

    return cli.parser("backline identity")


def _identity_settings() -> str:
    from services.common import settings
    from services.identity.schema import Settings

    return settings.reference(Settings, "identity")


def openapi_of_presence() -> dict[str, object]:
    """The document that presence serves as /openapi.json."""
    from services.common import openapi
    from services.common.access import Access
    from services.common.database import Database
    from services.presence.app import make_app
    from services.presence.schema import Settings
    from services.presence.work import make_work

    with Database("sqlite://") as database:
        app = make_app(make_work(database, Settings()), Access())
        return openapi.document(app.operations, title="presence", version="")


def _presence_parser() -> argparse.ArgumentParser:
    from services.presence import cli

    return cli.parser("backline presence")


def _presence_settings() -> str:
    from services.common import settings
    from services.presence.schema import Settings

    return settings.reference(Settings, "presence")


def openapi_of_sso() -> dict[str, object]:
    """The document that single sign-on serves as /openapi.json."""
    from services.common import openapi
    from services.common.access import Access
    from services.sso.app import make_app, make_who
    from services.sso.schema import Settings

    return openapi.document(make_app(make_who(Settings()), Access()).operations, title="sso", version="")


def _sso_parser() -> argparse.ArgumentParser:
    from services.sso import cli

    return cli.parser("backline sso")


def _sso_settings() -> str:
    from services.common import settings
    from services.sso.schema import Settings

    return settings.reference(Settings, "sso")


def openapi_of_rollout() -> dict[str, object]:
    """The document that the rollout service serves as /openapi.json."""
    from services.common import openapi
    from services.common.access import Access
    from services.rollout.app import make_app
    from services.rollout.store import Store
    from services.rollout.work import Work

    work = Work(Store(Path("/nowhere")), netboot="unix:/run/backline/netboot.sock", look_seconds=3, clock=time.time)
    return openapi.document(make_app(work, Access()).operations, title="rollout", version="")


def _rollout_parser() -> argparse.ArgumentParser:
    from services.rollout import cli

    return cli.parser("backline rollout")


def _rollout_settings() -> str:
    from services.common import settings
    from services.rollout.schema import Settings

    return settings.reference(Settings, "rollout")


def _routes(document: dict[str, object]) -> str:
    paths = msgspec.convert(document["paths"], dict[str, dict[str, dict[str, object]]])
    rows = []
    for path, operations in paths.items():
        for method, operation in operations.items():
            parameters = msgspec.convert(operation.get("parameters", []), list[dict[str, object]])
            query = ", ".join(f"`{one['name']}`" for one in parameters if one["in"] == "query")
            responses = msgspec.convert(operation["responses"], dict[str, object])
            failures = ", ".join(status for status in responses if status[0] != "2" and status != "default")
            text = str(operation.get("description") or operation["summary"]).partition("\n")[0]
            rows.append((f"`{method.upper()} {path}`", text, query, failures))
    return _table(("route", "answers", "query", "fails with"), rows)


def _hostd_sockets() -> str:
    text = (ROOT / "units/backline-hostd.socket").read_text()
    addresses = re.findall(r"^ListenStream=(.*)$", text, re.MULTILINE)
    rows = [(f"`{one}`", "unix socket") if one.startswith("/") else (f"`{one}`", "TCP port") for one in addresses]
    return _table(("address", "kind"), rows)


def _make_goals() -> str:
    goals = re.findall(r"^([a-z-]+):.*?## (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    return _table(("goal", "does"), [(f"`make {name}`", text) for name, text in goals])


def _markers() -> str:
    import tomllib

    options = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]
    rows = [(f"`{name}`", text.strip()) for name, _, text in (line.partition(":") for line in options["markers"])]
    return _table(("marker", "on tests that are"), rows)


def _modules(package: str) -> str:
    """Each module of a package with the first sentence of its docstring."""
    rows = []
    for path in sorted((ROOT / package).rglob("*.py")):
        text = ast.get_docstring(ast.parse(path.read_bytes()))
        if text:
            first = " ".join(text.partition("\n\n")[0].split())
            rows.append((f"`{path.relative_to(ROOT / package).with_suffix('')}`", first))
    return _table(("module", "is for"), rows)


def _lan_parser() -> argparse.ArgumentParser:
    from e2e import cli

    return cli.parser("backline lan")


def _capabilities() -> str:
    from e2e.capabilities import HINTS, REQUIRED, Capability

    rows = [
        (one.value, "every lab" if one in REQUIRED else "some verbs, tests", HINTS.get(one, "")) for one in Capability
    ]
    return _table(("capability", "needed by", "where it is missing"), rows)


def _topology() -> str:
    from e2e import topology

    tables = (
        ("", topology.Topology),
        ("segments.NAME.", topology.Segment),
        ("nodes.NAME.", topology.Node),
        ("nodes.NAME.nics[].", topology.Nic),
    )
    rows = []
    for table, struct in tables:
        docs = _docstrings(struct)
        info = inspect.type_info(struct)
        assert isinstance(info, inspect.StructType)
        for field in info.fields:
            default = "" if field.required else f"`{_toml_value(field.default)}`"
            rows.append((f"`{table}{field.encode_name}`", _type(field.type), default, docs[field.encode_name]))
    return _table(("key", "type", "default", "is"), rows)


def _toml_value(value: object) -> str:
    if value is msgspec.NODEFAULT:
        return "empty"
    return "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value) or "empty"


BLOCKS: dict[str, Callable[[], str]] = {
    "build-commands": lambda: command_text(_builder_parser(), depth=3),
    "build-settings": _settings,
    "check-elsewhere": _elsewhere,
    "depot-commands": lambda: command_text(_depot_parser(), depth=3),
    "depot-routes": lambda: _routes(openapi_of_depot()),
    "depot-settings": _depot_settings,
    "dhcp-commands": lambda: command_text(_dhcp_parser(), depth=3),
    "dhcp-routes": lambda: _routes(openapi_of_dhcp()),
    "dhcp-settings": _dhcp_settings,
    "dns-commands": lambda: command_text(_dns_parser(), depth=3),
    "dns-routes": lambda: _routes(openapi_of_dns()),
    "dns-settings": _dns_settings,
    "error-codes": error_table,
    "exit-codes": exit_table,
    "host-commands": lambda: command_text(_host_parser(), depth=3),
    "host-init-command": lambda: command_text(_host_init_parser(), depth=3),
    "hostd-commands": lambda: command_text(_hostd_parser(), depth=3),
    "hostd-routes": lambda: _routes(openapi_of_hostd()),
    "hostd-settings": _hostd_settings,
    "hostd-sockets": _hostd_sockets,
    "identity-commands": lambda: command_text(_identity_parser(), depth=3),
    "identity-routes": lambda: _routes(openapi_of_identity()),
    "identity-settings": _identity_settings,
    "supervisor-routes": lambda: _routes(openapi_of_supervisor()),
    "supervisor-settings": _supervisor_settings,
    "firewall-commands": lambda: command_text(_firewall_parser(), depth=3),
    "firewall-routes": lambda: _routes(openapi_of_firewall()),
    "firewall-settings": _firewall_settings,
    "login-commands": lambda: command_text(_login_parser(), depth=3),
    "machine-commands": lambda: command_text(_machine_parser(), depth=3),
    "mdb-commands": lambda: command_text(_mdb_parser(), depth=3),
    "mdb-routes": lambda: _routes(openapi_of_mdb()),
    "mdb-settings": _mdb_settings,
    "netboot-commands": lambda: command_text(_netboot_parser(), depth=3),
    "netboot-routes": lambda: _routes(openapi_of_netboot()),
    "netboot-settings": _netboot_settings,
    "overview-commands": lambda: command_text(_overview_parser(), depth=3),
    "overview-routes": lambda: _routes(openapi_of_overview()),
    "overview-settings": _overview_settings,
    "presence-commands": lambda: command_text(_presence_parser(), depth=3),
    "presence-routes": lambda: _routes(openapi_of_presence()),
    "presence-settings": _presence_settings,
    "rollout-commands": lambda: command_text(_rollout_parser(), depth=3),
    "rollout-routes": lambda: _routes(openapi_of_rollout()),
    "rollout-settings": _rollout_settings,
    "publish-commands": lambda: command_text(_publish_parser(), depth=3),
    "usermap-commands": lambda: command_text(_usermap_parser(), depth=3),
    "usermap-routes": lambda: _routes(openapi_of_usermap()),
    "usermap-settings": _usermap_settings,
    "root-commands": lambda: command_text(_roots_parser(), depth=3),
    "root-routes": lambda: _routes(openapi_of_roots()),
    "root-settings": _roots_settings,
    "sso-commands": lambda: command_text(_sso_parser(), depth=3),
    "sso-routes": lambda: _routes(openapi_of_sso()),
    "sso-settings": _sso_settings,
    "state-commands": lambda: command_text(_state_parser(), depth=3),
    "state-routes": lambda: _routes(openapi_of_state()),
    "state-settings": _state_settings,
    "session-routes": lambda: _routes(openapi_of_sessions()),
    "ids-toml": _ids,
    "image-toml": _image_toml,
    "lan-capabilities": _capabilities,
    "lan-commands": lambda: command_text(_lan_parser(), depth=3),
    "lan-topology": _topology,
    "lock-fields": _lock,
    "make-goals": _make_goals,
    "manifest-fields": _manifest,
    "mkosi-settings": _mkosi_settings,
    "modules-builder": lambda: _modules("builder"),
    "modules-lan": lambda: _modules("e2e"),
    "modules-common": lambda: _modules("services/common"),
    "recipe-sections": _recipe,
    "removed": _removed,
    "test-markers": _markers,
    "udb-commands": lambda: command_text(_udb_parser(), depth=3),
    "udb-routes": lambda: _routes(openapi_of_udb()),
    "udb-settings": _udb_settings,
}


def documents() -> list[Path]:
    """README.md and every page of docs/, sorted."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def render(text: str) -> str:
    """A document with its generated parts made anew. Raises KeyError for a part that nobody makes."""

    def replace(block: re.Match[str]) -> str:
        return f"{block[1]}{BLOCKS[block['name']]().rstrip()}\n{block[3]}"

    return _BLOCK.sub(replace, text)


def main(argv: list[str] | None = None) -> int:
    """Write what is stale, or with --check only name it."""
    parser = argparse.ArgumentParser(prog="python -m docs.generate", description="write the generated parts of docs/")
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 when something is stale")
    arguments = parser.parse_args(argv)
    stale = [path for path in documents() if render(path.read_text()) != path.read_text()]
    for path in stale:
        if not arguments.check:
            path.write_text(render(path.read_text()))
        print(f"{path.relative_to(ROOT)}: {'stale' if arguments.check else 'written'}")
    return 1 if stale and arguments.check else 0


if __name__ == "__main__":
    sys.exit(main())
