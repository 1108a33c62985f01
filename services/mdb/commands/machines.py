"""list, show, add, edit, rm, pools, code: machines and their addresses."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from services.common.codec import to_builtins
from services.common.commands import converted, difference, moment, one_line, print_json, show_changes, table
from services.common.errors import Exit, UsageError
from services.common.problem import RemoteError
from services.mdb.commands.common import BULK_SECONDS, TELLING, chosen, client
from services.mdb.schema import Edited, Edits, Machine

FIELDS = ("hostname", "mac", "ip", "rfs", "hfs", "type", "room", "faulty_reason", "channel", "pinned", "notes")
_OWN = ("hostname", "mac", "ip", "aliases")  # no two machines have the same


def list_(arguments: argparse.Namespace) -> int:
    with client(arguments) as mdb:
        found = mdb.machines(" ".join(arguments.query))
    if arguments.json:
        return print_json(found)
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
    table(rows)
    return int(Exit.OK)


def show(arguments: argparse.Namespace) -> int:
    with client(arguments) as mdb:
        machine = mdb.machine(arguments.machine)
        try:
            entries = mdb.audit(machine.id, limit=20).entries
        except RemoteError as error:
            if error.problem.status not in (401, 403):
                raise
            entries = []  # history and notes are for those who have logged in
    if arguments.json:
        return print_json(machine)
    plain = to_builtins(machine)
    assert isinstance(plain, dict)
    for name, value in plain.items():
        if name in ("created", "updated"):
            value = moment(value)
        shown = " ".join(value) if isinstance(value, list) else "" if value is None else str(value)
        print(f"{name:<14} {one_line(shown)}".rstrip())
    print()
    for entry in entries:
        what = difference(entry.before, entry.after, TELLING)
        topic = "" if entry.topic == "machines" else f"{entry.topic} "
        print(f"{moment(entry.at)}  {entry.actor} ({entry.origin}) {topic}{entry.action.value}: {what}")
    return int(Exit.OK)


def _given(arguments: argparse.Namespace) -> dict[str, Any]:
    """The fields on the command line, as the API takes them."""
    values = {name: getattr(arguments, name, None) for name in (*FIELDS, "aliases", "faulty")}
    given = {name: value for name, value in values.items() if value is not None}
    if given.get("pinned") == "":
        given["pinned"] = None
    if given.get("aliases") == [""]:
        given["aliases"] = []
    return given


def add(arguments: argparse.Namespace) -> int:
    if arguments.mac is None:
        raise UsageError("mdb.value", "a machine is known by its MAC address", hint="--mac 52:54:00:12:34:56")
    edits = converted({"create": [_given(arguments)], "dry": arguments.dry_run}, Edits, code="mdb.value")
    with client(arguments) as mdb:
        return _changed(arguments, [None], mdb.edit(edits))


def edit(arguments: argparse.Namespace) -> int:
    patch = _given(arguments)
    if not patch:
        raise UsageError("mdb.value", "there is nothing to change", hint="--room alt, --faulty, --alias NAME...")
    with client(arguments, seconds=BULK_SECONDS) as mdb:
        before = chosen(mdb, arguments.machine)
        if len(before) > 1 and (own := [name for name in _OWN if name in patch]):
            raise UsageError("mdb.value", f"{len(before)} machines cannot have the same {own[0]}")
        update = [{"id": each.id, "patch": patch, "match": each.revision} for each in before]
        return _changed(
            arguments,
            before,
            mdb.edit(converted({"update": update, "dry": arguments.dry_run}, Edits, code="mdb.value")),
        )


def remove(arguments: argparse.Namespace) -> int:
    with client(arguments, seconds=BULK_SECONDS) as mdb:
        gone = chosen(mdb, arguments.machine)
        if len(gone) > len(arguments.machine) and not arguments.yes and not arguments.dry_run:
            raise UsageError("mdb.sure", f"{len(gone)} machines would be removed", hint="--dry-run shows them; --yes")
        delete = [{"id": each.id, "match": each.revision} for each in gone]
        answer = mdb.edit(converted({"delete": delete, "dry": arguments.dry_run}, Edits, code="mdb.value"))
    if arguments.json:
        return print_json(answer)
    for each in gone:
        print(f"{'would remove' if arguments.dry_run else 'removed'} {each.hostname} ({each.ip}, {each.mac or '-'})")
    return int(Exit.OK)


def _changed(arguments: argparse.Namespace, before: Sequence[Machine | None], answer: Edited) -> int:
    if arguments.json:
        return print_json(answer)
    for old, new in zip(before, answer.machines, strict=True):
        if old is not None and old == new:
            print(f"unchanged: {new.hostname}, {new.ip}, {new.mac or '-'}")
            continue
        print(f"{'would be' if arguments.dry_run else 'now'}: {new.hostname}, {new.ip}, {new.mac or '-'}")
        show_changes(old, new)
    return int(Exit.OK)


def pools(arguments: argparse.Namespace) -> int:
    with client(arguments) as mdb:
        found = mdb.pools()
    if arguments.json:
        return print_json(found)
    rows: list[tuple[str, ...]] = [("TYPE", "RANGE", "SIZE", "USED", "RESTING", "FREE")]
    for each in found.pools:
        numbers = (str(number) for number in (each.size, each.used, each.resting, each.free))
        rows.append((each.type.value, f"{each.first}-{each.last}", *numbers))
    table(rows)
    return int(Exit.OK)


def code(arguments: argparse.Namespace) -> int:
    with client(arguments) as mdb:
        made = mdb.code(mdb.machine(arguments.machine).id)
    if arguments.json:
        return print_json(made)
    print(f"{made.code}  for {made.hostname}, once, until {moment(made.expires)}")
    return int(Exit.OK)
