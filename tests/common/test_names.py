"""Names and hardware addresses: what is one, and its one form."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.names import label_problem, normal_mac

octets = st.lists(st.integers(0, 255), min_size=6, max_size=6).filter(lambda six: not six[0] & 1 and any(six))


@given(octets, st.booleans())
def test_every_usual_spelling_of_a_mac_has_one_form(six: list[int], upper: bool) -> None:
    pairs = [f"{octet:02x}" for octet in six]
    spellings = [
        ":".join(pairs),
        "-".join(pairs),
        "".join(pairs),
        ".".join("".join(pairs[index : index + 2]) for index in (0, 2, 4)),
    ]
    assert {normal_mac(text.upper() if upper else text) for text in spellings} == {":".join(pairs)}


@pytest.mark.parametrize(
    "text",
    ["", "zz:zz:zz:zz:zz:zz", "52:54:00:12:34", "52:54:00:12:34:56:78", "52:54-00:12:34:56", "x52:54:00:12:34:56"],
)
def test_what_is_no_mac_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no MAC address"):
        normal_mac(text)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("01:00:5e:00:00:01", "multicast"),
        ("ff:ff:ff:ff:ff:ff", "multicast"),
        ("00:00:00:00:00:00", "without an address"),
    ],
)
def test_a_mac_that_is_not_one_machines_is_refused(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        normal_mac(text)


@pytest.mark.parametrize("name", ["a", "pas-r01p01", "x" * 63, "0"])
def test_labels(name: str) -> None:
    assert label_problem(name) is None


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("a_b", "underscore"),
        ("Gw", "capital"),
        ("a.b", "dot"),
        ("x" * 64, "63"),
        ("-a", "hyphen"),
        ("", "not a host name"),
    ],
)
def test_what_is_no_label_is_told_why(name: str, why: str) -> None:
    assert why in (label_problem(name) or "")
