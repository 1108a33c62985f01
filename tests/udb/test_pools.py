"""Which uid a user gets: of the pool, the next one that is free, and who is gone gives theirs back last."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.errors import BusyError
from services.common.users import UID_POOLS, UserGroup
from services.udb.pools import Allocator

POOL = UID_POOLS[UserGroup.USER]
uids = st.sets(st.integers(POOL.first, POOL.last))


@given(uids, st.none() | st.integers(POOL.first, POOL.last), st.integers(1, 50))
def test_what_is_given_is_free_and_of_the_pool(taken: set[int], last: int | None, count: int) -> None:
    allocator = Allocator(UserGroup.USER, taken, last)
    given_ = [allocator.next() for _ in range(min(count, len(POOL) - len(taken)))]
    assert len(set(given_)) == len(given_)
    assert taken.isdisjoint(given_)
    assert all(uid in POOL for uid in given_)
    if given_:
        assert allocator.last == given_[-1]


@given(uids)
def test_a_uid_that_is_free_again_comes_last(taken: set[int]) -> None:
    last = max(taken, default=None)
    freed = min(taken, default=None)
    allocator = Allocator(UserGroup.USER, taken - {freed}, last)
    order = [allocator.next() for _ in range(len(POOL) - len(taken - {freed}))]
    if last is not None and freed != last:
        after = [uid for uid in order if uid > last]
        assert order[: len(after)] == after
        assert freed in order[len(after) :]


def test_a_full_pool_says_so() -> None:
    allocator = Allocator(UserGroup.ORGA, range(11_000, 12_000), 11_500)
    with pytest.raises(BusyError, match="all 1000 of 11000-11999"):
        allocator.next()


def test_uids_of_other_pools_are_no_matter() -> None:
    assert Allocator(UserGroup.ROOT, [10_000, 0, 12_000], 11_000).next() == 12_001
