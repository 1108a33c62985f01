"""Ranges: what is parsed, what overlaps, what is allocated."""

from __future__ import annotations

import contextlib
from ipaddress import IPv4Address, IPv4Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.addresses import Range, allocate, free, misfit, overlapping, unusable
from services.common.errors import HostError

BASE = int(IPv4Address("192.168.0.0"))
numbers = st.integers(min_value=BASE, max_value=BASE + 511)


@st.composite
def ranges(draw: st.DrawFn) -> Range:
    first, last = sorted((draw(numbers), draw(numbers)))
    return Range(IPv4Address(first), IPv4Address(last))


@given(ranges())
def test_a_range_survives_writing_and_reading(span: Range) -> None:
    assert Range.parse(str(span)) == span


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("192.168.0.1", "not a range"),
        ("192.168.0.9-192.168.0.1", "ends before it begins"),
        ("192.168.0.1-192.168.0.256", "not an IPv4 address"),
        ("-", "not an IPv4 address"),
        ("::1-::2", "not an IPv4 address"),
    ],
)
def test_what_is_no_range_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Range.parse(text)


@given(st.text())
def test_any_text_is_a_range_or_a_value_error(text: str) -> None:
    with contextlib.suppress(ValueError):
        assert len(Range.parse(text)) >= 1


@given(ranges(), ranges())
def test_ranges_overlap_exactly_when_they_share_an_address(one: Range, other: Range) -> None:
    assert one.overlaps(other) == bool(set(one) & set(other)) == other.overlaps(one)


@given(st.lists(ranges(), max_size=6))
def test_every_overlapping_pair_is_found_once(spans: list[Range]) -> None:
    found = {frozenset(pair) for pair in overlapping(dict(enumerate(spans)))}
    expected = {
        frozenset((i, j)) for i in range(len(spans)) for j in range(i + 1, len(spans)) if spans[i].overlaps(spans[j])
    }
    assert found == expected
    assert len(overlapping(dict(enumerate(spans)))) == len(expected)


@given(ranges(), st.sets(numbers, max_size=40))
def test_allocation_takes_the_lowest_free_address_of_the_range(span: Range, used: set[int]) -> None:
    taken = {IPv4Address(number) for number in used}
    left = [address for address in span if address not in taken]
    assert free(span, taken) == len(left)
    if left:
        assert allocate(span, taken) == left[0]
    else:
        with pytest.raises(HostError, match="are taken"):
            allocate(span, taken)


@given(ranges())
def test_allocating_one_after_another_gives_every_address_once(span: Range) -> None:
    taken: list[IPv4Address] = []
    for _ in range(min(len(span), 20)):
        taken.append(allocate(span, taken))
    assert len(set(taken)) == len(taken)
    assert all(address in span for address in taken)


@given(ranges())
def test_a_range_that_fits_has_only_usable_addresses(span: Range) -> None:
    network = IPv4Network("192.168.0.0/24")
    assert (misfit(span, network) is None) == all(unusable(address, network) is None for address in span)


def test_both_addresses_of_a_point_to_point_link_are_usable() -> None:
    assert unusable(IPv4Address("10.0.0.0"), IPv4Network("10.0.0.0/31")) is None
