"""gw is lost, with its disk: a new one restores what a root file server has, and seats notice nothing.

A seat runs, and clients read from the root file server, all the time. The new gw has what an administrator would give
it: an image, hall.toml and credentials.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address

import msgspec
import pytest

from e2e import netbooted, small, topology
from e2e.lab import Lab
from e2e.pool import Labs
from e2e.scenarios import questions
from e2e.scenarios.test_roots import Story
from netboot.client import Netboot
from netboot.schema import Channel, ChannelChange, NewPin, NewPointer, Pin, PinKind
from services.depot.client import Depot
from services.depot.schema import State as Progress
from services.dns.client import Dns
from services.hostd.machines_iron import SAVING, SAVING_TIMER, systemctl_in
from services.mdb.client import Mdb
from services.mdb.schema import Machine, MachineType, NewMachine
from services.seat.heartbeat import LONGEST
from services.state.schema import State
from services.udb.client import Udb
from services.udb.schema import NewUser, User

SEAT, READERS, SIZE = "pas-r01p01", 6, 1_000_000
LIMIT = 300.0
"""Seconds that a lost gw may be away (issue: five minutes)."""
EXTRA = NewMachine(hostname="printer", mac="52:54:00:0d:06:01", aliases=["paper"], type=MachineType.ORGA)
LATE = NewMachine(hostname="late", mac="52:54:00:0d:06:02", type=MachineType.ORGA)

pytestmark = [pytest.mark.needs("libnfs"), pytest.mark.images]


@dataclass
class Told:
    """What gw's services answer."""

    machines: list[Machine]
    users: list[User]
    passwords: list[str | None]
    channels: list[Channel]
    pins: list[Pin]
    history: list[ChannelChange]
    boots: list[str]
    leases: list[tuple[str, str]]
    sequence: int
    names: list[str] | None
    serial: int
    host_key: str
    offer: IPv4Address | None


@pytest.fixture(scope="module")
def lab(labs: Labs) -> Iterator[Lab]:
    labs.close()
    with Lab(topology.hall(seats=1), settings=labs.settings, netboot=True, name="state") as made:
        seat = made[SEAT]
        seat.ask = lambda: netbooted.boot(made, seat)
        seat.credentials |= netbooted.credentials()
        made.start(seconds=180)
        yield made
        made.check()


