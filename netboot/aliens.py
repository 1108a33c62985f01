"""MAC addresses that asked and that mdb does not know: for whoever looks for a machine that was not registered."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

import msgspec

from netboot.schema import Alien

KEPT = 256


class Strangers:
    """The newest `KEPT` of them; whoever invents addresses pushes out others, and nothing grows."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._seen: OrderedDict[str, Alien] = OrderedDict()

    def seen(self, mac: str, asked_from: str) -> None:
        """Note one question."""
        now = self._clock()
        before = self._seen.pop(mac, None) or Alien(mac=mac, asked_from=asked_from, first=now, last=now, times=0)
        self._seen[mac] = msgspec.structs.replace(before, asked_from=asked_from, last=now, times=before.times + 1)
        while len(self._seen) > KEPT:
            self._seen.popitem(last=False)

    def all(self) -> list[Alien]:
        """The newest first."""
        return list(reversed(self._seen.values()))
