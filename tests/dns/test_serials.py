"""Serials: never back, whatever the clock and what is left of the state say."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from services.dns.serials import HALF, MODULUS, following, newer, newest

SERIALS = st.integers(0, MODULUS - 1)
CLOCKS = st.floats(0, 2**34, allow_nan=False)


@given(SERIALS, CLOCKS)
def test_the_next_serial_is_newer_whatever_the_clock_says(last: int, now: float) -> None:
    assert newer(following([last], now), last)


@given(CLOCKS, st.lists(CLOCKS, min_size=1, max_size=50))
def test_a_zone_that_changes_under_a_jumping_clock_only_goes_on(first: float, clocks: list[float]) -> None:
    serial = following([], first)
    for now in clocks:
        before, serial = serial, following([serial], now)
        assert newer(serial, before)


@given(st.integers(1_700_000_000, 2_000_000_000), st.integers(0, 10**6), st.integers(0, 10**6))
def test_after_a_loss_of_all_state_the_clock_is_enough(begin: int, edits: int, pause: int) -> None:
    """As long as there was less than one edit a second since the zone began."""
    last = following([begin + edits], begin)
    assert newer(following([], begin + edits + pause + 2), last)


@given(SERIALS)
def test_no_serial_is_zero(last: int) -> None:
    assert following([last], 0) != 0
    assert following([MODULUS - 1], 0) == 1


@given(SERIALS, st.lists(st.integers(0, HALF - 1), min_size=1))
def test_the_newest_of_some_is_found_across_the_end_of_the_circle(begin: int, steps: list[int]) -> None:
    known = [(begin + step) % MODULUS for step in steps]
    assert newest(known) == (begin + max(steps)) % MODULUS


def test_serials_half_the_circle_apart_are_not_compared() -> None:
    assert not newer(0, HALF)
    assert not newer(HALF, 0)
    assert newest([]) is None
