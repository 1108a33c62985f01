"""Pools: never an address that is used, reserved, excluded or resting; always the lowest of the others."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.addresses import Range
from services.common.errors import BusyError
from services.mdb.pools import REST_SECONDS, Allocator, Bounds, level

NETWORK = IPv4Network("192.168.0.0/26")
NOW = 1_800_000_000.0
addresses = st.integers(0, 63).map(lambda number: NETWORK[number])
BOUNDS = Bounds("user", Range(NETWORK[1], NETWORK[40]), NETWORK)


@st.composite
def bounds(draw: st.DrawFn) -> Bounds:
    first, last = sorted((draw(addresses), draw(addresses)))
    low, high = sorted((draw(addresses), draw(addresses)))
    reserved = draw(st.dictionaries(addresses, st.just("gw"), max_size=4))
    return Bounds("user", Range(first, last), NETWORK, [Range(low, high)], reserved)


def everything(allocator: Allocator) -> Iterator[IPv4Address]:
    """What a pool gives until it is exhausted."""
    with contextlib.suppress(BusyError):
        while True:
            yield allocator.next()


@given(bounds(), st.sets(addresses), st.dictionaries(addresses, st.floats(NOW - 2 * REST_SECONDS, NOW)))
def test_a_pool_gives_all_that_is_free_lowest_first_and_nothing_else(
    pool: Bounds, taken: set[IPv4Address], resting: dict[IPv4Address, float]
) -> None:
    allocator = Allocator(pool, taken, resting, now=NOW)
    given = list(everything(allocator))
    wanted = [
        address
        for address in NETWORK.hosts()
        if address in pool.span
        and address not in pool.excluded[0]
        and address not in pool.reserved
        and address not in taken
        and resting.get(address, 0) + REST_SECONDS <= NOW
    ]
    assert given == wanted
    assert level(pool, taken, resting, now=NOW).free == len(wanted)


def test_an_exhausted_pool_says_when_the_next_address_has_rested() -> None:
    last = BOUNDS.span.last
    allocator = Allocator(BOUNDS, set(BOUNDS) - {last}, {last: NOW - 3000}, now=NOW)
    with pytest.raises(BusyError) as caught:
        allocator.next()
    assert caught.value.code == "pool.exhausted"
    assert "600 s" in (caught.value.hint or "")


def test_an_address_may_be_written_down_outside_of_the_range_but_not_of_the_network() -> None:
    assert BOUNDS.refusal(NETWORK[50], hostname="x") is None
    assert "not inside" in (BOUNDS.refusal(IPv4Address("10.0.0.1"), hostname="x") or "")
    assert "broadcast" in (BOUNDS.refusal(NETWORK[63], hostname="x") or "")


def test_what_hall_toml_gives_to_a_host_is_that_hosts_alone() -> None:
    pool = Bounds("service", BOUNDS.span, NETWORK, (), {NETWORK[5]: "gw"})
    assert pool.refusal(NETWORK[5], hostname="gw") is None
    assert "gw" in (pool.refusal(NETWORK[5], hostname="web") or "")
