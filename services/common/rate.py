"""How often someone may do something: a token bucket for each key, in bounded memory. Pure."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable

KEYS = 4096


class Rate:
    """`burst` times at once for each key, then `per_minute`. The keys that were quiet longest are forgotten first."""

    def __init__(
        self, *, per_minute: float, burst: int, keys: int = KEYS, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.per_second = per_minute / 60
        self.burst = burst
        self.keys = keys
        self.clock = clock
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def allow(self, key: str) -> bool:
        """Count one try of `key`; False when it has had its share."""
        now = self.clock()
        left, since = self._left.pop(key, (float(self.burst), now))
        left = min(float(self.burst), left + (now - since) * self.per_second)
        allowed = left >= 1
        self._left[key] = (left - 1 if allowed else left, now)
        if len(self._left) > self.keys:
            self._left.popitem(last=False)
        return allowed

    def give_back(self, key: str) -> None:
        """Count one try of `key` less: it was a good one."""
        if key in self._left:
            left, since = self._left[key]
            self._left[key] = (min(float(self.burst), left + 1), since)
