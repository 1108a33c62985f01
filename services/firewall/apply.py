"""What is in force in the kernel, and how it becomes something else.

The addresses of two sets change all the time: that is a transaction of a few lines. The table is loaded as a whole at
the start, and whenever somebody else has had his hands in it. What is refused changes nothing: the last good one stays
in force, and on disk, where a restart of the host takes it from until feeds have told.
"""

from __future__ import annotations

import logging
from ipaddress import IPv4Address
from pathlib import Path

import msgspec

from services.common.codec import decode_json, encode_json
from services.common.errors import InputError
from services.common.signing import write_text
from services.firewall.nft import Nft
from services.firewall.plan import Bounds, Sets
from services.firewall.rules import COUNTERS, SETS, swap, whole
from services.firewall.schema import Settings, Traffic

logger = logging.getLogger(__name__)

LAST_GOOD = "last-good.json"


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """The last good sets, as they are on disk."""

    seats: list[IPv4Address]
    always: list[IPv4Address]


class Applier:
    """One kernel's rules. Blocking; one caller at a time."""

    def __init__(self, settings: Settings, bounds: Bounds, nft: Nft) -> None:
        self.settings = settings
        self.bounds = bounds
        self.nft = nft
        self.file = Path(settings.folder) / LAST_GOOD
        self.in_force = Sets()
        self.counters = {name: Traffic(packets=0, bytes=0) for name in COUNTERS}
        self._shape: str | None = None

    def start(self) -> None:
        """Bring the last good sets into force, or none. Raises InputError("firewall.refused")."""
        kept = self._last_good()
        fitting = Sets(
            frozenset(each for each in kept.seats if self.bounds.problem(each) is None),
            frozenset(each for each in kept.always if self.bounds.problem(each) is None),
        )
        self._load_whole(fitting)
        logger.info("in force: the last good rules, %d seats and %d others", len(fitting.seats), len(fitting.always))

    def apply(self, sets: Sets) -> bool:
        """Bring sets into force; False when they are. Raises InputError("firewall.refused")."""
        if self._shape is None:
            self._load_whole(sets)
        elif sets == self.in_force:
            return False
        else:
            try:
                self.nft.load(swap(self.in_force, sets))
            except InputError:  # the table may be gone, or have other addresses
                self._load_whole(sets)
        self.in_force = sets
        self._keep(sets)
        return True

    def look(self) -> bool:
        """Is in the kernel what should be? If not, the next `apply` loads all of it."""
        same = self._shape is not None and self.nft.shape() == self._shape
        same = same and all(self.nft.addresses(name) == getattr(self.in_force, name) for name in SETS)
        if not same:
            self._shape = None
            return False
        self.counters = self.nft.counters()
        return True

    def _load_whole(self, sets: Sets) -> None:
        self.nft.load(whole(self.settings, self.bounds, sets))
        self.in_force = sets
        self._shape = self.nft.shape()

    def _last_good(self) -> Kept:
        try:
            return decode_json(self.file.read_bytes(), Kept)
        except FileNotFoundError:
            pass
        except (OSError, msgspec.DecodeError) as error:
            logger.warning("the last good rules cannot be read: %s", error)
        return Kept(seats=[], always=[])

    def _keep(self, sets: Sets) -> None:
        kept = Kept(seats=sorted(sets.seats), always=sorted(sets.always))
        try:
            write_text(self.file, encode_json(kept).decode())
        except OSError as error:
            logger.error("the last good rules cannot be kept: %s", error)
