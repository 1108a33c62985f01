"""Rows of netboot's tables as structs, and back."""

from __future__ import annotations

from typing import Any

import msgspec
from sqlalchemy import select
from sqlalchemy.orm import Session

from netboot import decide
from netboot.decide import Pointers
from netboot.models import ChannelChangeRow, ChannelRow, HoldingRow, PinRow, QuarantineRow, VersionRow
from netboot.schema import Action, Channel, ChannelChange, Pin, PinKind, Quarantine, Version
from services.common.codec import to_builtins


def columns(struct: msgspec.Struct) -> dict[str, Any]:
    """A struct's fields as columns."""
    plain = to_builtins(struct)
    assert isinstance(plain, dict)
    return plain


def pointers(session: Session) -> Pointers:
    """All that decides a boot."""
    holders: dict[str, set[int]] = {}
    for row in session.execute(select(HoldingRow.version, HoldingRow.rfs)):
        holders.setdefault(row.version, set()).add(row.rfs)
    return Pointers(
        {each.version: each for each in versions(session)},
        {held: frozenset(numbers) for held, numbers in holders.items()},
        {row.name: channel(row, 0.0) for row in session.scalars(select(ChannelRow))},
        {(PinKind(row.kind), row.value): row.version for row in session.scalars(select(PinRow))},
    )


def versions(session: Session) -> list[Version]:
    """The newest first."""
    why = {row.version: row.why for row in session.scalars(select(QuarantineRow))}
    found = session.scalars(select(VersionRow).order_by(VersionRow.added.desc(), VersionRow.version))
    return [version(row, quarantined=why.get(row.version)) for row in found]


def version(row: VersionRow, *, quarantined: str | None = None) -> Version:
    """A version."""
    return Version(
        version=row.version,
        role=row.role,
        root_hash=row.root_hash,
        options=row.options,
        size=row.size,
        added=row.added,
        added_by=row.added_by,
        quarantined=quarantined,
    )


def channel(row: ChannelRow, now: float) -> Channel:
    """A channel, and what it says at `now`."""
    made = Channel(
        name=row.name,
        current=row.current,
        previous=row.previous,
        commit_by=row.commit_by,
        committed=row.committed,
        only=None if row.trial is None else [int(id) for id in row.trial.split()],
        generation=row.generation,
        effective=None,
        changed=row.changed,
        changed_by=row.changed_by,
        why=row.why,
    )
    return msgspec.structs.replace(made, effective=decide.effective(made, now))


def change(row: ChannelChangeRow) -> ChannelChange:
    """A line of a channel's history."""
    return ChannelChange(
        id=row.id,
        channel=row.channel,
        action=Action(row.action),
        current=row.current,
        previous=row.previous,
        commit_by=row.commit_by,
        generation=row.generation,
        at=row.at,
        by=row.by,
        why=row.why,
    )


def pin(row: PinRow) -> Pin:
    """A pin of a room or type."""
    return Pin(kind=PinKind(row.kind), value=row.value, version=row.version, why=row.why, at=row.at, by=row.by)


def quarantine(row: QuarantineRow) -> Quarantine:
    """A version that is not offered."""
    return Quarantine(version=row.version, at=row.at, by=row.by, why=row.why)
