"""What real Kea tells machines: firmware of each kind, iPXE of each kind, known and unknown."""

from __future__ import annotations

import pytest

from tests.dhcp import client
from tests.dhcp.client import ACK, NAK, Options
from tests.dhcp.halls import mac, machine
from tests.dhcp.rig import Gateway

pytestmark = [pytest.mark.images, pytest.mark.needs("podman", "root", "cgroup2", "namespaces", "overlayfs")]
KNOWN, STRANGER = mac(7), mac(0xA11E)


@pytest.fixture(scope="module")
def gw(shared: Gateway) -> Gateway:
    shared.apply(machine(7, name="pas-r01p07"), machine(8))
    return shared


def test_a_known_machine_gets_its_own_address_and_name(gw: Gateway) -> None:
    given = gw.wire.lease(KNOWN)
    assert (str(given.address), given.text(12)) == ("192.168.0.7", "pas-r01p07")


def test_a_known_machine_is_told_of_gw_as_it_reaches_it(gw: Gateway) -> None:
    given = gw.wire.lease(KNOWN)
    assert str(given.next_server) == "192.168.1.254"
    assert [given.addresses(code) for code in (3, 6, 42)] == [["192.168.1.254"]] * 3
    assert (given.text(15), given.options[119]) == ("prolo", b"\5prolo\0")
    assert 14400 * 3 / 4 < given.seconds <= 14400


def test_a_stranger_gets_an_address_of_the_aliens_for_half_a_minute(gw: Gateway) -> None:
    given = gw.wire.lease(STRANGER)
    assert str(given.address).startswith("192.168.250.")
    assert 30 * 3 / 4 <= given.seconds <= 30
    assert 12 not in given.options


def test_a_stranger_is_told_of_gw_as_aliens_reach_it(gw: Gateway) -> None:
    given = gw.wire.lease(STRANGER)
    assert str(given.next_server) == "192.168.250.254"
    assert [given.addresses(code) for code in (3, 6, 42)] == [["192.168.250.254"]] * 3
    assert (given.text(15), given.options[119]) == ("prolo", b"\5prolo\0")


@pytest.mark.parametrize(
    ("says", "loads"),
    [
        (client.BIOS, "undionly.kpxe"),
        (client.UEFI, "snponly.efi"),
        (client.UEFI_9, "snponly.efi"),
        (client.OLD_ROM, "undionly.kpxe"),
        (client.OLD_UEFI_ROM, "snponly.efi"),
        (client.DEBIAN_BIOS, "http://{gw}/bootstrap"),
        (client.DEBIAN_UEFI, "http://{gw}/bootstrap"),
        (client.OURS, "http://{gw}/bootstrap"),
        (client.HTTP, "http://{gw}/ipxe/snponly.efi"),
        (client.LINUX, ""),
    ],
    ids=["bios", "uefi-7", "uefi-9", "old-rom", "old-uefi-rom", "debian-bios", "debian-uefi", "ours", "http", "linux"],
)
@pytest.mark.parametrize(("who", "gateway"), [(KNOWN, "192.168.1.254"), (STRANGER, "192.168.250.254")])
def test_each_client_is_sent_what_it_can_load(gw: Gateway, says: Options, loads: str, who: str, gateway: str) -> None:
    for answer in (gw.wire.discover(who, says), gw.wire.lease(who, says)):
        assert answer is not None
        assert answer.file == loads.format(gw=gateway)
        assert str(answer.next_server) == gateway


@pytest.mark.parametrize(("who", "gateway"), [(KNOWN, "192.168.1.254"), (STRANGER, "192.168.250.254")])
def test_uefi_http_boot_gets_its_words_back_and_a_url_though_it_asks_for_neither(
    gw: Gateway, who: str, gateway: str
) -> None:
    offered = gw.wire.discover(who, client.HTTP)
    assert offered is not None
    assert offered.text(60) == "HTTPClient"
    assert offered.text(67) == f"http://{gateway}/ipxe/snponly.efi"


def test_firmware_over_tftp_is_not_told_that_it_speaks_http(gw: Gateway) -> None:
    offered = gw.wire.discover(KNOWN, client.UEFI)
    assert offered is not None
    assert {60, 67}.isdisjoint(offered.options)


def test_ipxe_is_told_not_to_wait_for_a_proxy(gw: Gateway) -> None:
    for who in (KNOWN, STRANGER):
        offered = gw.wire.discover(who, client.DEBIAN_BIOS)
        assert offered is not None
        assert offered.options[175] == b"\xb0\1\1"


def test_one_machine_has_one_lease_whatever_it_calls_itself(gw: Gateway) -> None:
    """Firmware, iPXE and Linux send different client identifiers (option 61)."""
    names = (b"\0" + bytes(range(16)), b"\1" + bytes.fromhex(KNOWN.replace(":", "")), b"\xff\0\0\0\1")
    given = [gw.wire.lease(KNOWN, {**client.BIOS, 61: name}) for name in names]
    assert [str(each.address) for each in given] == ["192.168.0.7"] * 3


def test_a_stranger_that_wants_a_known_machines_address_is_refused(gw: Gateway) -> None:
    answer = gw.wire.remember(STRANGER, "192.168.0.8")
    assert answer is not None
    assert answer.kind == NAK


def test_a_question_is_answered_once(gw: Gateway) -> None:
    """gw's card has two addresses, and Kea would listen on both."""
    gw.wire.lease(KNOWN)
    assert gw.wire.count(KNOWN, client.BIOS) == 1


def test_an_alien_keeps_its_address_while_it_renews(gw: Gateway) -> None:
    first = gw.wire.lease(STRANGER)
    again = gw.wire.renew(STRANGER, str(first.address))
    assert again is not None
    assert (again.kind, again.address) == (ACK, first.address)


def test_asking_all_day_fills_no_disk(gw: Gateway) -> None:
    """A lease that is asked for again at once is not written again."""
    gw.wire.lease(mac(0xF100D))
    file = gw.folder / "leases/kea-leases4.csv"
    before = file.stat().st_size
    for _ in range(20):
        gw.wire.lease(mac(0xF100D), client.DEBIAN_BIOS)
    assert file.stat().st_size == before


def test_a_declined_address_does_not_keep_its_machine_away_for_long(gw: Gateway) -> None:
    dhcp = gw.control.ask("config-get")["arguments"]["Dhcp4"]
    assert dhcp["decline-probation-period"] == 60
