"""Settings that are changed while the hall runs: typed, with a default each, and a history. Part of `store`.

`schema.Variables` names them all. Every one is a row from the first start on, so that the feed has it.
"""

from __future__ import annotations

import json

import msgspec
from msgspec import inspect
from sqlalchemy import delete, insert, select, update
from sqlalchemy.orm import Session

from services.common.codec import convert
from services.common.errors import InputError, MissingError, nearest
from services.common.feed.wire import Kind, Record
from services.common.history import Changed
from services.common.settings import type_text
from services.mdb.history import SETTINGS, log
from services.mdb.models import SettingRow, outbox
from services.mdb.schema import Actor, Scalar, Variable, Variables


def record(key: str, value: Scalar) -> Record:
    """A setting as the feed carries it."""
    return {"key": key, "value": value}


def begin(session: Session, now: float) -> None:
    """Have a row for each setting, and none for one that is no more."""
    known = dict.fromkeys(Variables.__struct_fields__)
    there = set(session.scalars(select(SettingRow.key)))
    new = {key: getattr(Variables(), key) for key in known if key not in there}
    if gone := sorted(there - known.keys()):
        session.execute(delete(SettingRow).where(SettingRow.key.in_(gone)))
    if new:
        rows = [{"key": key, "value": json.dumps(value), "updated": now} for key, value in new.items()]
        session.execute(insert(SettingRow), rows)
    changes = [(SETTINGS, key, Kind.DELETED, None) for key in gone]
    outbox.append(session, [*changes, *((SETTINGS, key, Kind.CREATED, record(key, new[key])) for key in new)])


def load(session: Session) -> Variables:
    """What is set."""
    rows = session.execute(select(SettingRow.key, SettingRow.value))
    return Variables(**{row.key: json.loads(row.value) for row in rows})


def listed(session: Session) -> list[Variable]:
    """Each with its type, default and meaning."""
    info = inspect.type_info(Variables)
    assert isinstance(info, inspect.StructType)
    rows = {row.key: row for row in session.scalars(select(SettingRow))}
    found = []
    for field in info.fields:
        about, inner = "", field.type
        while isinstance(inner, inspect.Metadata):
            about, inner = str((inner.extra_json_schema or {}).get("description", about)), inner.type
        row = rows[field.name]
        found.append(
            Variable(
                key=field.name,
                type=type_text(inner),
                value=json.loads(row.value),
                default=field.default,
                about=about,
                updated=row.updated,
            )
        )
    return found


def change(session: Session, actor: Actor, key: str, value: Scalar, now: float) -> None:
    """Set one. Raises MissingError("setting.unknown"), InputError("setting.value")."""
    if key not in Variables.__struct_fields__:
        hint = nearest(key, list(Variables.__struct_fields__))
        raise MissingError("setting.unknown", f"there is no setting {key}", hint=hint)
    try:
        convert({key: value}, Variables)
    except msgspec.ValidationError as error:
        message = str(error).partition(" - at ")[0]
        raise InputError("setting.value", f"{key}: {message[:1].lower()}{message[1:]}") from error
    outbox.lock(session)
    before = getattr(load(session), key)
    if before == value:
        return
    session.execute(update(SettingRow).where(SettingRow.key == key).values(value=json.dumps(value), updated=now))
    log(session, actor, [Changed(SETTINGS, key, key, record(key, before), record(key, value))], now)
