"""Which archives stay: the newest few, one of each hour for some hours, and one of each day for some days. Pure.

Hours and days are counted back from the newest archive, not from now: a clock that is wrong by a year, or a gw that was
off for a month, must not cost anything.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

from services.state.schema import Name

FORM = "%Y%m%dT%H%M%SZ"
RECENT = 10
"""So many stay whatever hour they are of: a save after an upgrade does not replace the one before it."""


def moment(name: Name) -> datetime:
    """When an archive was saved, by its name; the beginning of time for a day that does not exist."""
    try:
        return datetime.strptime(name.at, FORM).replace(tzinfo=UTC)
    except ValueError:
        return datetime(1970, 1, 1, tzinfo=UTC)


def staying(names: Iterable[Name], *, hourly: int, daily: int) -> set[Name]:
    """Those of one host that stay; of each line, the newest always does."""
    lines: dict[tuple[str, str], list[Name]] = {}
    for name in names:
        lines.setdefault((name.host, name.line), []).append(name)
    stay: set[Name] = set()
    for own in lines.values():
        own.sort(key=moment, reverse=True)
        newest = moment(own[0])
        seen: set[str] = set()
        stay.update(own[:RECENT])
        for name in own:
            at = moment(name)
            slots = []
            if newest - at < timedelta(hours=hourly):
                slots.append(f"hour {at:%Y%m%d%H}")
            if newest - at < timedelta(days=daily):
                slots.append(f"day {at:%Y%m%d}")
            if fresh := [slot for slot in slots if slot not in seen]:
                seen.update(fresh)
                stay.add(name)
    return stay
