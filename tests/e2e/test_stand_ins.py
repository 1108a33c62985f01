"""What the harness puts where services will be: a Kea configuration with an address for every seat."""

from __future__ import annotations

import base64
import json

from e2e import halls, stand_ins, topology
from e2e.topology import mac_of

HALL = halls.make(roles={"web": "rhfs"})


def kea(seats: int) -> dict[str, object]:
    text = stand_ins.kea(topology.hall(seats), HALL.data)
    (subnet,) = json.loads(text)["Dhcp4"]["subnet4"]
    assert isinstance(subnet, dict)
    return subnet


def test_every_seat_has_a_reservation_by_its_card() -> None:
    reservations = kea(2)["reservations"]
    assert reservations == [
        {"hw-address": mac_of("pas-r01p01", 0), "ip-address": "192.168.0.1", "hostname": "pas-r01p01"},
        {"hw-address": mac_of("pas-r01p02", 0), "ip-address": "192.168.0.2", "hostname": "pas-r01p02"},
    ]


def test_what_is_left_of_the_users_range_is_for_seats_that_join() -> None:
    assert kea(2)["pools"] == [{"pool": "192.168.0.3 - 192.168.0.253"}]


def test_seats_learn_route_names_and_time_from_gw() -> None:
    options = kea(1)["option-data"]
    assert isinstance(options, list)
    data = {option["name"]: option["data"] for option in options}
    assert data["routers"] == data["domain-name-servers"] == data["ntp-servers"] == "192.168.1.254"


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
