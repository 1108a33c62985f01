"""What the harness gives nodes as credentials, and the hall.toml of a lab."""

from __future__ import annotations

import base64

from e2e import halls, stand_ins

HALL = halls.make(roles={"web": "rhfs"})


def test_a_file_goes_in_as_one_line_of_tmpfiles() -> None:
    line = stand_ins.file_line("/etc/x", "two\nlines\n", mode="0640", group="_kea")
    assert line.count("\n") == 1
    assert base64.b64decode(line.split()[-1]) == b"two\nlines\n"


def test_a_throwaway_hall_is_valid_with_a_static_way_out_and_stand_ins() -> None:
    upstream = HALL.data.upstream
    assert upstream is not None
    assert str(upstream.address) == "198.51.100.2/24"
    assert HALL.data.hosts["web"].role == "rhfs"
    assert HALL.data.hosts["monitoring"].role == "monitoring"


def test_two_halls_have_nothing_in_common_but_their_addresses() -> None:
    assert halls.make().data.trust.ca != HALL.data.trust.ca
