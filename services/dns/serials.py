"""Serial numbers of zones, which never go back (RFC 1982). Pure.

A new serial is the time in seconds when that is newer than every serial that is known, else the newest plus one. So it
goes on after a restart, when the clock is set back, and when all that we kept is lost.
"""

from __future__ import annotations

from collections.abc import Iterable

MODULUS = 2**32
HALF = 2**31


def newer(one: int, other: int) -> bool:
    """Is `one` after `other` in the arithmetic of RFC 1982, section 3.2? Serials half the circle apart are not."""
    return 0 < (one - other) % MODULUS < HALF


def newest(known: Iterable[int]) -> int | None:
    """The newest of some serials, which lie within half the circle; None when there are none."""
    best: int | None = None
    for serial in known:
        if best is None or newer(serial, best):
            best = serial
    return best


def following(known: Iterable[int], now: float) -> int:
    """The serial of a zone that has changed at `now`, seconds since the epoch; never 0, which some take for none."""
    last = newest(known)
    wish = int(now) % MODULUS
    if last is not None and not newer(wish, last):
        wish = (last + 1) % MODULUS
    return wish or 1
