"""Leases: which version each machine runs, and so nobody may take away. Pure but for the rows that it reads.

A lease begins with the record of a boot. It ends when its machine boots another version, when an administrator marks
the machine off, or `LEASE_SECONDS` after its last sign of life. What anybody may ask ends no lease: a boot that still
sends heartbeats, which take its own token, keeps its lease although a newer record is there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row, func, select
from sqlalchemy.orm import Session

from netboot.models import BootRow

LEASE_SECONDS = 24 * 3600.0
_PART = 500


@dataclass(frozen=True)
class Held:
    """One lease: `sign` is the last sign of life, in seconds since 1970."""

    boot: str
    machine: int
    hostname: str
    version: str
    role: str
    since: float
    sign: float

    @property
    def ends(self) -> float:
        """When it ends unless there is another sign of life."""
        return self.sign + LEASE_SECONDS


def active(session: Session, now: float, signs: Mapping[str, float]) -> list[Held]:
    """Every lease by host name. `signs`: the last heartbeat of boots by id, as far as it is newer than the tables."""
    signs = dict(signs)  # another thread adds to it
    newest = select(BootRow.machine, func.max(BootRow.at).label("at")).where(BootRow.version.is_not(None))
    newest_at = newest.group_by(BootRow.machine).subquery()
    rows = _columns(newest_at.c.at).join(newest_at, BootRow.machine == newest_at.c.machine)
    found = list(session.execute(rows.where((BootRow.at == newest_at.c.at) | (BootRow.seen > newest_at.c.at))))
    others = sorted(signs.keys() - {row.id for row in found})
    for begin in range(0, len(others), _PART):
        found += session.execute(rows.where(BootRow.id.in_(others[begin : begin + _PART])))
    held = [each for row in found if (each := _held(row, now, signs.get(row.id))) is not None]
    return sorted(held, key=lambda each: (each.hostname, each.machine, -each.since))


def _columns(newest: Any) -> Any:
    return select(
        BootRow.id,
        BootRow.machine,
        BootRow.hostname,
        BootRow.version,
        BootRow.role,
        BootRow.at,
        BootRow.claimed_at,
        BootRow.stage_at,
        BootRow.seen,
        BootRow.marked_off,
        newest.label("newest"),
    ).where(BootRow.version.is_not(None))


def _held(row: Row[Any], now: float, beat: float | None) -> Held | None:
    """The lease of a boot's row, or None when it has ended."""
    seen = _latest([row.seen, beat])
    sign = _latest([row.at, row.claimed_at, row.stage_at, seen])
    if now - sign >= LEASE_SECONDS or (row.marked_off is not None and sign <= row.marked_off):
        return None
    if row.at < row.newest and seen <= row.newest:
        return None
    return Held(row.id, row.machine, row.hostname, row.version, row.role or "", row.at, sign)


def _latest(moments: Iterable[float | None]) -> float:
    return max((moment for moment in moments if moment is not None), default=0.0)
