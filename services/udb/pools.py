"""Which uid a user gets. Pure.

The pool of a group is walked in order from the last uid that was given, and from its beginning again at its end: so the
uid of somebody who is gone comes to somebody else as late as can be, for files and processes may still have it.
"""

from __future__ import annotations

from collections.abc import Collection

from services.common.errors import BusyError
from services.common.users import UID_POOLS, UserGroup


class Allocator:
    """Gives uids of one group; what it gave is taken. `last` is the one that was given last, None for none."""

    def __init__(self, group: UserGroup, taken: Collection[int], last: int | None) -> None:
        self.group = group
        self.pool = UID_POOLS[group]
        self.last = last if last is not None and last in self.pool else None
        self._taken = {uid for uid in taken if uid in self.pool}

    def next(self) -> int:
        """The next free uid. Raises BusyError("pool.exhausted")."""
        size = len(self.pool)
        start = 0 if self.last is None else self.last - self.pool.first + 1
        for step in range(size):
            uid = self.pool.first + (start + step) % size
            if uid not in self._taken:
                self._taken.add(uid)
                self.last = uid
                return uid
        raise BusyError(
            "pool.exhausted",
            f"no uid is left for group {self.group.value}: all {size} of {self.pool} are given",
            hint="remove users who are gone",
        )
