"""Which address a machine gets. Pure: no clock, no database.

The lowest address of the pool that nobody has, that is not excluded, and that has rested since its last owner left: a
lease or a cached name may still lead there. When only resting ones are left, the refusal says when the next is free.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network

from services.common.addresses import Range, misfit, overlapping, unusable
from services.common.errors import BusyError, InputError
from services.mdb.schema import MachineType, PoolSettings, Settings

REST_SECONDS = 3600.0


@dataclass(frozen=True)
class Bounds:
    """A pool's range inside its network, without what is excluded. `reserved` are hall.toml's own, with their hosts."""

    name: str
    span: Range
    network: IPv4Network
    excluded: Sequence[Range] = ()
    reserved: Mapping[IPv4Address, str] = field(default_factory=dict)

    def __iter__(self) -> Iterator[IPv4Address]:
        """Every address that may be given, lowest first."""
        excluded = {address for span in self.excluded for address in span} | set(self.reserved)
        return (address for address in self.span if address not in excluded and unusable(address, self.network) is None)

    def refusal(self, address: IPv4Address, *, hostname: str) -> str | None:
        """Why an administrator cannot write down `address` for `hostname`, or None.

        Outside of the range is fine, and excluded is fine: whoever writes it down knows why. Outside of the network is
        not, nor is what belongs to another host of hall.toml.
        """
        owner = self.reserved.get(address, hostname)
        if owner != hostname:
            return f"{address} belongs to {owner}, says hall.toml"
        return unusable(address, self.network)


def bounds_of(settings: Settings) -> dict[MachineType, Bounds]:
    """The pools that the settings describe. Raises InputError("settings.invalid") with the setting to correct."""
    reserved = {}
    for text in settings.reserved:
        address, _, host = text.partition("=")
        with _setting("reserved"):
            reserved[IPv4Address(address)] = host
    found = {}
    for type in MachineType:
        pool: PoolSettings = getattr(settings.pools, type.value)
        if not pool.range:
            continue
        with _setting(f"pools.{type.value}"):
            span, network = Range.parse(pool.range), IPv4Network(pool.network)
            if problem := misfit(span, network):
                raise ValueError(problem)
            excluded = tuple(Range.parse(text) for text in pool.excluded)
        found[type] = Bounds(type.value, span, network, excluded, reserved)
    for one, other in overlapping({type: bounds.span for type, bounds in found.items()}):
        raise InputError(
            "settings.invalid", f"pools.{other.value} {found[other].span} overlaps pools.{one.value} {found[one].span}"
        )
    return found


@contextmanager
def _setting(key: str) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise InputError("settings.invalid", f"{key}: {error}") from error


class Allocator:
    """Gives addresses of one pool; what it gave is taken. One walk over the pool, however many are asked for."""

    def __init__(
        self, bounds: Bounds, taken: Collection[IPv4Address], resting: Mapping[IPv4Address, float], *, now: float
    ) -> None:
        self.bounds = bounds
        self._taken = set(taken)
        self._until = {address: since + REST_SECONDS for address, since in resting.items()}
        self._now = now
        self._walk = iter(bounds)

    def next(self) -> IPv4Address:
        """The lowest address that is free. Raises BusyError("pool.exhausted")."""
        for address in self._walk:
            if address not in self._taken and self._until.get(address, 0.0) <= self._now:
                self._taken.add(address)
                return address
        later = (self._until.get(address, 0.0) for address in self.bounds if address not in self._taken)
        waiting = [until for until in later if until > self._now]
        hint = f"widen the pool, or remove machines of type {self.bounds.name} that are gone"
        if waiting:
            hint = f"the next one has rested in {min(waiting) - self._now:.0f} s; or widen the pool"
        raise BusyError("pool.exhausted", f"no address is left for {self.bounds.name} in {self.bounds.span}", hint=hint)

    def take(self, address: IPv4Address) -> None:
        """Have `address` taken by someone."""
        self._taken.add(address)


@dataclass(frozen=True)
class Level:
    """How full a pool is."""

    size: int
    used: int
    resting: int

    @property
    def free(self) -> int:
        """Addresses that would be given now."""
        return self.size - self.used - self.resting


def level(bounds: Bounds, taken: Collection[IPv4Address], resting: Mapping[IPv4Address, float], *, now: float) -> Level:
    """How full a pool is at `now` (seconds since the epoch)."""
    given = set(bounds)
    used = given.intersection(taken)
    rests = {address for address, since in resting.items() if since + REST_SECONDS > now}
    return Level(len(given), len(used), len(given & rests - used))
