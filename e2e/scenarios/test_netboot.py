"""A machine that nobody knows registers at its screen, and boots although its root file server is lost on the way.

One start serves all tests: emulated, it takes a minute or two. What it loses is lost once its kernel runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import httpx2
import pytest

from e2e.lab import Lab
from e2e.pool import Labs
from e2e.scenarios.registering import (
    NAME,
    SECONDS,
    STRANGER,
    Story,
    begin,
    hall,
    register_by_hand,
    register_by_lldp,
)
from netboot.schema import Stage
from services.mdb.schema import MachineType

pytestmark = [pytest.mark.needs("QEMU", "tun"), pytest.mark.images]


@pytest.fixture(scope="module")
def by_hand(labs: Labs) -> Iterator[Story]:
    labs.close()
    with Lab(hall("bios"), settings=labs.settings) as lab:
        story = begin(lab)
        register_by_hand(story)
        story.said(r"\] systemd\[1\]: ")  # its initrd runs, and has not looked for its root yet
        lab.cut("rhfs01")
        story.seat.wait_ready(seconds=SECONDS)
        story.seat.wait_until("its report", lambda: story.boots()[0].stage is not None, seconds=120)
        yield story


def test_what_was_typed_is_in_mdb(by_hand: Story) -> None:
    found = by_hand.machine()
    (cable,) = by_hand.lab.network.cables(STRANGER)
    assert (found.mac, found.type, found.room, found.rfs, found.hfs) == (cable.mac, MachineType.USER, "other", 1, 0)


def test_it_boots_the_version_of_its_channel_to_its_default_target(by_hand: Story) -> None:
    boot = by_hand.boots()[0]
    assert by_hand.lab.netboot is not None
    assert boot.version == by_hand.lab.netboot.ref.version
    assert (boot.stage, boot.stage_detail) == (Stage.SYSTEM, "running")
    assert boot.address == str(by_hand.machine().ip)


def test_the_root_file_server_that_is_left_serves_it(by_hand: Story) -> None:
    by_hand.said(r"backline: nfs:192\.168\.1\.11:.* cannot serve the root: ", seconds=5)
    established = by_hand.lab["rhfs23"].succeeds("ss", "-Htn", "state", "established", "sport", "=", ":2049")
    assert str(by_hand.machine().ip) in established


def test_no_owner_of_a_file_is_looked_up_by_name(by_hand: Story) -> None:
    """The kernel would start a program for it, from the very root that waits for the answer."""
    lines = [entry.message for entry in by_hand.lab.journal.since(by_hand.mark) if entry.node == STRANGER]
    assert [line for line in lines if "request-key" in line] == []


def test_netboot_knows_the_host_key_that_its_sshd_shows(by_hand: Story) -> None:
    address = str(by_hand.machine().ip)
    gw = by_hand.lab["gw"]
    lines = gw.succeeds("ssh-keyscan", "-t", "ed25519", address).splitlines()
    shown = next(line for line in lines if not line.startswith("#")).split()[1:3]
    transport = httpx2.HTTPTransport(uds=gw.service("netboot").removeprefix("unix:"))
    with httpx2.Client(transport=transport) as client:
        known = client.get("http://netboot/v1/hostkeys").text
    (line,) = [line for line in known.splitlines() if line.startswith(f"{NAME},")]
    assert line.split()[1:3] == shown


def test_no_other_address_gets_its_credentials(by_hand: Story) -> None:
    boot = by_hand.boots()[0]
    answer = by_hand.lab["gw"].http("POST", f"http://192.168.1.254/v1/boots/{boot.id}/credentials")
    assert answer.status_code in (403, 409), answer.text


def test_its_credentials_are_given_once(by_hand: Story) -> None:
    """Claimed by the initrd; who takes over its address when it is off gets nothing, and is noticed."""
    boot = by_hand.boots()[0]
    assert boot.claimed_from == boot.address
    by_hand.seat.crash()
    thief = by_hand.lab["rhfs23"]
    thief.succeeds("ip", "address", "add", f"{boot.address}/23", "dev", "host0")
    by_hand.lab["gw"].succeeds("ip", "neighbour", "flush", "to", boot.address)
    transport = httpx2.HTTPTransport(local_address=boot.address)

    def claim() -> httpx2.Response:
        with httpx2.Client(transport=transport, trust_env=False) as client:
            return client.post(f"http://192.168.1.254/v1/boots/{boot.id}/credentials")

    answer = by_hand.lab.sandbox.in_network(claim, netns=thief.netns)
    assert (answer.status_code, answer.json()["code"]) == (409, "boot.claimed")
    assert by_hand.boots()[0].refused_claims == boot.refused_claims + 1
    noticed = rf"^{boot.address} claimed the credentials of boot {boot.id}: "
    assert by_hand.lab["gw"].wait_for_journal(noticed, seconds=5).fields["PRIORITY"] == "3"


# The other firmware


@pytest.mark.full
@pytest.mark.needs("UEFI firmware for QEMU")
@pytest.mark.parametrize("register", [register_by_hand, register_by_lldp])
def test_a_stranger_with_uefi_registers_and_boots(labs: Labs, register: Callable[[Story], None]) -> None:
    labs.close()
    with Lab(hall("uefi"), settings=labs.settings, name=f"netboot-{register.__name__.replace('_', '-')}") as lab:
        story = begin(lab)
        register(story)
        story.seat.wait_ready(seconds=SECONDS)
        assert story.machine().rfs == 1
