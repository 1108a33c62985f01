"""Which archives stay, for any history of saves and any clock."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from services.state.retention import FORM, RECENT, moment, staying
from services.state.schema import Name, parse_name

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)


def name(minutes: int, line: str = "00000000") -> Name:
    return Name(at=(BEGIN + timedelta(minutes=minutes)).strftime(FORM), host="gw", line=line)


histories = st.sets(
    st.builds(name, st.integers(0, 60 * 24 * 60), st.sampled_from(["00000000", "11111111"])), max_size=60
)


@given(histories, st.integers(1, 48), st.integers(1, 14))
def test_what_stays_is_bounded_and_the_newest_of_each_life_is_in_it(names: set[Name], hourly: int, daily: int) -> None:
    stay = staying(names, hourly=hourly, daily=daily)
    assert stay <= names
    for line in {each.line for each in names}:
        own = [each for each in names if each.line == line]
        assert max(own, key=moment) in stay
        assert len([each for each in stay if each.line == line]) <= RECENT + hourly + 1 + daily + 1


@given(histories, st.integers(1, 48), st.integers(1, 14))
def test_letting_go_once_is_enough(names: set[Name], hourly: int, daily: int) -> None:
    once = staying(names, hourly=hourly, daily=daily)
    assert staying(once, hourly=hourly, daily=daily) == once


@given(histories)
def test_letting_go_after_every_save_leaves_each_day_something(names: set[Name]) -> None:
    """However often it is done, a day of the last fortnight that had a save keeps one."""
    left: set[Name] = set()
    for each in sorted(names, key=moment):
        left = staying({*left, each}, hourly=48, daily=14)
    for line in {each.line for each in names}:
        own = [moment(each) for each in names if each.line == line]
        days = {at.date() for at in own if max(own) - at < timedelta(days=13)}
        assert days <= {moment(each).date() for each in left if each.line == line}


def test_a_clock_that_was_wrong_by_a_year_costs_nothing() -> None:
    good = {name(60 * hour) for hour in range(5)}
    ahead = name(60 * 24 * 365)
    assert staying(good, hourly=48, daily=14) == good
    assert ahead in staying({*good, ahead}, hourly=48, daily=14)


@given(st.text(max_size=80))
def test_what_is_taken_for_a_name_prints_back(text: str) -> None:
    found = parse_name(text)
    assert found is None or str(found) == text


def test_names_are_names() -> None:
    good = "gw-0a1b2c3d-20260601T120000Z.state"
    assert str(parse_name(good)) == good
    for bad in ("", "../gw-0a1b2c3d-20260601T120000Z.state", "gw-0a1b2c3d-20260601T120000Z.state\n", "GW-0-1.state"):
        assert parse_name(bad) is None
