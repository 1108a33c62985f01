"""How a machine that nobody knows becomes known at its screen, by hand or by what its switch says."""

from __future__ import annotations

import struct
import time
from dataclasses import dataclass
from typing import Literal

import msgspec

from e2e import screen, topology
from e2e.journal import Entry
from e2e.lab import Lab
from e2e.node import Node
from netboot.client import Netboot
from netboot.schema import Boot, Bootlog, Outcome
from services.mdb.client import Mdb
from services.mdb.schema import Machine, NewSwitch

SECONDS = 600.0
STRANGER, NAME = "stranger", "pas-r09p09"
SWITCH, FOREIGN = "52:54:00:5a:00:01", "52:54:00:5a:00:99"


@dataclass
class Story:
    """A hall, and what became of its stranger. `mark` is where its journal was when the machine was registered."""

    lab: Lab
    mark: int = 0

    @property
    def seat(self) -> Node:
        return self.lab[STRANGER]

    def machine(self) -> Machine:
        """As mdb knows it."""
        with Mdb(self.lab["gw"].service("mdb")) as mdb:
            return mdb.machine(NAME)

    def boots(self) -> list[Boot]:
        """What netboot let it boot, the newest first."""
        with Netboot(self.lab["gw"].service("netboot")) as netboot:
            return [boot for boot in netboot.boots(NAME).boots if boot.outcome is Outcome.BOOT]

    def logs(self) -> list[Bootlog]:
        """What it sent when it failed, the newest first."""
        with Netboot(self.lab["gw"].service("netboot")) as netboot:
            return netboot.bootlogs(NAME).logs

    def said(self, pattern: str, *, seconds: float = SECONDS, since: int | None = None) -> Entry:
        """Wait for a line of its console, whatever became of it since it was registered."""
        return self.seat.wait_for_journal(pattern, seconds=seconds, since=self.mark if since is None else since)


def begin(lab: Lab) -> Story:
    """A hall that lets machines register themselves, with a stranger in front of the menu."""
    lab.start()
    with Mdb(lab["gw"].service("mdb")) as mdb:
        mdb.set("allow_self_registration", True)
        mdb.create_switch(NewSwitch(name="room-1", chassis=SWITCH, room="room-1", rfs=1, hfs=0))
    lab.power_on([lab[STRANGER]])
    screen.wait_for(lab[STRANGER], "Backline does not know this machine", seconds=SECONDS)
    return Story(lab, lab.journal.mark())


def confirm(story: Story) -> None:
    """The end of each way through the menu: a name, and yes. It restarts then."""
    screen.answer(story.seat, "Host name:$", f"{NAME}\n")
    starts = story.seat.starts
    screen.answer(story.seat, "Register this machine?.*No, back to the menu", "y")
    story.seat.wait_until("its restart", lambda: story.seat.starts > starts, seconds=60)


def register_by_hand(story: Story) -> None:
    """What somebody types at the screen."""
    story.seat.type("h")
    screen.answer(story.seat, "root file server, rfs:$", "1\n")
    screen.answer(story.seat, "home file server, hfs:$", "0\n")
    screen.answer(story.seat, "Room .*Another one", "\n")
    screen.answer(story.seat, "What is it for.*A contestant's seat", "\n")
    confirm(story)


def hall(firmware: Literal["bios", "uefi"]) -> topology.Topology:
    """Two root file servers, and a stranger of that firmware."""
    wanted = topology.built_in("netboot")
    node: topology.Node = msgspec.structs.replace(wanted.nodes[STRANGER], firmware=firmware)
    return msgspec.structs.replace(wanted, nodes={**wanted.nodes, STRANGER: node})


def told(story: Story, chassis: str, pattern: str) -> None:
    """A switch names itself every now and then, until the machine has heard it."""

    sent = [0.0]

    def heard() -> bool:
        if time.monotonic() - sent[0] > 1:
            sent[0] = time.monotonic()
            story.lab.network.inject(f"{STRANGER}:0", lldp(chassis, "ge-0/0/7"))
        return screen.shows(story.seat, pattern)

    story.seat.wait_until(f"the machine has heard {chassis}", heard, seconds=50)


def lldp(chassis: str, port: str) -> bytes:
    """A switch's frame (IEEE 802.1AB): chassis id, port id, time to live, end."""

    def tlv(kind: int, value: bytes) -> bytes:
        return struct.pack("!H", kind << 9 | len(value)) + value

    address = bytes.fromhex(chassis.replace(":", ""))
    parts = tlv(1, b"\x04" + address) + tlv(2, b"\x05" + port.encode()) + tlv(3, b"\x00\x78") + tlv(0, b"")
    return bytes.fromhex("0180c200000e") + address + b"\x88\xcc" + parts


def register_by_lldp(story: Story) -> None:
    """Two switches name themselves, and the one that mdb knows counts. BIOS machines hear none."""
    screen.answer(story.seat, r"its switch says where it is \(LLDP\)", "l")
    screen.wait_for(story.seat, "Waiting for the switch to name itself")
    told(story, FOREIGN, r"Heard 52:?54:?00:?5a:?00:?99, which is no switch of this hall")
    told(story, SWITCH, r"Switch room-1: room room-1, rfs 1, hfs 0")
    confirm(story)
