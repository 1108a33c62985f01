"""The incident of 2019: what a user runs takes all of a seat and of its cable, and those who could help do not get in.

On a machine with a kernel of its own, as containers here have no controllers of memory and tasks, and not the seats'
queues. Somebody logs in with a password and floods the network both ways; then comes a fork bomb and a hog of memory.
All the while root's ssh, metrics and heartbeats get through, root's own transfers too, and the user is held to
hall.toml's figure. Emulated: seconds here are tenths of them on a seat.
"""

from __future__ import annotations

import dataclasses
import re
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from e2e import halls, topology
from e2e.lab import Lab
from e2e.node import CommandFailed
from e2e.pool import Labs
from e2e.scenarios.logging_in import Hall
from netboot.client import Netboot

pytestmark = [pytest.mark.needs("QEMU", "tun"), pytest.mark.images, pytest.mark.full]
SEAT, PASSWORD, METRICS, PORT = "pas-r01p01", "correct horse", 9100, 5000
MBIT = 8
"""The figure of this hall: little, as an emulated card has to be able to do a multiple of it."""
ANSWERS, FLOODED, FALLING = 30.0, 3, 4
"""Seconds until root is answered by an emulated seat, where a login alone takes some; how often it is asked."""
SSH = ("-i", "/root/administrator", "-oStrictHostKeyChecking=no", "-oUserKnownHostsFile=/dev/null", "-oBatchMode=yes")
SYSTEM, USERS = "1:10", "1:20"
CARD = "$(ls -d /sys/class/net/*/device | cut -d/ -f5)"
CLASS = re.compile(r"class htb (\S+) .*\n Sent (\d+) bytes \d+ pkt \(dropped (\d+), overlimits (\d+)")
GIVES_AND_TAKES = r"""
import socket, threading
server = socket.create_server(("", 5000), backlog=100)
def serve(link):
    try:
        if link.recv(1) == b"d":
            while True:
                link.sendall(bytes(65536))
        while link.recv(65536):
            pass
    except OSError:
        pass
while True:
    threading.Thread(target=serve, args=(server.accept()[0],), daemon=True).start()
"""
# One transfer, and how many Mbit/s it was.
TRANSFER = r"""
import socket, sys, time
link = socket.create_connection((sys.argv[1], 5000))
link.send(sys.argv[2].encode())
moved, began = 0, time.monotonic()
while (took := time.monotonic() - began) < 8:
    moved += len(link.recv(65536)) if sys.argv[2] == "d" else link.send(bytes(65536))
print(moved * 8 / 1e6 / took)
"""
STORM = r"""
import os, select, socket, sys, time
def upload():
    links, ready = {}, select.poll()
    for _ in range(50):
        link = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        link.setblocking(False)
        links[link.fileno()] = link
        ready.register(link, select.POLLOUT)
    while True:
        for number, _ in ready.poll():
            try:
                links[number].sendto(bytes(1400), (sys.argv[1], 9))
            except OSError:
                pass
def download():
    link = socket.create_connection((sys.argv[1], 5000))
    link.send(b"d")
    while link.recv(65536):
        pass
def hog():
    held = []
    while True:
        try:
            held.append(b"x" * (16 << 20))
        except MemoryError:
            pass
def bomb():
    while True:
        try:
            os.fork()
        except OSError:
            pass
for name in sys.argv[2:]:
    if os.fork() == 0:
        while True:  # the kernel kills a hog: there comes another one
            child = os.fork()
            if child == 0:
                globals()[name]()
            os.waitpid(child, 0)
time.sleep(900)
"""


@dataclass(frozen=True)
class Queue:
    """A class of the seat's card: bytes sent, packets lost, how often it had to wait for its rate; the seat's time."""

    sent: int
    lost: int
    held: int
    time: float


