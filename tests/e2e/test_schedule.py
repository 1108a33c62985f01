"""A fault schedule follows from its seed, and can be printed, read and played again."""

from __future__ import annotations

from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from e2e import schedule
from services.common.errors import UsageError

make = partial(schedule.make, edges=["a:0", "b:0"], nodes=["a", "b"], count=50)


def test_a_seed_gives_the_same_faults_every_time() -> None:
    assert make(7) == make(7)
    assert make(7) != make(8)


def test_a_seed_gives_the_same_faults_on_every_machine() -> None:
    """The order of drawing is part of what a seed means: changing it makes old reports useless."""
    assert [str(fault) for fault in make(1)[:3]] == ["cut b:0", "lose a:0 46", "crash b"]


@given(st.integers(0, 2**32))
def test_a_schedule_that_was_printed_can_be_read_again(seed: int) -> None:
    faults = make(seed)
    assert schedule.parse("\n".join(map(str, faults))) == faults


def test_edges_get_faults_of_edges_and_nodes_those_of_nodes() -> None:
    for fault in make(3):
        assert (":" in fault.target) == (fault.kind in ("cut", "lose", "slow"))


@pytest.mark.parametrize("line", ["explode gw", "cut", "lose gw:0", "cut gw:0 5"])
def test_a_line_that_is_no_fault_is_refused(line: str) -> None:
    with pytest.raises(UsageError, match="is no fault"):
        schedule.parse(line)


def test_comments_and_empty_lines_are_left_out() -> None:
    assert schedule.parse("# why\n\ncut gw:0\n") == [schedule.Fault("cut", "gw:0")]
