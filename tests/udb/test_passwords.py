"""Passwords that are made and that people write down."""

from __future__ import annotations

import pytest

from services.common.errors import InputError
from services.udb.passwords import LENGTH, generate, problem


def test_a_password_that_is_made_can_be_read_from_paper() -> None:
    made = [generate() for _ in range(200)]
    assert len(set(made)) == 200
    assert {len(word) for word in made} == {LENGTH}
    assert set("".join(made)).isdisjoint("0Oo1lIi5SZ2")
    for word in made:
        assert any(letter.islower() for letter in word)
        assert any(letter.isupper() for letter in word)
        assert any(letter.isdigit() for letter in word)
        assert problem(word) is None


@pytest.mark.parametrize("length", [0, 7, 33])
def test_a_length_that_is_no_good_is_refused(length: int) -> None:
    with pytest.raises(InputError, match="8 to 32"):
        generate(length)


@pytest.mark.parametrize(
    ("password", "why"),
    [("", "empty"), ("a\tb", "tabs"), ("a\nb", "line ends"), (" a", "space"), ("a ", "space"), ("a" * 101, "100")],
)
def test_what_no_prompt_takes_is_no_password(password: str, why: str) -> None:
    assert why in (problem(password) or "")
    assert problem("clé de voûte") is None