@dataclass
class Incident:
    """A seat in QEMU, what alice does there, and what root sees."""

    lab: Lab
    hall: Hall
    took: list[float] = field(default_factory=list)
    heard: set[object] = field(default_factory=set)
    storms: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def address(self) -> str:
        return str(self.lab.machines[SEAT].ip)

    @property
    def gateway(self) -> str:
        return str(self.lab.hall.data.gateway_address({"hall"}))

    def root(self, command: str, *, stdin: str | None = None, check: bool = True) -> str:
        """What root of the seat is answered, over ssh from gw."""
        argv = ["ssh", *SSH, f"root@{self.address}", command]
        return self.lab["gw"].run(argv, check=check, seconds=120, stdin=stdin).stdout

    def alice(self, *command: str) -> Sequence[str]:
        return self.hall.ssh_argv("alice", self.address, PASSWORD, command)

    def storm(self, *what: str) -> None:
        """alice, in a session more, does her worst."""
        argv = self.alice("python3", "/opt/storm.py", self.gateway, *what)
        self.storms.append(self.lab["gw"].run_in_background(argv))

    def end(self) -> None:
        for each in self.storms:
            each.kill()
            each.wait()

    def queue(self, handle: str) -> Queue:
        """A class of the card, as it is now."""
        said = self.root(f"tc -s class show dev {CARD}; cut -d' ' -f1 /proc/uptime")
        found = {name: [int(each) for each in numbers] for name, *numbers in CLASS.findall(said)}
        sent, lost, held = found[handle]
        return Queue(sent, lost, held, time=float(said.split()[-1]))

    def taken(self) -> int:
        """Bytes that the seat has taken of gw's downloads, and said so."""
        said = self.lab["gw"].succeeds("ss", "-Htin", "sport", "=", f":{PORT}")
        return sum(int(each) for each in re.findall(r"bytes_acked:(\d+)", said))

    def asked(self, command: str) -> str:
        """One round: root, metrics, heartbeat; what root is answered."""
        gw, began = self.lab["gw"], time.monotonic()
        said = self.root(command)
        self.took.append(time.monotonic() - began)
        answer = gw.http("GET", f"http://{self.address}:{METRICS}/metrics", seconds=ANSWERS)
        assert "node_memory_MemAvailable_bytes" in answer.text
        assert self.hall.where() == {"alice": SEAT}, "a heartbeat names her, every half minute at the latest"
        with Netboot(gw.service("netboot")) as netboot:
            (found,) = [each for each in netboot.seats().seats if each.hostname == SEAT]
        self.heard.add(found.last_sign)
        return said


def small_hall() -> halls.LabHall:
    """A lab's hall with a figure that an emulated seat can exceed."""
    made = halls.make(roles={"gw": "gw", "rhfs01": "rhfs"})
    text = re.sub(r"(?m)^bandwidth = \d+$", f"bandwidth = {MBIT}", made.text)
    data = halls.parse(text, Path("hall.toml")).data
    assert data.seats.bandwidth == MBIT
    return dataclasses.replace(made, text=text, data=data)


@pytest.fixture
def incident(labs: Labs, tmp_path: Path) -> Iterator[Incident]:
    """alice can log in on the seat, and gw gives and takes what is wanted."""
    labs.close()
    with Lab(topology.built_in("pxe"), hall=small_hall(), settings=labs.settings, name="incident") as lab:
        lab.start(seconds=900)
        found = Incident(lab, Hall(lab))
        gw = lab["gw"]
        gw.put("/root/administrator", lab.hall.key_in(tmp_path).read_bytes(), mode=0o600)
        found.hall.add("alice", PASSWORD)
        server = gw.run_in_background(["python3", "-c", GIVES_AND_TAKES])
        gw.wait_until("she is known", lambda: "alice" in found.root("getent passwd alice", check=False), seconds=90)
        for name, text in (("storm", STORM), ("transfer", TRANSFER)):
            found.root(f"cat >/opt/{name}.py", stdin=text)
        yield found
        found.end()
        server.kill()
        server.wait()


def logs_in(incident: Incident) -> None:
    """alice logs in once, as soon as presence lets her."""
    deadline = time.monotonic() + 120
    while True:  # presence begins with an empty database
        try:
            incident.lab["gw"].run(incident.alice("true"), seconds=120)
            return
        except CommandFailed:
            if time.monotonic() > deadline:
                raise
            incident.lab.journal.pause(10.0)


