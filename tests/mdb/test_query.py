"""Queries: exact unless they say otherwise, and clear about what they do not understand."""

from __future__ import annotations

import contextlib
from ipaddress import IPv4Address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.errors import UsageError
from services.mdb.query import parse
from services.mdb.schema import Machine, MachineType


def machine(**more: Any) -> Machine:
    values: dict[str, Any] = {
        "id": 7,
        "hostname": "pas-r01p02",
        "aliases": ["rfs1"],
        "mac": "52:54:00:ab:cd:ef",
        "ip": IPv4Address("192.168.0.7"),
        "rfs": 1,
        "hfs": 2,
        "type": MachineType.USER,
        "room": "pasteur",
        "faulty": False,
        "faulty_reason": "",
        "channel": "stable",
        "pinned": None,
        "notes": "No fan, loud",
        "declared": False,
        "created": 0.0,
        "updated": 0.0,
        "revision": 1,
    }
    return Machine(**(values | more))


@pytest.mark.parametrize(
    "query",
    [
        "",
        "pas-r01",
        "hostname:pas-r01p02",
        "hostname:pas-*",
        "hostname:pas-r01p0?",
        "name:rfs1",
        "name:rfs10,rfs1",
        "mac:52-54-00-AB-CD-EF",
        "mac:52:54:00:*",
        "52:54:00:ab:cd:ef",
        "5254.00ab.cdef",
        "ip:192.168.0.7",
        "ip:192.168.0.0/25",
        "ip:192.168.0.1-192.168.0.9",
        "type:user,orga room:pasteur",
        "faulty:no",
        "-faulty:yes",
        "pinned:",
        "rfs:1 hfs:2",
        '"no fan"',
        "-alt",
        "hostname:pas-r[01-08]p[01-12]",
        "name:gw,rfs[0,1]",
        "pas-r[01-02]p[02,04]",
        "rfs[0-3]",
        "-pas-r[01-02]p[03,04]",
    ],
)
def test_what_finds_it(query: str) -> None:
    assert parse(query)(machine())


@pytest.mark.parametrize(
    "query",
    [
        "name:rfs",
        "name:rfs10",
        "hostname:rfs1",
        "hostname:pas",
        "rfs:10",
        "ip:192.168.0.8/29",
        "type:orga",
        "faulty:yes",
        "-pas",
        "pas alt",
        "pinned:?*",
        "mac:52:54:00:ab:cd:ee",
        "hostname:rfs[0-3]",
        "pas-r[1-2]p[2-4]",
    ],
)
def test_what_does_not_find_it(query: str) -> None:
    assert not parse(query)(machine())


@pytest.mark.parametrize(
    ("query", "why"),
    [
        ("hostnam:x", "no field"),
        ("rfs:one", "no number"),
        ("ip:300.1.1.1", "no address"),
        ("type:printer", "no type"),
        ("faulty:maybe", "neither"),
        ("mac:nonsense", "no MAC"),
        ('"open', "quote"),
        ("hostname:p[1-", "bracket"),
        ("p[3-1]", "before it begins"),
    ],
)
def test_what_is_not_understood_is_told(query: str, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        parse(query)


@given(st.text(max_size=40))
def test_any_text_is_a_query_or_a_usage_error(text: str) -> None:
    with contextlib.suppress(UsageError):
        parse(text)(machine())
