"""Users of a seat are held to the hall's bandwidth, and nobody else is: the kernel's own rules and queues, on a card
and with control groups of its own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from e2e.cgroups import hierarchy
from services.seat.bandwidth import UNSAID, USERS, cards, limit, queues, rules

ROOT = Path(__file__).parents[2]
PAM = ROOT / "images/nfsroot/mkosi.extra/etc/pam.d"
MBIT = 80
# Who is behind the cable: sends and takes what he can.
NEIGHBOUR = r"""
import socket, subprocess, sys, threading
print("there", flush=True)
sys.stdin.readline()
for line in ("address add 10.9.9.2/24 dev eth1", "link set eth1 up"):
    subprocess.run(["ip", *line.split()], check=True)
server = socket.create_server(("10.9.9.2", 5000))
print("listens", flush=True)
def serve(link):
    try:
        if link.recv(1) == b"d":
            while True:
                link.sendall(bytes(65536))
        while link.recv(1 << 20):
            pass
    except OSError:
        pass
while True:
    threading.Thread(target=serve, args=(server.accept()[0],), daemon=True).start()
"""
# A seat with one card, in namespaces of its own.
SEAT = r"""
import encodings.idna, json, os, re, socket, subprocess, sys, time
from services.seat import bandwidth
mbit, program = int(sys.argv[1]), sys.argv[2]

def run(*argv):
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout

def speed(slice, uid, way):
    out, into = os.pipe()
    child = os.fork()
    if child:
        os.close(into)
        os.waitpid(child, 0)
        with open(out) as said:
            return float(said.read())
    with open(f"/sys/fs/cgroup/{slice}/cgroup.procs", "w") as group:
        group.write("0")
    os.setuid(uid)
    link = socket.create_connection(("10.9.9.2", 5000))
    link.setsockopt(socket.SOL_SOCKET, socket.SO_PRIORITY, 6)  # what a user says of himself counts for nothing
    link.send(way.encode())
    def move(seconds):
        moved, began = 0, time.monotonic()
        while (took := time.monotonic() - began) < seconds:
            moved += len(link.recv(1 << 20)) if way == "d" else link.send(bytes(65536))
        return moved * 8 / 1e6 / took
    if uid:
        move(1.0)  # a second's worth is allowed at once
    os.write(into, str(move(1.5 if uid else 0.5)).encode())
    os._exit(0)

run("mount", "-t", "cgroup2", "cgroup2", "/sys/fs/cgroup")
for slice in ("user.slice/user-10000.slice", "user.slice/user-0.slice", "system.slice"):
    os.makedirs(f"/sys/fs/cgroup/{slice}")
neighbour = subprocess.Popen(["unshare", "--net", sys.executable, "-c", program], text=True,
                             stdin=subprocess.PIPE, stdout=subprocess.PIPE)
neighbour.stdout.readline()
run("ip", "link", "add", "eth0", "type", "veth", "peer", "name", "eth1", "netns", str(neighbour.pid))
run("ip", "address", "add", "10.9.9.1/24", "dev", "eth0")
run("ip", "link", "set", "eth0", "up")
print("", file=neighbour.stdin, flush=True)
neighbour.stdout.readline()
for _ in range(2):  # the second time changes nothing
    bandwidth.install(["eth0"], mbit, leaf=None)
found = {f"{slice} {uid} {way}": speed(slice, uid, way) for slice, uid in
         (("user.slice/user-10000.slice", 10000), ("user.slice/user-0.slice", 0), ("system.slice", 0)) for way in "ud"}

def sent(slice, uid, sends):
    def classes():
        said = run("tc", "-statistics", "class", "show", "dev", "eth0")
        return {name: int(size) for name, size in re.findall(r"class htb (\S+) .*\n Sent (\d+) ", said)}
    before = classes()
    if os.fork() == 0:
        with open(f"/sys/fs/cgroup/{slice}/cgroup.procs", "w") as group:
            group.write("0")
        sends(lambda: os.setuid(uid))
        os._exit(0)
    os.wait()
    time.sleep(0.5)
    return {name: size - before[name] for name, size in classes().items()}

