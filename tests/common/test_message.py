"""The message of the day is text that fits, whatever somebody wrote."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.message import CHARACTERS, LINES, WIDTH, bounded, clean, lines, problem

ANYTHING = st.text(alphabet=st.characters() | st.sampled_from("\x1b\r\n\t\x07\u2028\u202e\x9b;\\~"), max_size=900)


@given(ANYTHING)
def test_nothing_is_left_of_it_that_a_terminal_obeys(text: str) -> None:
    found = clean(text)
    assert clean(found) == found
    assert all(char == "\n" or unicodedata.category(char) not in ("Cc", "Cf", "Cs") for char in found)


@given(ANYTHING)
def test_what_is_shown_is_no_more_than_a_screen_has_place_for(text: str) -> None:
    shown = bounded(text)
    assert len(shown) <= LINES
    assert all(len(line) <= WIDTH for line in shown)
    if problem(clean(text)) is None:
        assert shown == lines(clean(text)), "what udb takes is shown whole"


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("Lunch at noon\r\n\r\nin room B  ", "Lunch at noon\n\nin room B"),
        ("\n\n  hello\n", "  hello"),
        ("\x1b[31mred\x1b[0m\a", "[31mred[0m"),
        ("a\tb", "a b"),
        ("\u202eesrever", "esrever"),
        ("Zoe\u0301", "Zoé"),
        ("\x1b\n\n", ""),
    ],
)
def test_it_is_plain_text(text: str, kept: str) -> None:
    assert clean(text) == kept


def test_what_is_too_long_is_said() -> None:
    assert problem("x" * CHARACTERS) is None
    assert "600 are shown" in str(problem("x" * (CHARACTERS + 1)))
    assert problem("\n".join("x" * LINES)) is None
    assert "10 are shown" in str(problem("\n".join("x" * (LINES + 1))))
    assert lines("") == []
