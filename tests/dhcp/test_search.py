"""Which records are guilty of a refusal: found by halving, whoever and how many they are."""

from __future__ import annotations

from collections.abc import Collection

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.dhcp import apply
from services.dhcp.apply import usable
from services.dhcp.kea import Refused
from services.dhcp.machines import choose
from tests.dhcp.halls import CARDS, SETTINGS, machine
from tests.dhcp.rig import reservations

EVERYONE = [machine(number) for number in range(1, 101)]
numbers = st.integers(1, 100)


class Picky:
    """Refuses some addresses, and some pairs of addresses together; counts how often it is asked."""

    def __init__(self, never: Collection[int], together: Collection[tuple[int, int]] = ()) -> None:
        self.never = {f"192.168.0.{number}" for number in never}
        self.together = [{f"192.168.0.{one}", f"192.168.0.{other}"} for one, other in together]
        self.asked = 0

    def test(self, configuration: bytes) -> str | None:
        self.asked += 1
        there = set(reservations(configuration))
        if found := sorted(there & self.never):
            return f"bad address {found[0]}"
        return next((f"{pair} clash" for pair in self.together if pair <= there), None)


@given(st.sets(numbers, max_size=6))
def test_the_guilty_and_nobody_else_are_left_out(never: set[int]) -> None:
    picky = Picky(never)
    configuration, choice = usable(picky, SETTINGS, choose(SETTINGS, EVERYONE), CARDS)
    assert {each.id for each in choice.left_out} == never
    assert len(choice.machines) == 100 - len(never)
    assert picky.test(configuration) is None
    assert picky.asked <= 4 + 14 * len(never)


@given(st.sets(st.tuples(numbers, numbers).filter(lambda pair: pair[0] != pair[1]), max_size=3))
def test_of_those_that_clash_enough_stay(together: set[tuple[int, int]]) -> None:
    picky = Picky(set(), together)
    configuration, choice = usable(picky, SETTINGS, choose(SETTINGS, EVERYONE), CARDS)
    assert picky.test(configuration) is None
    assert len(choice.left_out) <= len(together)


def test_a_reason_is_what_kea_said_of_that_machine() -> None:
    _, choice = usable(Picky({7}), SETTINGS, choose(SETTINGS, EVERYONE), CARDS)
    assert [each.reason for each in choice.left_out] == ["Kea refuses it: bad address 192.168.0.7"]


def test_when_too_many_are_guilty_nothing_is_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apply, "TESTS_MAX", 50)
    with pytest.raises(Refused, match="bad address") as caught:
        usable(Picky(set(range(1, 101))), SETTINGS, choose(SETTINGS, EVERYONE), CARDS)
    assert "too many" in (caught.value.hint or "")


def test_when_it_is_nobodys_fault_nobody_is_blamed() -> None:
    class Never:
        def test(self, configuration: bytes) -> str | None:
            return "no subnets for you"

    with pytest.raises(Refused, match="no subnets") as caught:
        usable(Never(), SETTINGS, choose(SETTINGS, EVERYONE), CARDS)
    assert "hall.toml" in (caught.value.hint or "")
