"""Which seats a ring has. Pure: what netboot says of the machines goes in, lists of seats come out.

A row is what a host name says: `pas-r01p07` is in row `pas-r01`, so is `pas-r01p08`; `lab3-12` is in row `lab3`. Rooms
are mdb's. A ring has no seat that an earlier one had.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from netboot.schema import Seat
from services.common.names import row_of
from services.rollout.schema import RingKind


def follows(seat: Seat) -> bool:
    """Whether its channel decides what a machine boots, and it boots at all."""
    return not seat.faulty and seat.rule.startswith("channel ")


def first_of(seats: Iterable[Seat], *, name: str | None, even_with_user: bool) -> Seat | None:
    """The seat to begin with: the one of that name, or the first that is up and that nobody uses; None for none."""
    up = [seat for seat in seats if follows(seat) and seat.up and (name is None or seat.hostname == name)]
    free = [seat for seat in up if seat.user is None]
    return next(iter([*free, *(up if even_with_user else [])]), None)


def members(kind: RingKind, seats: Sequence[Seat], anchor: Seat) -> list[Seat]:
    """Machines that a ring reaches, up or not: those around the first seat."""
    match kind:
        case RingKind.SEAT:
            return [anchor]
        case RingKind.ROW:
            row = row_of(anchor.hostname)
            return [seat for seat in seats if seat.room == anchor.room and row_of(seat.hostname) == row]
        case RingKind.ROOM:
            return [seat for seat in seats if seat.room == anchor.room]
        case RingKind.ALL:
            return list(seats)


def targets(reached: Iterable[Seat], earlier: Collection[int]) -> list[Seat]:
    """Of the machines that a ring reaches, those that it restarts and looks at: up, and in no earlier ring."""
    return [seat for seat in reached if seat.up and follows(seat) and seat.machine not in earlier]
