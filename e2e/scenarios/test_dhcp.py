"""gw's DHCP when things go wrong below it: power, cables, mdb. It answers as before an edit, or as after it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from ipaddress import IPv4Address

import pytest

from e2e.lab import Lab
from e2e.pool import Labs
from e2e.power import Cut, Disk
from e2e.scenarios.questions import offer
from e2e.topology import Nic, Node, Segment, Topology
from services.dhcp.client import Dhcp
from services.dhcp.schema import Offer, Standing, State
from services.mdb.client import Mdb
from services.mdb.schema import Change, Edits, Machine, MachinePatch, MachineType, NewMachine

pytestmark = [pytest.mark.images, pytest.mark.needs("root", "cgroup2", "namespaces", "systemd-nspawn", "overlayfs")]
TOPOLOGY = Topology(
    name="gateway",
    segments={"room": Segment()},
    nodes={"gw": Node(role="gw", nics=[Nic(segment="room")])},
)
MAC = "52:54:00:0b:00:01"
STATE = "/var/lib/backline-dhcp"


@pytest.fixture
def lab(labs: Labs) -> Iterator[Lab]:
    """gw alone on a switch, not started yet."""
    with Lab(TOPOLOGY, settings=labs.settings) as lab:
        yield lab


def told(lab: Lab, mac: str = MAC) -> Offer:
    with Dhcp(lab["gw"].service("dhcp")) as client:
        return client.offer(mac)


def live(lab: Lab, address: IPv4Address, *, seconds: float = 20.0) -> None:
    """Wait until the service says that this address is in force."""
    deadline = time.monotonic() + seconds
    while told(lab).ip != address:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def create(lab: Lab) -> Machine:
    with Mdb(lab["gw"].service("mdb")) as client:
        machine = client.create(NewMachine(hostname="pas-r09p01", mac=MAC, type=MachineType.USER))
    live(lab, machine.ip)
    return machine


@pytest.mark.needs("loop devices")
def test_a_power_cut_during_an_edit_leaves_the_answer_of_before_or_after(lab: Lab) -> None:
    """Kea starts from what is on the disk: mdb is not there to help it."""
    gw = lab["gw"]
    disk = Disk.of(gw, STATE)
    lab.start()
    machine = create(lab)
    gw.succeeds("sync", "-f", STATE)
    after = machine.ip + 100
    cuts: list[Cut] = []
    with Mdb(gw.service("mdb")) as client:
        client.edit(Edits(update=[Change(id=machine.id, patch=MachinePatch(ip=after))]))
        while told(lab).ip != after and len(cuts) < 8:
            cuts.append(disk.cut(f"{len(cuts)} copies"))
    live(lab, after)
    cuts.append(disk.cut("the answer"))
    assert offer(lab, "room", MAC) == after
    gw.succeeds("systemctl", "mask", "backline-mdb.service", "backline-mdb.socket")
    for cut in (cuts[len(cuts) // 2 - 1], cuts[-1]):
        gw.crash()
        disk.put_back(cut)
        gw.start()
        gw.wait_ready(seconds=90)
        found = offer(lab, "room", MAC)
        assert found in ({after} if cut is cuts[-1] else {machine.ip, after}), cut.after
        with Dhcp(gw.service("dhcp")) as client:
            assert client.status().state is State.WAITING


def test_a_gw_whose_cable_comes_late_serves_from_then_on(lab: Lab) -> None:
    gw = lab["gw"]
    lab.cut("gw:0")
    gw.start()
    gw.wait_for_unit("backline-dhcp.service", seconds=90)
    assert gw.fails("systemctl", "is-active", "kea-dhcp4-server.service")
    lab.heal()
    gw.wait_for_unit("kea-dhcp4-server.service", seconds=120)
    found: list[IPv4Address | None] = []

    def look() -> bool:
        found.append(offer(lab, "room", MAC, seconds=1))
        return found[-1] is not None

    gw.wait_until("Kea answers on the wire", look)
    assert str(found[-1]).startswith("192.168.250.")
    assert told(lab).standing is Standing.UNKNOWN
