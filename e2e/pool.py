"""Labs shared between tests: booting one costs seconds, so it goes on to the next test that wants the same.

Only a lab that is as it was goes on: nothing cut, every node up on the version that it was started with. At most one
lab is kept at a time, so a machine of two processors does not run two halls.
"""

from __future__ import annotations

import msgspec

from builder.settings import Settings
from e2e import topology as topologies
from e2e.lab import Lab
from services.common.errors import BacklineError

_Key = tuple[str, int, bool]


class Labs:
    """The labs of a session. `settings` say where the store is, as the session's fixtures found it."""

    def __init__(self, *, keep: bool = False, topology: str | None = None, seats_in: str | None = None) -> None:
        self.keep = keep
        self.topology = topology
        self.seats_in = seats_in
        self.settings: Settings | None = None
        self._idle: tuple[_Key, Lab] | None = None
        self._keys: dict[int, _Key] = {}
        self._versions: dict[int, dict[str, str]] = {}

    def take(
        self,
        *,
        topology: str = "hall",
        seats: int = 0,
        share: bool = True,
        start: bool = True,
        extract: bool = False,
        seconds: float = 120.0,
    ) -> Lab:
        """A lab of that topology with so many seats; started unless `start` is False."""
        key = (self.topology or topology, seats, extract)
        if self._idle is not None:
            idle_key, lab = self._idle
            self._idle = None
            if idle_key == key and share and start:
                return lab
            self._end(lab)
        wanted = topologies.load(key[0]).with_seats(seats)
        if self.seats_in:
            nodes = {
                name: msgspec.structs.replace(node, backend=self.seats_in) if node.seat else node
                for name, node in wanted.nodes.items()
            }
            wanted = msgspec.structs.replace(wanted, nodes=nodes)
        lab = Lab(wanted, settings=self.settings, extract=extract)
        try:
            if start:
                lab.start(seconds=seconds)
        except BaseException:
            lab.close()
            raise
        self._keys[id(lab)] = key
        self._versions[id(lab)] = lab.versions()
        return lab

    def give_back(self, lab: Lab, *, failed: bool, share: bool) -> None:
        """After a test: keep the lab for the next, or end it."""
        if failed or not share or lab.closing or not self._restore(lab):
            self._end(lab)
            return
        self._idle = (self._keys[id(lab)], lab)

    def _restore(self, lab: Lab) -> bool:
        """Make a lab as it was; whether that worked."""
        try:
            lab.heal()
            off = [node for node in lab.nodes.values() if not node.running and not node.spec.off]
            if off or lab.versions() != self._versions[id(lab)]:
                return False
            return all(node.ready for node in lab.nodes.values() if not node.spec.off)
        except BacklineError:
            return False

    def _end(self, lab: Lab) -> None:
        if self.keep:
            print(f"\n{lab.again()}")
        self._keys.pop(id(lab), None)
        self._versions.pop(id(lab), None)
        lab.close()

    def close(self) -> None:
        """End what is left."""
        if self._idle is not None:
            self._end(self._idle[1])
            self._idle = None