def test_root_metrics_and_heartbeats_get_through_and_the_user_is_held_to_the_hall_s_figure(
    incident: Incident, capsys: pytest.CaptureFixture[str]
) -> None:
    lab, gw, pause = incident.lab, incident.lab["gw"], incident.lab.journal.pause
    slice = f"user-{incident.root('id -u alice').strip()}.slice"
    lab[SEAT].allowed_failures.add(slice.replace("user-", "user@").replace(".slice", ".service"))
    lab[SEAT].allowed_failures.update(f"session-{number}.scope" for number in range(100))  # the kernel kills hogs
    logs_in(incident)
    alone = {
        way: float(gw.run(incident.alice("python3", "/opt/transfer.py", incident.gateway, way), seconds=120).stdout)
        for way in "ud"
    }
    with capsys.disabled():
        print(f"\nalice alone: {alone} of {MBIT} Mbit/s")
    assert all(MBIT / 2 < each < MBIT * 1.2 for each in alone.values()), "after a pause a second's worth comes at once"
    calm = incident.queue(USERS)
    incident.storm("upload", "upload", *["download"] * 4)
    gw.wait_until("she is in", lambda: incident.hall.where() == {"alice": SEAT}, seconds=90)
    gw.wait_until("the flood", lambda: incident.queue(USERS).held > calm.held + 3000, seconds=180)
    gw.wait_until("the downloads", lambda: incident.taken() > 2_000_000, seconds=60)
    before, began, taken = incident.queue(USERS), time.monotonic(), incident.taken()
    for _ in range(FLOODED):
        incident.asked("true")
        pause(10.0)
    down = (incident.taken() - taken) * 8 / 1e6 / (time.monotonic() - began)
    after = incident.queue(USERS)
    up = (after.sent - before.sent) * 8 / 1e6 / (after.time - before.time)
    roots = {way: float(incident.root(f"python3 /opt/transfer.py {incident.gateway} {way}")) for way in "ud"}
    with capsys.disabled():
        print(f"\nusers sent {up:.1f} and received {down:.1f} of {MBIT} Mbit/s; meanwhile root: {roots}")
    assert MBIT / 8 < up < MBIT * 1.1  # an emulated processor, of which root has the most
    assert after.held > before.held, "she wanted more"
    assert MBIT / 4 < down < MBIT * 1.1
    assert min(roots.values()) > 2 * MBIT
    assert incident.queue(SYSTEM).lost == 0, "nothing of the seat's own"

    flooded, incident.took = incident.took, []
    incident.storm("hog", "bomb")
    gw.wait_until(
        "many tasks", lambda: int(incident.root(f"systemctl show -P TasksCurrent {slice}")) > 500, seconds=200
    )
    said = ""
    for _ in range(FALLING):
        said = incident.asked(f"systemctl show -p TasksCurrent,TasksMax,MemoryCurrent,MemoryHigh {slice}")
        pause(15.0)
    values = dict(line.split("=") for line in said.split())
    tasks, memory, high = (int(values[each]) for each in ("TasksCurrent", "MemoryCurrent", "MemoryHigh"))
    with capsys.disabled():
        print(
            f"root over ssh: flooded {', '.join(f'{each:.1f}' for each in flooded)} s, with hog and bomb"
            f" {', '.join(f'{each:.1f}' for each in incident.took)} s; {tasks} tasks, {memory >> 20} MiB of"
            f" {high >> 20}; {len(incident.heard)} heartbeats heard in {len(flooded) + FALLING} looks"
        )
    assert max(flooded + incident.took) < ANSWERS
    assert len(incident.heard) >= 4, "heartbeats came while it lasted"
    assert 500 < tasks <= int(values["TasksMax"]) == 2048
    assert memory < high * 1.1
    incident.root("loginctl kill-user --signal=KILL alice; loginctl terminate-user alice", check=False)
    gw.wait_until("the storm is over", lambda: incident.hall.where() == {}, seconds=120)