def datagrams(become):
    become()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as link:
        link.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        for address in ("10.9.9.2", "10.9.9.255"):
            for _ in range(50):
                link.sendto(bytes(1000), (address, 9))

def leaves(become):
    become()
    link = socket.create_connection(("10.9.9.2", 5000))
    link.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    link.send(b"u")
    link.setblocking(False)
    for _ in range(20):  # into the socket, and away: the kernel sends the rest for nobody
        try:
            link.send(bytes(65536))
        except BlockingIOError:
            break

found["datagrams"] = sent("user.slice/user-10000.slice", 10000, datagrams)
found["root's datagrams"] = sent("system.slice", 0, datagrams)
found["left"] = sent("user.slice/user-10000.slice", 10000, leaves)
neighbour.kill()
print(json.dumps(found))
"""


@pytest.fixture
def group() -> Iterator[Path]:
    """A control group that a seat can have for its own whole hierarchy."""
    made = hierarchy() / f"backline-test-bandwidth-{os.getpid()}"
    made.mkdir()
    yield made
    for folder, _, _ in os.walk(made, topdown=False):
        Path(folder).rmdir()


@pytest.fixture
def seat(group: Path) -> dict[str, Any]:
    """Mbit/s by group, user and way (up, down); bytes of each class for other ways of sending."""
    join = 'echo 0 >"$0/cgroup.procs" && exec unshare --net --mount --cgroup "$@"'
    argv = ["sh", "-c", join, str(group), sys.executable, "-c", SEAT, str(MBIT), NEIGHBOUR]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.needs("root", "cgroup2", "namespaces")
def test_users_are_held_to_the_figure_both_ways_and_root_and_services_are_not(seat: dict[str, Any]) -> None:
    user = {way: seat[f"user.slice/user-10000.slice 10000 {way}"] for way in "ud"}
    assert min(user.values()) > MBIT / 4, user
    assert max(user.values()) < MBIT * 1.3, user
    others = {name: value for name, value in seat.items() if " 0 " in name}
    assert len(others) == 4
    assert min(others.values()) > 5 * MBIT, others
    for users in ("datagrams", "left"):
        assert seat[users]["1:20"] > 100_000, users
        assert seat[users]["1:10"] < 20_000, users
    assert seat["root's datagrams"]["1:10"] > 100_000
    assert seat["root's datagrams"]["1:20"] == 0


def test_the_system_s_class_has_no_limit_and_is_all_that_is_not_the_users() -> None:
    first, system, users, *leaves = queues("eth0", 100)
    assert "htb default 10" in first
    assert "classid 1:10 htb prio 0 rate 100gbit ceil 100gbit" in system
    assert "classid 1:20 htb prio 1 rate 100mbit ceil 100mbit" in users
    assert [line.split()[-1] for line in leaves] == ["fq_codel", "fq_codel"]


def test_rules_count_in_bytes_and_replace_those_of_before() -> None:
    said = rules(100)
    assert "rate over 12500000 bytes/second\n" in said
    assert said.startswith("table inet backline-seat\ndelete table inet backline-seat\n")


@pytest.mark.parametrize(
    ("text", "expected"),
    [("bandwidth = 40\n", 40), ("", UNSAID), ("bandwidth = 0\n", UNSAID), ("bandwidth = [\n", UNSAID), (None, UNSAID)],
)
def test_there_is_a_limit_whatever_the_settings_say(tmp_path: Path, text: str | None, expected: int) -> None:
    if text is not None:
        (tmp_path / "seat.toml").write_text(text)
    assert limit(tmp_path / "seat.toml") == expected


def test_cards_are_wires_with_a_device(tmp_path: Path) -> None:
    for name, kind, device in (("lo", 772, False), ("veth", 1, False), ("eth0", 1, True)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "type").write_text(f"{kind}\n")
        if device:
            (tmp_path / name / "device").mkdir()
    (tmp_path / "gone").mkdir()
    assert cards(tmp_path) == ["eth0"]


def test_who_is_a_user_is_the_same_for_pam() -> None:
    assert f"uid >= {USERS} uid < 20000" in (PAM / "backline-seat-auth").read_text()
