"""From rows of a table to edits: which machine a row means, and what it says about it. Pure.

A row means the machine with its `id`, else the one with its MAC address, else the one with its host name, else a new
one. A cell that is empty clears a text that may be empty (aliases, pinned, notes, faulty_reason), and leaves everything
else to what is there, or to the default of a new machine.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import msgspec

from services.common.codec import convert
from services.common.names import normal_mac
from services.common.tables import Mistakes, Row
from services.mdb.edits import Create, Step, Update
from services.mdb.schema import Action, Imported, Machine, MachinePatch, NewMachine, Taken
from services.mdb.writing import of_step

_CLEARED: dict[str, object] = {"aliases": [], "pinned": None, "notes": "", "faulty_reason": ""}
_YES, _NO = ("yes", "true", "1"), ("no", "false", "0")


@dataclass(frozen=True)
class Planned:
    """What a row does, and where it stands."""

    row: Row
    edit: Create | Update


def plan(rows: Sequence[Row], machines: Iterable[Machine]) -> list[Planned]:
    """An edit for each row. Raises InputError: `import.value`, `import.twice`, `import.mac`, `import.invalid`."""
    by_id = {machine.id: machine for machine in machines}
    by_mac = {machine.mac: machine for machine in by_id.values() if machine.mac is not None}
    by_name = {machine.hostname: machine for machine in by_id.values()}
    mistakes = Mistakes()
    planned: list[Planned] = []
    meant: dict[int, Row] = {}
    for row in rows:
        values = _values(row, mistakes)
        if values is None:
            continue
        id = values.pop("id", None)
        found = by_id.get(id) if isinstance(id, int) else None
        found = found or by_mac.get(_mac(values.get("mac"))) or by_name.get(str(values.get("hostname", "")))
        if found is not None:
            if (first := meant.setdefault(found.id, row)) is not row:
                message = f"this is {found.hostname} again, as in line {first.line}"
                mistakes.add("import.twice", message, where=row.place())
                continue
        elif values.get("mac") is None:
            message = f"a new machine needs a MAC address; none is called {values.get('hostname')}"
            mistakes.add("import.mac", message, where=row.place("mac"))
            continue
        try:
            if found is None:
                planned.append(Planned(row, Create(convert(values, NewMachine, strict=False))))
            else:
                planned.append(Planned(row, Update(found.id, convert(values, MachinePatch, strict=False))))
        except msgspec.ValidationError as error:
            message, _, place = str(error).partition(" - at `$.")
            name = place.rstrip("`").partition("[")[0]
            told = f"{name}: " if name in row.columns else ""
            mistakes.add("import.value", f"{told}{message[:1].lower()}{message[1:]}", where=row.place(name))
    mistakes.check()
    return planned


def told(planned: Sequence[Planned], steps: Sequence[Step], *, dry: bool) -> Imported:
    """What the rows did."""
    changes = [
        Taken(
            line=each.row.line,
            id=change.after["id"],
            hostname=change.name,
            action=Action(change.kind.value),
            before=before,
            after=after,
        )
        for each, step in zip(planned, steps, strict=True)
        if step.after is not step.before
        for change in [of_step(step)]
        for before, after in [change.differences()]
        if change.after is not None
    ]
    created = sum(change.action is Action.CREATED for change in changes)
    updated = len(changes) - created
    return Imported(created=created, updated=updated, unchanged=len(planned) - len(changes), changes=changes, dry=dry)


def _values(row: Row, mistakes: Mistakes) -> dict[str, object] | None:
    """What a row says, by column, without what it leaves open; None when a cell makes no sense."""
    values: dict[str, object] = {}
    before = len(mistakes.found)
    for name, cell in row.cells.items():
        if isinstance(cell, str) and name not in ("notes", "faulty_reason"):
            cell = cell.strip()
        if cell is None or cell == "" or cell == []:
            if name in _CLEARED:
                values[name] = _CLEARED[name]
            continue
        if name == "aliases" and isinstance(cell, str):
            cell = cell.replace(",", " ").split()
        elif name == "faulty" and not isinstance(cell, bool):
            if str(cell).lower() not in (*_YES, *_NO):
                mistakes.add("import.value", f"faulty is {cell!r}, neither yes nor no", where=row.place(name))
                continue
            cell = str(cell).lower() in _YES
        elif name == "id":
            if not str(cell).isdecimal() or len(str(cell)) > 18:
                mistakes.add("import.value", f"id is {cell!r}, which is no number", where=row.place(name))
                continue
            cell = int(str(cell))
        elif name != "aliases" and not isinstance(cell, str | int | float):
            mistakes.add("import.value", f"{name} is a list", where=row.place(name))
            continue
        values[name] = cell
    return values if len(mistakes.found) == before else None


def _mac(cell: object) -> str:
    try:
        return normal_mac(str(cell))
    except ValueError:
        return ""  # what is wrong with it is told later, with its place
