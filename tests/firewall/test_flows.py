"""What the kernel says of a new connection, as it was read from one (Linux 6.18), and what is no such message."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address

from hypothesis import given
from hypothesis import strategies as st

from services.firewall.flows import Flow, parse

EVENT = bytes.fromhex(
    "9400000000010006000000000000000002000000340001801400018008000100c0a8000508000200c63364011c000280050001000600000006"
    "000200adc800000600030000500000340002801400018008000100c633640108000200c63364021c0002800500010006000000060002000050"
    "000006000300adc8000008000c00052f2ccf08000300000001980800070000000078"
)
FLOW = Flow(
    "tcp",
    IPv4Address("192.168.0.5"),
    44488,
    IPv4Address("198.51.100.1"),
    80,
    IPv4Address("198.51.100.2"),
    44488,
)


def test_an_event_has_both_ends_and_what_is_seen_outside() -> None:
    assert list(parse(EVENT)) == [FLOW]


def test_several_messages_come_at_once_and_others_are_passed_over() -> None:
    other = struct.pack("=IHHII", 20, (1 << 8) | 2, 0, 0, 0) + bytes(4)
    six = EVENT[:16] + b"\x0a" + EVENT[17:]
    assert list(parse(EVENT + other + six + EVENT)) == [FLOW, FLOW]


@given(st.binary(max_size=200))
def test_whatever_else_is_read_never_raises(data: bytes) -> None:
    list(parse(data))


@given(st.integers(0, len(EVENT) - 1), st.binary(min_size=1, max_size=4))
def test_a_damaged_event_never_raises(place: int, data: bytes) -> None:
    list(parse(EVENT[:place] + data + EVENT[place + len(data) :]))
