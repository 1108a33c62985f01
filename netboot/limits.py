"""How often one address may ask: a bucket for each, that fills again with time. Pure but for the clock it is given.

A machine asks a few times in a minute. Whoever asks more often is told to wait, so that one curious seat neither fills
the disk with boot records nor the address pool with machines. The number of buckets is bounded as well.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

BUCKETS = 4096


class Limit:
    """At most `burst` at once, and `per_second` in the long run, for each key."""

    def __init__(self, *, burst: int, per_second: float, clock: Callable[[], float]) -> None:
        self.burst = burst
        self.per_second = per_second
        self._clock = clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def allows(self, key: str) -> bool:
        """Take one from the bucket of `key`, if there is one left."""
        now = self._clock()
        left, since = self._buckets.pop(key, (float(self.burst), now))
        left = min(float(self.burst), left + max(0.0, now - since) * self.per_second)
        allowed = left >= 1.0
        self._buckets[key] = (left - 1.0 if allowed else left, now)
        while len(self._buckets) > BUCKETS:
            self._buckets.popitem(last=False)
        return allowed
