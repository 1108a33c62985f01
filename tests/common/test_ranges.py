"""Host ranges: every combination, in order, and limits."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.errors import UsageError
from services.common.ranges import LIMIT, expand


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("gw", ["gw"]),
        ("p[1-3]", ["p1", "p2", "p3"]),
        ("p[08-11]", ["p08", "p09", "p10", "p11"]),
        ("p[8-11]", ["p8", "p9", "p10", "p11"]),
        ("p[1,3,5-6]x", ["p1x", "p3x", "p5x", "p6x"]),
        ("p[01, 03]", ["p01", "p03"]),
        ("r[1-2]p[01-02]", ["r1p01", "r1p02", "r2p01", "r2p02"]),
        ("[1-2]", ["1", "2"]),
        ("a[1][2][3]b", ["a123b"]),
        ("p[099-101]", ["p099", "p100", "p101"]),
    ],
)
def test_a_range_is_its_names_in_order(text: str, names: list[str]) -> None:
    assert expand(text) == names


def test_the_range_of_a_room() -> None:
    names = expand("pas-r[01-08]p[01-12]")
    assert (len(names), names[0], names[-1]) == (96, "pas-r01p01", "pas-r08p12")


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("p[1-3", "range.syntax"),
        ("p1-3]", "range.syntax"),
        ("p[[1-3]]", "range.syntax"),
        ("p[]", "range.syntax"),
        ("p[a-c]", "range.syntax"),
        ("p[1-]", "range.syntax"),
        ("p[-3]", "range.syntax"),
        ("p[3-1]", "range.syntax"),
        ("p[1-2-3]", "range.syntax"),
        ("p[1,1]", "range.twice"),
        ("p[1-3,2]", "range.twice"),
        ("p[1-20001]", "range.size"),
        ("[1-999][1-999][1-999]", "range.size"),
        ("p[0-999999999]", "range.size"),
    ],
)
def test_what_is_no_range_is_told(text: str, code: str) -> None:
    with pytest.raises(UsageError) as caught:
        expand(text)
    assert caught.value.code == code


def test_a_range_may_have_as_many_names_as_the_limit() -> None:
    assert len(expand(f"p[1-{LIMIT}]")) == LIMIT


@given(st.text(alphabet="ab0129[]-, ", max_size=30))
def test_any_text_is_a_range_or_a_usage_error(text: str) -> None:
    with contextlib.suppress(UsageError):
        names = expand(text, limit=500)
        assert 1 <= len(names) == len(set(names)) <= 500


@given(st.integers(0, 500), st.integers(0, 50), st.integers(1, 4))
def test_a_span_has_the_digits_of_its_first_number(first: int, more: int, digits: int) -> None:
    names = expand(f"x[{first:0{digits}}-{first + more}]")
    assert [int(name[1:]) for name in names] == list(range(first, first + more + 1))
    assert all(len(name[1:]) == max(len(f"{first:0{digits}}"), len(str(int(name[1:])))) for name in names)
