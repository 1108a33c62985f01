"""list, show, add, edit, rm, pools: users and their uids."""

from __future__ import annotations

import argparse
import getpass
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from services.common.codec import to_builtins
from services.common.commands import converted, difference, moment, one_line, print_json, show_changes, table
from services.common.errors import Exit, InputError, UsageError
from services.common.ranges import expand
from services.common.ssh_keys import fingerprint
from services.udb.commands.common import BULK_SECONDS, chosen, client
from services.udb.schema import Edited, Edits, User

_FIELDS = ("login", "firstname", "lastname", "group", "uid", "shell", "site_id")
_OWN = ("login", "uid", "site_id", "password")  # no two users have the same
_TELLING = ("login", "uid", "group", "how")


def list_(arguments: argparse.Namespace) -> int:
    with client(arguments) as udb:
        found = udb.users(" ".join(arguments.query))
    if arguments.json:
        return print_json(found)
    rows = [("LOGIN", "NAME", "UID", "GROUP", "SHELL", "KEYS", "PASSWORD")]
    rows += [
        (
            each.login,
            f"{each.firstname} {each.lastname}".strip(),
            str(each.uid),
            each.group.value,
            each.shell,
            str(len(each.keys)),
            "none" if each.password_set is None else "yes",
        )
        for each in found.users
    ]
    return table(rows)


def show(arguments: argparse.Namespace) -> int:
    with client(arguments) as udb:
        user = udb.user(arguments.user)
        entries = udb.audit(user.id, limit=20).entries
    if arguments.json:
        return print_json(user)
    plain = to_builtins(user)
    assert isinstance(plain, dict)
    plain["keys"] = " ".join(fingerprint(key) for key in user.keys)
    for name, value in plain.items():
        if name in ("created", "updated", "password_set"):
            value = moment(value)
        print(f"{name:<14} {one_line('' if value is None else str(value))}".rstrip())
    print()
    for entry in entries:
        what = difference(entry.before, entry.after, _TELLING)
        action = "password shown" if entry.topic == "showings" else entry.action.value
        print(f"{moment(entry.at)}  {entry.actor} ({entry.origin}) {action}: {what}")
    return int(Exit.OK)


def add(arguments: argparse.Namespace) -> int:
    logins = expand(arguments.login)
    given = _given(arguments)
    del given["login"]
    if len(logins) > 1 and (own := [name for name in _OWN if name in given]):
        raise UsageError("udb.value", f"{len(logins)} users cannot have the same {own[0]}")
    create = [{**given, "login": login} for login in logins]
    edits = converted({"create": create, "dry": arguments.dry_run}, Edits, code="udb.value")
    with client(arguments, seconds=BULK_SECONDS) as udb:
        return _changed(arguments, [None] * len(logins), udb.edit(edits))


def edit(arguments: argparse.Namespace) -> int:
    patch = _given(arguments)
    if arguments.no_password:
        patch["password"] = None
    if arguments.no_keys:
        patch["keys"] = []
    if not patch:
        raise UsageError("udb.value", "there is nothing to change", hint="--group orga, --key FILE, --generate...")
    with client(arguments, seconds=BULK_SECONDS) as udb:
        before = chosen(udb, arguments.user)
        if len(before) > 1 and (own := [name for name in _OWN if patch.get(name) is not None]):
            raise UsageError("udb.value", f"{len(before)} users cannot have the same {own[0]}")
        update = [{"id": each.id, "patch": patch, "match": each.revision} for each in before]
        edits = converted({"update": update, "dry": arguments.dry_run}, Edits, code="udb.value")
        return _changed(arguments, before, udb.edit(edits))


def remove(arguments: argparse.Namespace) -> int:
    with client(arguments, seconds=BULK_SECONDS) as udb:
        gone = chosen(udb, arguments.user)
        if len(gone) > len(arguments.user) and not arguments.yes and not arguments.dry_run:
            raise UsageError("udb.sure", f"{len(gone)} users would be removed", hint="--dry-run shows them; --yes")
        delete = [{"id": each.id, "match": each.revision} for each in gone]
        answer = udb.edit(converted({"delete": delete, "dry": arguments.dry_run}, Edits, code="udb.value"))
    if arguments.json:
        return print_json(answer)
    for each in gone:
        print(f"{'would remove' if arguments.dry_run else 'removed'} {each.login} ({one_line(each.name)}, {each.uid})")
    return int(Exit.OK)


def pools(arguments: argparse.Namespace) -> int:
    with client(arguments) as udb:
        found = udb.pools()
    if arguments.json:
        return print_json(found)
    rows: list[tuple[str, ...]] = [("GROUP", "UIDS", "USED", "FREE")]
    rows += [(each.group.value, f"{each.first}-{each.last}", str(each.used), str(each.free)) for each in found.pools]
    return table(rows)


def _given(arguments: argparse.Namespace) -> dict[str, Any]:
    """The fields on the command line, as the API takes them."""
    values = {name: getattr(arguments, name, None) for name in _FIELDS}
    given = {name: value for name, value in values.items() if value is not None}
    if arguments.keys is not None:
        given["keys"] = [line for word in arguments.keys for line in _key(word)]
    if arguments.generate:
        given["generate"] = True
    if arguments.password:
        given["password"] = _ask()
    return given


def _key(word: str) -> list[str]:
    """The keys of a .pub file, or the key that was written down."""
    if word.startswith(("ssh-", "ecdsa-", "sk-")):
        return [word]
    try:
        lines = Path(word).read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError("udb.file", f"cannot be read: {getattr(error, 'strerror', error)}", where=word) from error
    return [line for line in lines if line.strip() and not line.startswith("#")]


def _ask() -> str:
    """A password, never from the command line, where others of this host would see it."""
    if not sys.stdin.isatty():
        return sys.stdin.readline().rstrip("\n")
    password = getpass.getpass("password: ")
    if getpass.getpass("once more: ") != password:
        raise UsageError("udb.value", "these were two different passwords")
    return password


def _changed(arguments: argparse.Namespace, before: Sequence[User | None], answer: Edited) -> int:
    if arguments.json:
        return print_json(answer)
    for old, new in zip(before, answer.users, strict=True):
        said = f"{new.login}, uid {new.uid}, {new.group.value}"
        if old is not None and old == new:
            print(f"unchanged: {said}")
            continue
        print(f"{'would be' if arguments.dry_run else 'now'}: {said}")
        show_changes(old, new)
    return int(Exit.OK)
