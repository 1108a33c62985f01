"""Rows of netboot's tables as structs, and back."""

from __future__ import annotations

from typing import Any

import msgspec
from sqlalchemy import select
from sqlalchemy.orm import Session

from netboot import decide
from netboot.decide import Pointers
from netboot.models import ChannelChangeRow, ChannelRow, HoldingRow, PinRow, VersionRow
from netboot.schema import Action, Channel, ChannelChange, Pin, PinKind, Version
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
        {row.version: version(row) for row in session.scalars(select(VersionRow))},
        {held: frozenset(numbers) for held, numbers in holders.items()},
        {row.name: channel(row, 0.0) for row in session.scalars(select(ChannelRow))},
        {(PinKind(row.kind), row.value): row.version for row in session.scalars(select(PinRow))},
    )


def version(row: VersionRow) -> Version:
    """A version."""
    return Version(
        version=row.version,
        role=row.role,
        root_hash=row.root_hash,
        options=row.options,
        size=row.size,
        added=row.added,
        added_by=row.added_by,
    )


def channel(row: ChannelRow, now: float) -> Channel:
    """A channel, and what it says at `now`."""
    made = Channel(
        name=row.name,
        current=row.current,
        previous=row.previous,
        commit_by=row.commit_by,
        committed=row.committed,
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
