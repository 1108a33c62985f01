"""An image that nobody has told anything: it says so, and offers nothing to the network."""

from __future__ import annotations

import pytest

from e2e.lab import Lab

pytestmark = [pytest.mark.lan(topology="single"), pytest.mark.images]
MAC = bytes.fromhex("52540000beef")


def discover() -> bytes:
    """A DHCPDISCOVER as a broadcast frame (RFC 2131), with the checksums that a server may look at."""
    bootp = bytes([1, 1, 6, 0]) + b"back" + bytes(2) + b"\x80\x00" + bytes(16) + MAC + bytes(202)
    data = bootp + b"\x63\x82\x53\x63" + bytes([53, 1, 1, 255])
    udp = (68).to_bytes(2) + (67).to_bytes(2) + (len(data) + 8).to_bytes(2) + bytes(2) + data
    head = bytes([0x45, 0]) + (len(udp) + 20).to_bytes(2) + bytes(4) + bytes([64, 17, 0, 0]) + bytes(4) + b"\xff" * 4
    total = sum(int.from_bytes(head[n : n + 2]) for n in range(0, 20, 2))
    checksum = ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF
    head = head[:10] + checksum.to_bytes(2) + head[12:]
    return b"\xff" * 6 + MAC + b"\x08\x00" + head + udp


def offers(lab: Lab, segment: str, *, seconds: float) -> bool:
    """Whether somebody offers an address on that segment."""
    with lab.network.listen(segment, seconds=seconds) as ear:
        lab.network.inject(segment, discover())
        while True:
            try:
                frame = ear.recv(2048)
            except TimeoutError:
                return False
            if frame[12:14] == b"\x08\x00" and frame[23] == 17 and frame[34:36] == (67).to_bytes(2):
                return True


def test_an_image_without_hall_toml_comes_up_and_says_that_it_is_unconfigured(lab: Lab) -> None:
    gw = lab["gw"]
    gw.wait_for_journal("not configured", unit="backline-hall.service")
    assert gw.succeeds("test", "-e", "/run/backline/unconfigured") == ""
    assert gw.addresses == []


def test_an_image_without_hall_toml_serves_no_dhcp(lab: Lab) -> None:
    assert not offers(lab, "bench", seconds=3)


def test_an_image_without_hall_toml_listens_on_no_port_but_ssh_and_hostd(lab: Lab) -> None:
    lines = lab["gw"].succeeds("ss", "-Hltun").splitlines()
    ports = {line.split()[4].rpartition(":")[2] for line in lines}
    local = {"53", "5355"}  # systemd-resolved's own
    assert ports - local <= {"22", "20210", "323"}


@pytest.mark.lan(topology="hall", seats=2)
def test_the_same_question_is_answered_where_gw_has_its_configuration(lab: Lab) -> None:
    """What would find a rogue server finds a rightful one."""
    lab["gw"].wait_for_unit("kea-dhcp4-server.service")
    assert offers(lab, "room-1", seconds=5)


@pytest.mark.lan(topology="alone")
def test_an_image_without_hall_toml_and_without_a_cable_waits_for_no_network(lab: Lab) -> None:
    """Packages' units want network-online.target, which would be reached after two minutes."""
    gw = lab["gw"]
    assert gw.wait_for_unit("multi-user.target").active == "active"
    assert gw.unit("network-online.target").active == "active"
    assert gw.unit("systemd-networkd-wait-online.service").active == "inactive"
