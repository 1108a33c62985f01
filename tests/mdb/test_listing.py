"""The list's pure part: filters are words of the query, counts are what a click would show, the order is people's."""

from __future__ import annotations

from ipaddress import IPv4Address

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.errors import UsageError
from services.mdb import query
from services.mdb.pages.listing import FILTERS, Asked, address, listing, natural, words
from services.mdb.schema import Machine, MachineType


def machine(id: int, **given: object) -> Machine:
    values: dict[str, object] = {
        "id": id,
        "hostname": f"p{id}",
        "aliases": [],
        "mac": f"52:54:00:00:00:{id:02x}",
        "ip": IPv4Address(f"192.168.0.{id}"),
        "rfs": id % 3,
        "hfs": id % 2,
        "type": MachineType.USER,
        "room": ("pasteur", "alt")[id % 2],
        "faulty": id % 5 == 0,
        "faulty_reason": "",
        "channel": "stable",
        "pinned": "1" if id % 7 == 0 else None,
        "notes": "",
        "declared": False,
        "created": 0.0,
        "updated": float(-id),
        "revision": id,
    }
    return Machine(**{**values, **given})  # type: ignore[arg-type]


MACHINES = [machine(id) for id in range(1, 121)]


def test_numbers_in_names_count_as_numbers() -> None:
    names = ["p10", "p9", "p1", "q", "p", "p09a"]
    assert sorted(names, key=natural) == ["p", "p1", "p9", "p09a", "p10", "q"]
    found = listing(MACHINES, Asked(size=50))
    assert [one.hostname for one in found.shown[:3]] == ["p1", "p2", "p3"]


def test_a_page_is_a_part_and_one_beyond_the_last_is_the_last() -> None:
    found = listing(MACHINES, Asked(size=50, page=3))
    assert (len(found.shown), found.first, found.pages) == (20, 101, 3)
    assert listing(MACHINES, Asked(size=50, page=99)).page == 3


@pytest.mark.parametrize("order", ["hostname", "ip", "mac", "type", "room", "rfs", "hfs", "boots", "updated"])
def test_every_order_goes_both_ways(order: str) -> None:
    up = listing(MACHINES, Asked(sort=order))  # type: ignore[arg-type]
    down = listing(MACHINES, Asked(sort=order, down="1"))  # type: ignore[arg-type]
    assert {one.id for one in up.found} == {one.id for one in down.found} == set(range(1, 121))
    assert up.found[0] != down.found[0]


def test_a_count_says_how_many_a_click_would_show() -> None:
    asked = Asked(q="ip:192.168.0.1-192.168.0.90", room="alt", state="faulty")
    for filter in listing(MACHINES, asked).filters:
        for choice in filter.choices:
            clicked = msgspec.structs.replace(asked, **{filter.name: choice.value})
            assert len(listing(MACHINES, clicked).found) == choice.count, (filter.name, choice)


@given(
    st.fixed_dictionaries(
        {
            "q": st.sampled_from(["", "p1", "-p1", "ip:192.168.0.0/26"]),
            "room": st.sampled_from(["", "alt", "nowhere"]),
            "rfs": st.sampled_from(["", "1"]),
            "channel": st.sampled_from(["", "stable"]),
            "state": st.sampled_from(["", "faulty", "sound", "pinned"]),
        }
    )
)
def test_the_command_line_finds_the_same(values: dict[str, str]) -> None:
    asked = Asked(**values)  # type: ignore[arg-type]
    test = query.parse(words(asked))
    assert {one.id for one in listing(MACHINES, asked).found} == {one.id for one in MACHINES if test(one)}


def test_an_address_says_only_what_is_unusual() -> None:
    assert address(Asked(room="alt", page=3, done=5), page=1) == {"room": "alt"}
    assert set(FILTERS) < set(Asked.__struct_fields__)


def test_a_query_that_cannot_be_read_says_why() -> None:
    with pytest.raises(UsageError, match="no field"):
        listing(MACHINES, Asked(q="hostnam:x"))
