"""IPv4 ranges: parse, compare, allocate. Pure rules, no files and no network.

A range is written `first-last`, both ends included. Allocation is deterministic: the lowest address of the range
that is not taken. A purpose only ever gets addresses of its own range.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from typing import TypeVar

from services.common.errors import HostError

K = TypeVar("K")


@dataclass(frozen=True, order=True)
class Range:
    """Addresses `first` to `last`, both included; `first` is not after `last`."""

    first: IPv4Address
    last: IPv4Address

    def __post_init__(self) -> None:
        if self.last < self.first:
            raise ValueError(f"{self.first}-{self.last} ends before it begins")

    @classmethod
    def parse(cls, text: str) -> Range:
        """Read `192.168.0.1-192.168.0.253`. Raises ValueError with a message for people."""
        first, dash, last = text.partition("-")
        if not dash:
            raise ValueError(f"{text!r} is not a range, write first-last, such as 192.168.0.1-192.168.0.253")
        ends = []
        for end in (first.strip(), last.strip()):
            try:
                ends.append(IPv4Address(end))
            except ValueError as error:
                raise ValueError(f"{end!r} in range {text!r} is not an IPv4 address") from error
        return cls(ends[0], ends[1])

    def __str__(self) -> str:
        return f"{self.first}-{self.last}"

    def __len__(self) -> int:
        return int(self.last) - int(self.first) + 1

    def __contains__(self, address: object) -> bool:
        return isinstance(address, IPv4Address) and self.first <= address <= self.last

    def __iter__(self) -> Iterator[IPv4Address]:
        return (IPv4Address(number) for number in range(int(self.first), int(self.last) + 1))

    def overlaps(self, other: Range) -> bool:
        """Whether an address is in both."""
        return self.first <= other.last and other.first <= self.last


def misfit(span: Range, network: IPv4Network) -> str | None:
    """Why `span` cannot be allocated from in `network`, or None when every address of it is usable there."""
    if span.first not in network or span.last not in network:
        return f"{span} is not inside {network}"
    return unusable(span.first, network) or unusable(span.last, network)


def unusable(address: IPv4Address, network: IPv4Network) -> str | None:
    """Why no machine can have `address` in `network` (RFC 1122 section 3.2.1.3), or None."""
    if address not in network:
        return f"{address} is not inside {network}"
    if network.prefixlen >= 31:  # RFC 3021: both addresses of a point-to-point link are usable
        return None
    if address == network.network_address:
        return f"{address} is the address of network {network} itself"
    if address == network.broadcast_address:
        return f"{address} is the broadcast address of {network}"
    return None


def overlapping(spans: Mapping[K, Range]) -> list[tuple[K, K]]:
    """Every pair of names whose ranges share an address, in the order of their addresses."""
    ordered = sorted(spans.items(), key=lambda item: (item[1].first, item[1].last))
    pairs = []
    for index, (name, span) in enumerate(ordered):
        for other, candidate in ordered[index + 1 :]:
            if candidate.first > span.last:
                break
            pairs.append((name, other))
    return pairs


def allocate(span: Range, taken: Collection[IPv4Address]) -> IPv4Address:
    """The lowest address of `span` that is not taken. Raises HostError("addresses.exhausted")."""
    used = taken if isinstance(taken, set | frozenset) else frozenset(taken)
    for address in span:
        if address not in used:
            return address
    raise HostError(
        "addresses.exhausted",
        f"all {len(span)} addresses of {span} are taken",
        hint="widen the range in hall.toml, or remove machines that are gone",
    )


def free(span: Range, taken: Iterable[IPv4Address]) -> int:
    """How many addresses of `span` are left."""
    return len(span) - len({address for address in taken if address in span})
