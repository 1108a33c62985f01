"""The hall comes up, everyone reaches whom the addressing says, and what runs says what it is."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Callable

import msgspec
import pytest

from e2e.lab import Lab
from e2e.node import Node
from services.hostd.schema import Host

pytestmark = [pytest.mark.lan(topology="hall", seats=2), pytest.mark.images]
SERVERS = ("gw", "rhfs01", "web")


def seats(lab: Lab) -> list[Node]:
    return [lab[name] for name in lab.topology.seats()]


def test_the_hall_comes_up_with_no_failed_unit_on_any_node(lab: Lab) -> None:
    assert {node.name: node.failed_units() for node in lab.nodes.values()} == {name: [] for name in lab.nodes}
    assert {node.succeeds("systemctl", "is-system-running") for node in lab.nodes.values()} == {"running"}


def test_servers_have_the_addresses_of_hall_toml(lab: Lab) -> None:
    assert lab["gw"].addresses == ["192.168.1.254", "192.168.250.254", "198.51.100.2"]
    assert lab["rhfs01"].addresses == ["192.168.1.10", "192.168.1.11"]
    assert lab["web"].addresses == ["192.168.1.100"]


def test_seats_get_their_addresses_from_gw(lab: Lab) -> None:
    assert [seat.wait_for_address() for seat in seats(lab)] == ["192.168.0.1", "192.168.0.2"]


@pytest.mark.parametrize("name", [*SERVERS, "rhfs", "mdb", "hfs1.prolo"])
def test_every_node_resolves_and_reaches_the_servers(lab: Lab, name: str) -> None:
    for node in lab.nodes.values():
        node.wait_for_address()
        node.succeeds("ping", "-c1", "-W2", name)


def test_a_name_of_two_cards_leads_to_both(lab: Lab) -> None:
    for name, address in (("rhfs0", "192.168.1.10"), ("rhfs1", "192.168.1.11")):
        assert address in lab["web"].succeeds("getent", "ahostsv4", name)


@pytest.mark.parametrize(("address", "card"), [("192.168.1.10", "host0"), ("192.168.1.11", "host1")])
def test_a_server_of_two_cards_answers_by_the_one_that_was_asked(lab: Lab, address: str, card: str) -> None:
    for there in ("192.168.1.100", "203.0.113.9"):
        assert f" dev {card} " in lab["rhfs01"].succeeds("ip", "route", "get", there, "from", address)


def test_seats_reach_each_other_across_the_trunk(lab: Lab) -> None:
    one, two = seats(lab)
    assert {lab.network.cables(seat.name)[0].segment for seat in (one, two)} == {"server-room", "room-1"}
    one.succeeds("ping", "-c1", "-W2", two.wait_for_address())


def test_the_world_is_behind_gw_alone_which_lets_servers_out_and_no_seat_where_nobody_sits(lab: Lab) -> None:
    for name in ("gw", "web", "rhfs01"):
        lab[name].wait_until("the world", lambda name=name: reaches_the_world(lab, name))  # type: ignore[misc]
    for name in lab.topology.seats():
        assert not reaches_the_world(lab, name)


def reaches_the_world(lab: Lab, name: str) -> bool:
    return lab[name].run(["ping", "-c1", "-W1", "198.51.100.1"], check=False).returncode == 0


def test_an_address_that_nobody_has_does_not_answer(lab: Lab) -> None:
    lab["web"].fails("ping", "-c1", "-W1", "192.168.1.99")


def test_nothing_reaches_the_machine_that_the_lab_runs_on(lab: Lab) -> None:
    """The lab's routes end in its own namespace: there is no default route out of it."""
    assert lab.sandbox.run(["ip", "-json", "route", "show", "default"]).stdout.strip() in ("", "[]", "[ ]")


def test_hostd_answers_on_every_node_with_its_role_and_version(lab: Lab) -> None:
    for node in lab.nodes.values():
        answer = lab["gw"].wait_for_http(f"http://{node.wait_for_address()}:20210/v1/host")
        host = msgspec.json.decode(answer.content, type=Host)
        assert (host.hostname, host.role, host.version) == (node.name, node.booted["role"], node.booted["version"])


def ntp_answer(address: str) -> Callable[[], bytes]:
    """Ask an NTP server for the time (RFC 5905, client mode, version 4)."""

    def ask() -> bytes:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.settimeout(3)
            sender.sendto(bytes([0x23]) + bytes(47), (address, 123))
            return sender.recv(512)

    return ask


@pytest.mark.parametrize("who", ["web", "pas-r01p01", "pas-r01p02"])
def test_gw_answers_ntp_on_each_segment(lab: Lab, who: str) -> None:
    lab["gw"].wait_for_unit("chrony.service")
    lab[who].wait_for_address()
    data = lab.sandbox.in_network(ntp_answer("192.168.1.254"), netns=lab[who].netns)
    leap, stratum = data[0] >> 6, data[1]
    seconds = struct.unpack_from("!I", data, 40)[0] - 2_208_988_800
    assert leap != 3, "gw's clock is not synchronised"
    assert 0 < stratum < 16
    assert abs(seconds - time.time()) < 5


def test_a_report_names_the_versions_under_test(lab: Lab, request: pytest.FixtureRequest) -> None:
    properties = dict(request.node.user_properties)
    assert properties["version.gw"] == f"gw/{lab['gw'].booted['version']}"