@pytest.fixture(scope="module")
def story(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Story:
    return Story(lab, tmp_path_factory.mktemp("publisher"))


def told(lab: Lab) -> Told:
    gw = lab["gw"]
    with (
        Mdb(gw.service("mdb")) as mdb,
        Udb(gw.service("udb")) as udb,
        Netboot(gw.service("netboot")) as netboot,
        Depot(gw.service("depot")) as depot,
    ):
        return Told(
            machines=mdb.machines().machines,
            users=udb.users().users,
            passwords=[each.password for each in udb.sheet().people],
            channels=netboot.channels().channels,
            pins=netboot.pins().pins,
            history=netboot.channel_history("stable").changes,
            boots=sorted(boot.id for boot in netboot.boots().boots),
            leases=sorted((lease.hostname, lease.version) for lease in netboot.leases().leases),
            sequence=depot.channel("exam").last_sequence,
            names=questions.resolve(lab, lab["rhfs01"], "paper.prolo"),
            serial=serial(lab),
            host_key=shown_key(lab),
            offer=questions.offer(lab, lab.topology.nodes["rhfs01"].nics[0].segment, EXTRA.mac or ""),
        )


def shown_key(lab: Lab) -> str:
    """The host key that gw's sshd shows, to another host."""
    lines = lab["rhfs01"].succeeds("ssh-keyscan", "-t", "ed25519", questions.GW).splitlines()
    return next(line for line in lines if not line.startswith("#"))


def serial(lab: Lab) -> int:
    found = questions.resolve(lab, lab["rhfs01"], "prolo", "SOA")
    return int(found[0].split()[2]) if found else 0


def state(lab: Lab) -> State:
    return msgspec.json.decode(lab["gw"].succeeds("backline", "state", "list", "--json"), type=State)


def copied(lab: Lab, name: str) -> bool:
    return all(each.newest == name for each in state(lab).receivers)


def saved(lab: Lab) -> str:
    """Save as the timer does, and wait until every root file server has it."""
    lab["gw"].succeeds("systemctl", "start", "backline-state.service")
    newest = state(lab).saves[0]
    assert newest.sealed
    lab["gw"].wait_until(f"copies of {newest.name}", lambda: copied(lab, newest.name), seconds=60)
    return newest.name


def test_gw_is_lost_and_restored_while_a_seat_keeps_its_root(
    lab: Lab, story: Story, capsys: pytest.CaptureFixture[str]
) -> None:
    gw = lab["gw"]
    assert lab.netboot is not None
    first, second = (story.version(small.noise(number, SIZE)) for number in (1, 2))
    for ref in (first, second):
        story.upload(ref)
        assert story.progress(story.publish(ref)).state is Progress.CONFIRMED
    with Netboot(gw.service("netboot")) as netboot, Mdb(gw.service("mdb")) as mdb:
        mdb.create(EXTRA)
        netboot.pin(PinKind.ROOM, "exile", NewPin(version=first.version, why="an old projector"))
        netboot.switch_channel("exam", NewPointer(version=first.version, why="the exam"))
        netboot.switch_channel("exam", NewPointer(version=second.version, why="on trial", commit_within=3600))
    with Udb(gw.service("udb")) as udb:
        udb.create(NewUser(login="paper", generate=True))
    gw.wait_until("the name of the machine", lambda: bool(questions.resolve(lab, lab["rhfs01"], "paper.prolo")))
    name = saved(lab)
    before = told(lab)
    assert before.offer is not None
    assert before.leases

    # After the archive: what is lost with gw, and must not be given out again.
    third = story.version(small.noise(3, SIZE))
    story.upload(third)
    assert story.progress(story.publish(third)).state is Progress.CONFIRMED
    with Mdb(gw.service("mdb")) as mdb:
        mdb.create(LATE)

    path = f"{lab.netboot.path}/vmlinuz"
    wanted = hashlib.sha256(story.read(path)).hexdigest()
    stop = story.place / "stop"
    command = " ".join(story.nfs("nfs-cat", path))
    script = f"while [ ! -e {stop} ]; do {command} | sha256sum; done"
    readers = [subprocess.Popen(["sh", "-c", script], stdout=subprocess.PIPE, text=True) for _ in range(READERS)]
    try:
        seat = lab[SEAT]
        up = seat.succeeds("cat", "/proc/1/stat")
        gw.destroy()
        lost = time.monotonic()
        gw.start()
        gw.wait_ready(seconds=120)
        assert name not in {save.name for save in state(lab).saves}
        said = gw.succeeds("backline", "state", "fetch", "--from", "rhfs01")
        assert name in said
        done = json.loads(gw.succeeds("backline", "state", "restore", "--json", seconds=180))
        assert (done["archive"], done["failed"]) == (name, [])
        gw.wait_until(
            "names and addresses",
            lambda: questions.resolve(lab, lab["rhfs01"], "paper.prolo") == before.names,
            seconds=60,
        )
        after = told(lab)
        seconds = time.monotonic() - lost
        gw.wait_until("a heartbeat of the seat", lambda: heard(lab) > 0, seconds=LONGEST / 10 + 30)
    finally:
        stop.touch()
        outputs = [reader.communicate(timeout=60)[0].splitlines() for reader in readers]

    with capsys.disabled():
        print(f"\na lost gw was there again after {seconds:.1f} s, of {LIMIT:.0f}")
    assert seconds < LIMIT
    assert {line for output in outputs for line in output} == {f"{wanted}  -"}
    assert min(len(output) for output in outputs) > 0
    assert (seat.succeeds("cat", "/proc/1/stat").split()[21], seat.starts) == (up.split()[21], 1)
    assert seat.succeeds("systemctl", "is-system-running") == "running"

    assert after.machines == before.machines
    assert after.pins == before.pins
    assert after.history == before.history
    assert after.boots == before.boots
    assert after.leases == before.leases
    assert after.names == before.names
    assert after.offer == before.offer
    assert after.host_key == before.host_key
    assert after.serial >= before.serial
    assert before.sequence == 2
    assert after.sequence == 3, "a number that a root file server has seen is not given out again"
    pointers = {each.name: each for each in after.channels}
    assert (pointers["exam"].current, pointers["exam"].committed) == (first.version, True), "on trial means: previous"
    assert pointers["stable"] == next(each for each in before.channels if each.name == "stable")


def heard(lab: Lab) -> float:
    """When the seat was heard last, in this life of netboot."""
    with Netboot(lab["gw"].service("netboot")) as netboot:
        return max((lease.heard or 0.0 for lease in netboot.leases().leases if lease.hostname == SEAT), default=0.0)


def test_the_hall_goes_on_from_there(lab: Lab, story: Story) -> None:
    """The next publication is taken by every root file server, and there are new archives of the same life of gw."""
    ref = story.version(small.noise(4, SIZE))
    story.upload(ref)
    with Depot(lab["gw"].service("depot")) as depot:
        assert depot.channel("exam").next_sequence == 4
    assert story.progress(story.publish(ref)).state is Progress.CONFIRMED
    name = saved(lab)
    lines = {text.split("-")[-2] for text in lab["rhfs01"].succeeds("ls", "/var/lib/backline-state-keeper/gw").split()}
    assert lines == {name.split("-")[-2]}
    assert state(lab).problems == []
    with Dns(lab["gw"].service("dns")) as dns:
        assert dns.status().state == "applied"


def test_the_iron_lets_gw_save_before_an_upgrade_and_nobody_else(lab: Lab) -> None:
    """What hostd on iron runs, from outside of the machine."""
    for name, has in (("gw", True), ("rhfs01", False)):
        inside = systemctl_in(int(lab[name].netns.split("/")[2]))
        done = lab.sandbox.run([*inside, "is-enabled", "--quiet", SAVING_TIMER], check=False)
        assert (done.returncode == 0, done.stderr) == (has, "")
        if has:
            before = {save.name for save in state(lab).saves}
            lab.sandbox.run([*inside, "start", SAVING])
            assert {save.name for save in state(lab).saves} - before


@pytest.mark.full
def test_a_restore_that_a_restart_finds_is_ended_before_anybody_reads_what_is_there(lab: Lab) -> None:
    gw = lab["gw"]
    name = saved(lab)
    with Mdb(gw.service("mdb")) as mdb:
        mdb.create(LATE)
    gw.succeeds("systemctl", "mask", "--runtime", "backline-state-restore.service")
    refused = gw.fails("backline", "state", "restore", f"/var/lib/backline-state/{name}")
    assert "backline state restore" in refused.stderr
    assert "restore is under way" in gw.fails("backline", "state", "save").stderr
    gw.reboot(seconds=120)
    with Mdb(gw.service("mdb")) as mdb:
        assert "late" not in {machine.hostname for machine in mdb.machines().machines}
        assert EXTRA.hostname in {machine.hostname for machine in mdb.machines().machines}
    assert gw.run(["test", "-e", "/var/lib/backline-state/restore.json"], check=False).returncode == 1


_ASK = """
import http.client, ssl, sys
context = ssl.create_default_context(cafile="/run/backline/ca.pem")
if len(sys.argv) > 2:
    context.load_cert_chain(f"/run/credentials/@system/{sys.argv[2]}")
link = http.client.HTTPSConnection("192.168.1.10", 20212, timeout=10, context=context)
link.request("GET", sys.argv[1])
print(link.getresponse().status)
"""


def test_only_gw_has_copies_and_only_sealed_ones(lab: Lab) -> None:
    """Other hosts of the hall, and gw with another scope, are turned away; without a certificate there is no TLS."""
    gw, rhfs = lab["gw"], lab["rhfs01"]
    (name, *_) = rhfs.succeeds("ls", "/var/lib/backline-state-keeper/gw").split()
    ask = ["python3", "-c", _ASK, f"/v1/copies/gw/{name}"]
    assert gw.succeeds(*ask, "backline.client.state") == "200"
    assert gw.succeeds(*ask, "backline.client.host") == "403"
    assert rhfs.succeeds(*ask, "backline.client.rfs") == "403"
    gw.fails(*ask)
    head = rhfs.succeeds("head", "-c", "23", f"/var/lib/backline-state-keeper/gw/{name}")
    assert head == "backline state 1 sealed"
