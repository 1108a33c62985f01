"""Switches: which servers are nearest to what is plugged into one. Part of `store`, within its transactions."""

from __future__ import annotations

from typing import Any

import msgspec
from sqlalchemy import delete, insert, or_, select, update
from sqlalchemy.orm import Session

from services.common.codec import to_builtins
from services.common.errors import BusyError, InputError, MissingError
from services.common.feed.wire import Record
from services.common.history import Changed
from services.common.names import label_problem, normal_mac
from services.mdb.history import SWITCHES, log
from services.mdb.models import SwitchRow, outbox
from services.mdb.schema import Actor, NewSwitch, Switch, SwitchPatch


def record(switch: Switch) -> Record:
    """A switch as the feed carries it: the fields of `Switch`."""
    plain = to_builtins(switch)
    assert isinstance(plain, dict)
    return plain


def load(session: Session) -> list[Switch]:
    """All of them, in the order of their names."""
    table = SwitchRow.__table__
    return [Switch(**row) for row in session.execute(select(table).order_by(table.c.name)).mappings()]


def find(session: Session, id: int) -> Switch:
    """One by its id. Raises MissingError("switch.unknown")."""
    row = session.execute(select(SwitchRow.__table__).where(SwitchRow.id == id)).mappings().one_or_none()
    if row is None:
        raise MissingError("switch.unknown", f"there is no switch {id}")
    return Switch(**row)


def create(session: Session, actor: Actor, new: NewSwitch, now: float) -> Switch:
    """Add one. Raises InputError("switch.*"), BusyError("conflict.*")."""
    revision = outbox.lock(session) + 1
    values = _checked(session, {name: getattr(new, name) for name in NewSwitch.__struct_fields__}, None)
    id = session.scalars(insert(SwitchRow).returning(SwitchRow.id), [values | {"revision": revision}]).one()
    made = Switch(id=id, revision=revision, **values)
    log(session, actor, [Changed(SWITCHES, str(id), made.name, None, record(made))], now)
    return made


def change(session: Session, actor: Actor, id: int, patch: SwitchPatch, match: int | None, now: float) -> Switch:
    """Change one; with `match`, only while its revision is that one. Raises as `create` and `find`."""
    revision = outbox.lock(session) + 1
    before = _matching(find(session, id), match)
    given = {name: getattr(patch, name) for name in SwitchPatch.__struct_fields__}
    values = _checked(session, {name: value for name, value in given.items() if value is not msgspec.UNSET}, id)
    after = msgspec.structs.replace(before, **values)
    if after == before:
        return before
    after = msgspec.structs.replace(after, revision=revision)
    session.execute(update(SwitchRow).where(SwitchRow.id == id).values(**values, revision=revision))
    log(session, actor, [Changed(SWITCHES, str(id), after.name, record(before), record(after))], now)
    return after


def remove(session: Session, actor: Actor, id: int, match: int | None, now: float) -> None:
    """Remove one; with `match`, only while its revision is that one. Raises as `find`."""
    outbox.lock(session)
    before = _matching(find(session, id), match)
    session.execute(delete(SwitchRow).where(SwitchRow.id == id))
    log(session, actor, [Changed(SWITCHES, str(id), before.name, record(before), None)], now)


def _matching(switch: Switch, match: int | None) -> Switch:
    if match not in (None, switch.revision):
        message = f"{switch.name} was changed meanwhile: it is at revision {switch.revision}, not {match}"
        raise BusyError("conflict.changed", message, hint="look at it again, then decide")
    return switch


def _checked(session: Session, values: dict[str, Any], id: int | None) -> dict[str, Any]:
    """The values in their one form, and nobody else's."""
    for key in ("name", "room"):
        if key in values and (problem := label_problem(values[key])):
            raise InputError(f"switch.{key}", f"{key}: {problem}")
    if "chassis" in values:
        try:
            values["chassis"] = normal_mac(values["chassis"])
        except ValueError as error:
            raise InputError("switch.chassis", f"the chassis id: {error}") from error
    same = or_(SwitchRow.name == values.get("name", ""), SwitchRow.chassis == values.get("chassis", ""))
    for other in session.execute(select(SwitchRow.id, SwitchRow.name, SwitchRow.chassis).where(same)):
        if other.id != id:
            what = "name" if other.name == values.get("name") else "chassis"
            raise BusyError(f"conflict.{what}", f"{values[what]} belongs to switch {other.name} ({other.chassis})")
    return values
