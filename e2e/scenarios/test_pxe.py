"""A machine of its own boots as a seat does: firmware, iPXE, kernel, NFS, verity, EROFS, overlay, its default target.

The boot chain of the architecture, on gw's and rhfs01's images; mdb knows the seat. One start serves all tests of a
firmware: emulated, it takes a minute or two. The seat's clock is a day ahead when it is switched on.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import msgspec
import pytest

from e2e import topology
from e2e.lab import Lab
from e2e.pool import Labs
from netboot.client import Netboot
from netboot.schema import Outcome
from services.hostd.schema import Host, Units

SECONDS = 600.0
SEAT = "pas-r01p01"
HOSTD, METRICS = 20210, 9100

pytestmark = [pytest.mark.lan(topology="pxe", seconds=SECONDS), pytest.mark.needs("QEMU", "tun"), pytest.mark.images]


def address(lab: Lab) -> str:
    """The address that mdb gave to the seat."""
    return str(lab.machines[SEAT].ip)


def metric(lab: Lab, name: str) -> float:
    """A number that the seat's node exporter tells gw."""
    text = lab["gw"].http("GET", f"http://{address(lab)}:{METRICS}/metrics", seconds=60).text
    return next(float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith(name))


def boots(lab: Lab, loader: str) -> None:
    """From its firmware's first question to the default target."""
    lab["gw"].wait_for_journal(rf"RRQ from {address(lab)} filename {loader}", seconds=5)
    booted(lab)


def booted(lab: Lab) -> None:
    """What is the same for every firmware, from iPXE to the default target."""
    gw, seat, boot = lab["gw"], lab[SEAT], lab.netboot
    assert boot is not None
    for file in ("vmlinuz", "initrd"):
        lab["rhfs01"].wait_for_journal(rf'^{address(lab)} .*"GET {boot.path}/{file} HTTP/1\.[01]" 200 ', seconds=5)
    seat.wait_for_journal(r"systemd\[1\]: Finished backline-root\.service", seconds=5)
    assert seat.ready
    with Netboot(gw.service("netboot")) as netboot:
        found = netboot.boots(SEAT).boots[0]
    assert (found.outcome, found.version, found.claimed_from) == (Outcome.BOOT, boot.ref.version, address(lab))
    (row,) = [each for each in lab.status() if each["name"] == SEAT]
    assert (row["version"], row["addresses"]) == (boot.ref.version, [address(lab)])


def test_a_bios_client_gets_an_address_and_a_script_and_boots_the_version(lab: Lab) -> None:
    boots(lab, r"undionly\.kpxe")


def test_its_root_is_read_over_nfs_through_verity(lab: Lab) -> None:
    before = metric(lab, 'node_disk_read_bytes_total{device="dm-0"}')
    assert before > 10_000_000
    established = lab["rhfs01"].succeeds("ss", "-Htn", "state", "established", "sport", "=", ":2049")
    assert address(lab) in established


def test_it_runs_the_version_and_has_no_failed_unit(lab: Lab) -> None:
    assert lab.netboot is not None
    base = f"http://{address(lab)}:{HOSTD}/v1"
    host = msgspec.json.decode(lab["gw"].http("GET", f"{base}/host", seconds=60).content, type=Host)
    assert (host.hostname, host.state) == (SEAT, "configured")
    assert (host.role, host.version) == (lab.netboot.ref.role, lab.netboot.ref.version)
    answer = lab["gw"].http("GET", f"{base}/units?state=failed", seconds=60)
    assert msgspec.json.decode(answer.content, type=Units).units == []


def test_its_clock_is_stepped_by_gw(lab: Lab) -> None:
    """It was a day ahead, and says so itself; then it tells our time."""
    assert lab[SEAT].spec.clock_offset == 86400
    lab[SEAT].wait_for_journal(r"chronyd\[\d+\]: System clock was stepped by -86\d\d\d\.", seconds=120)
    assert abs(metric(lab, "node_time_seconds ") - time.time()) < 10


def test_freezing_it_stops_its_processors(lab: Lab) -> None:
    seat = lab[SEAT]
    seat.freeze()
    with pytest.raises(OSError):
        lab["gw"].connect((address(lab), HOSTD), seconds=2)
    seat.thaw()
    lab["gw"].connect((address(lab), HOSTD), seconds=30).close()


def test_the_power_button_shuts_it_down(lab: Lab) -> None:
    lab[SEAT].stop(seconds=180)
    assert not lab[SEAT].running
    entry = lab[SEAT].wait_for_journal("powered off", seconds=5)
    assert entry.kind == "exit"


@pytest.fixture
def uefi(labs: Labs) -> Iterator[Lab]:
    """The same hall with a seat of UEFI firmware, which is off."""
    labs.close()
    wanted = topology.built_in("pxe")
    seat: topology.Node = msgspec.structs.replace(wanted.nodes[SEAT], firmware="uefi", off=True)
    wanted = msgspec.structs.replace(wanted, nodes={**wanted.nodes, SEAT: seat})
    with Lab(wanted, settings=labs.settings) as lab:
        lab.start(seconds=SECONDS)
        yield lab


@pytest.mark.full
@pytest.mark.needs("UEFI firmware for QEMU")
def test_a_uefi_client_boots_the_same_version(uefi: Lab) -> None:
    uefi.power_on([uefi[SEAT]])
    uefi[SEAT].wait_ready(seconds=SECONDS)
    boots(uefi, r"snponly\.efi")


@pytest.mark.full
@pytest.mark.needs("UEFI firmware for QEMU")
def test_a_uefi_client_boots_it_over_http_where_no_tftp_answers(uefi: Lab) -> None:
    """Its firmware goes on from PXE to HTTP boot by itself (UEFI specification, 24.7)."""
    gw = uefi["gw"]
    log = "s,access_log off,access_log syslog:server=unix:/dev/log\\,nohostname\\,tag=nginx,"
    gw.succeeds("sed", "--in-place", log, "/etc/nginx/backline.conf")
    gw.succeeds("systemctl", "reload", "nginx.service")
    gw.succeeds("systemctl", "stop", "tftpd-hpa.service")
    uefi.power_on([uefi[SEAT]])
    uefi[SEAT].wait_ready(seconds=SECONDS)
    gw.wait_for_journal(rf'^{address(uefi)} .*"GET /ipxe/snponly\.efi HTTP/1\.1" 200 ', seconds=5)
    booted(uefi)
