"""A hall of gw and four root file servers, booted from their images, for figures of publishing: beside scp, and under
readers.

gw's state and the servers' versions are on a disk, so that what is synced is written; everything else of a node is in
memory, as in every lab. The switch between them is the kernel's: as fast as memory. scp is that of the images, with
their sshd, from the same files on gw, with the options that it has by itself; it ends when sync(1) has been through the
files on the other side, as ours ends with fsync(2) of files and folders.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from ipaddress import IPv4Interface
from pathlib import Path

from benchmarks.figures import Figures
from benchmarks.seats import GW, address, hostname, mac
from builder.settings import Settings
from e2e import halls, topology
from e2e.lab import Lab
from e2e.node import Node
from netboot.client import Netboot
from netboot.schema import NewPointer, Rollback
from services.common.process import run
from services.common.versions import Ref
from services.depot.client import Depot
from services.hostd.client import Hostd
from services.mdb.client import Mdb
from services.mdb.schema import Format
from services.rollout.client import RolloutClient
from services.rollout.schema import OVER, Phase, Plan
from services.roots.held import SERVED

ASKING = "192.168.1.200"
"""The lab's own address in the hall."""
SERVERS = {f"rhfs0{number}": f"192.168.1.{20 + number}" for number in (2, 3, 4)}
STATE = ("backline-depot", "backline-netboot", "backline-mdb", "backline-rollout")
GIGABIT = 10**9
CHANNEL = "bench"
SCP = "/var/lib/backline/roots/scp"
READERS = 20
SERVICES = ("netboot", "rollout", "mdb")


class Hall:
    """The lab, and two versions of nfsroot in its store."""

    def __init__(self, lab: Lab, older: Ref, newer: Ref, scratch: Path) -> None:
        self.lab = lab
        self.older = older
        self.newer = newer
        self.scratch = scratch
        self.gw = lab["gw"]
        self.servers = [node for node in lab.nodes.values() if node.spec.role == "rhfs"]
        self.key = lab.hall.signer_in(scratch)

    def publish(self, ref: Ref, *words: str) -> float:
        """`backline publish` beside gw's sockets, to its end; seconds."""
        store = self.lab.roots.store.root
        argv = [sys.executable, "-m", "services.common.main", "publish", f"{ref.role}@{ref.version}", *words]
        argv += ["--channel", CHANNEL, "--no-switch", "--json", "--store", str(store)]
        argv += ["--address", self.gw.service("depot"), "--netboot", self.gw.service("netboot")]
        began = time.monotonic()
        run(argv, env={**os.environ, "BACKLINE_BUILD_SIGNING_KEY": str(self.key)})
        return time.monotonic() - began

    def last(self) -> tuple[float, int]:
        """Of the publication that came last: seconds until all had confirmed, and bytes that they were sent."""
        with Depot(self.gw.service("depot")) as depot:
            (found,) = depot.publications(CHANNEL, limit=1).publications
        return max(each.at for each in found.progress) - found.at, sum(each.bytes for each in found.progress)

    def limit(self, rate: int) -> None:
        """What gw's card sends at most, in bit/s; 0 is as fast as memory."""
        link = self.gw.succeeds("sh", "-c", f"ip -o route get {self.servers[0].address} | sed 's/.* dev //; s/ .*//'")
        words = ["tbf", "rate", f"{rate}bit", "burst", "1mb", "latency", "50ms"] if rate else ["noqueue"]
        self.gw.succeeds("tc", "qdisc", "replace", "dev", link, "root", *words)

    def back(self) -> None:
        """As before the newer version was published."""
        self.publish(self.older, "--allow-downgrade")
        for node in self.servers:
            node.succeeds("backline", "root", "rm", str(self.newer))
        with Depot(self.gw.service("depot")) as depot:
            depot.remove_version(self.newer.role, self.newer.version)

    def scp(self, ref: Ref) -> float:
        """All files of a version by scp from gw to each server at once, until they are on its disk; seconds."""
        self.gw.put("/run/bench/key", self.lab.hall.key_in(self.scratch).read_text(), mode=0o600)
        folder = f"/var/lib/backline-depot/files/images/{ref.role}/{ref.version}"
        options = "-q -i /run/bench/key -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR"
        names = " ".join(f"{folder}/{name}" for name in SERVED)
        copies = " ".join(f"{SCP}/{name}" for name in SERVED)

        def one(node: Node) -> None:
            there = f"root@{node.address}"
            script = f"scp {options} {names} {there}:{SCP}/ && ssh {options} {there} sync {copies}"
            self.gw.succeeds("sh", "-c", script, seconds=300)

        for node in self.servers:
            node.succeeds("mkdir", "-p", SCP)
        began = time.monotonic()
        with ThreadPoolExecutor() as executor:
            list(executor.map(one, self.servers))
        seconds = time.monotonic() - began
        for node in self.servers:
            node.succeeds("rm", "-rf", SCP)
        return seconds


@contextlib.contextmanager
def hall(settings: Settings, older: Ref, newer: Ref, servers: int = 4) -> Iterator[Hall]:
    """Booted; nothing is published yet."""
    nodes = ["rhfs01", *list(SERVERS)[: servers - 1]]
    nic = topology.Nic(segment="hall")
    wanted = topology.Topology(
        name="bench",
        segments={
            "hall": topology.Segment(address=IPv4Interface(f"{ASKING}/23")),
            "upstream": topology.Segment(address=IPv4Interface("198.51.100.1/24")),
        },
        nodes={
            "gw": topology.Node(role="gw", nics=[nic, topology.Nic(segment="upstream")]),
            **{name: topology.Node(role="rhfs", nics=[nic, nic] if name == "rhfs01" else [nic]) for name in nodes},
        },
    )
    with tempfile.TemporaryDirectory(dir=settings.store_path.parent, prefix="bench-publish-") as folder:
        with Lab(wanted, hall=_hall(nodes[1:]), settings=settings) as lab:
            for name in STATE:
                place = Path(folder) / name
                place.mkdir()
                lab["gw"].binds[f"/var/lib/{name}"] = str(place)
            lab.start(seconds=180)
            for name in STATE:  # a socket is there before its service is
                lab["gw"].wait_for_unit(f"{name}.service")
            yield Hall(lab, older, newer, Path(folder))


def _hall(more: Sequence[str]) -> halls.LabHall:
    """The hall of the proposal with more root file servers."""
    made = halls.make(roles={"gw": "gw"})
    text = made.text
    for name in more:
        number = int(name[-1])
        block = f'[hosts.{name}]\nrole = "rhfs"\n\n[[hosts.{name}.nics]]\naddresses = {{ hall = "{SERVERS[name]}" }}\n'
        block += f'aliases = ["rhfs{number}", "hfs{number}", "rfs{number}"]\n\n'
        text = text.replace("[hosts.web]\n", f"{block}[hosts.web]\n", 1)
    return replace(made, text=text, data=halls.parse(text, Path("hall.toml")).data)


# Publishing, beside scp


def parallel(figures: Figures, its: Hall, turns: int) -> None:
    """An update to all servers, and all of it by scp, in turns: on cables as fast as memory, and on one of 1 Gbit/s."""
    count = len(its.servers)
    figures.add(f"the first version to {count} rhfs, as a whole: `backline publish`", its.publish(its.older))
    for cable in ("", " over 1 Gbit/s"):
        its.limit(GIGABIT if cable else 0)
        what, theirs = f"update to {count} rhfs{cable}", f"{count} x scp of the full image{cable}"
        whole, from_statement = f"{what}: `backline publish`", f"{what}: from its statement"
        for _ in range(turns):
            figures.add(whole, its.publish(its.newer, "--allow-downgrade"))
            seconds, moved = its.last()
            figures.add(from_statement, seconds)
            figures.add(f"{what}: sent to all", moved / 1e6, "MB")
            figures.add(theirs, its.scp(its.newer), goal="the other side")
            its.back()
        figures.ratio(whole, theirs, "at most 0.5")
        figures.ratio(from_statement, theirs)
    its.limit(0)


# The pointer


def import_seats(its: Hall, numbers: range) -> None:
    """Seats of one room, ten in a row, on the servers in turn."""
    lines = ["hostname,mac,ip,type,room,rfs,hfs"]
    for number in numbers:
        lines.append(f"{hostname(number)},{mac(number)},{address(number)},user,pasteur,{1 + number % 4},1")
    with Mdb(its.gw.service("mdb")) as mdb:
        mdb.take("\n".join([*lines, ""]).encode(), Format.CSV, dry=False)
    bridge = its.lab.network.plan.bridges["hall"]
    script = "".join(f"address add {address(number)}/32 dev {bridge}\n" for number in numbers)
    its.lab.sandbox.run(["ip", "-batch", "-"], stdin=script)
    with Netboot(its.gw.service("netboot")) as netboot:
        netboot.switch_channel("stable", NewPointer(version=its.older.version, why="bench"))
    last = numbers[-1]
    its.gw.wait_until(
        "netboot knows them", lambda: its.lab.sandbox.in_network(lambda: answered(last)) != "", seconds=30
    )


_VERSION = re.compile(r"\bbackline\.version=(\S+)")


def answered(number: int) -> str:
    """The version that a seat is told to boot, through nginx, from its own address; "" when it is none."""
    link = http.client.HTTPConnection(GW, timeout=10, source_address=(address(number), 0))
    try:
        link.request("GET", f"/boot/{mac(number)}")
        found = _VERSION.search(link.getresponse().read().decode())
    finally:
        link.close()
    return found[1] if found else ""


def moves(figures: Figures, its: Hall, seats: range, times: int) -> None:
    """Switch and rollback of channel stable: until the answer, and until a seat that asks is told the other version."""
    number = 0

    def until(version: str) -> None:
        nonlocal number
        while True:
            number += 1
            if answered(seats[number % len(seats)]) == version:
                return

    taken: dict[str, list[float]] = {"switch": [], "rollback": []}

    def measure() -> None:
        with Netboot(its.gw.service("netboot")) as netboot:
            for _ in range(times):
                for what, version in (("switch", its.newer.version), ("rollback", its.older.version)):
                    began = time.monotonic()
                    if what == "switch":
                        netboot.switch_channel("stable", NewPointer(version=version, why="bench"))
                    else:
                        netboot.rollback_channel("stable", Rollback(why="bench"))
                    until(version)
                    taken[what].append(time.monotonic() - began)

    its.lab.sandbox.in_network(measure)
    for what, found in taken.items():
        figures.add(f"{what}, request to a seat's answer: median", statistics.median(found) * 1000, "ms", "under 50 ms")
        figures.add(f"{what}, request to a seat's answer: worst of {times}", max(found) * 1000, "ms")


# Readers


def reads(figures: Figures, its: Hall, wanted: int) -> None:
    """Readers over NFS while versions are published and collected, until there were so many reads."""
    stop, served = its.scratch / "stop", its.lab.roots.store.find(its.older.role, its.older.version) / "root.erofs"
    stop.unlink(missing_ok=True)
    path = f"/images/{its.older.role}/{its.older.version}/root.erofs"
    argv: list[str | Path] = [sys.executable, Path(__file__).with_name("nfs_reads.py"), its.servers[0].address, path]
    argv += [str(served), str(READERS), str(stop)]
    process = its.lab.sandbox.spawn(argv, stdout=subprocess.PIPE)
    assert process.stdout is not None
    rounds, told = 0, {"reads": 0, "failed": 0}
    problems: list[str] = []

    def follow() -> None:
        for line in process.stdout or ():
            said = json.loads(line)
            problems[:] = said.pop("problems")
            told.update(said)

    following = threading.Thread(target=follow, name="readers")
    following.start()
    try:
        while not rounds or told["reads"] < wanted:
            if process.poll() is not None:
                raise SystemExit("the readers have ended")
            its.publish(its.newer, "--allow-downgrade")
            its.publish(its.older, "--allow-downgrade")
            its.servers[0].succeeds("backline", "root", "gc", "--keep", "0")
            with Depot(its.gw.service("depot")) as depot:
                depot.remove_version(its.newer.role, its.newer.version)
            rounds += 1
    finally:
        stop.touch()
        process.wait(timeout=120)
        following.join()
    figures.add(f"reads over NFS by {READERS} readers, {rounds} times publish and gc", told["reads"], "")
    figures.add("of them failed or wrong", told["failed"], "", "0 in 10,000")
    if told["failed"]:
        print(f"    {problems}", file=sys.stderr)


# hostd


def cgroup(its: Hall, node: Node, unit: str) -> Path:
    """The cgroup of a unit of a node, as this host sees it."""
    return next((its.lab.sandbox.cgroup / node.name).rglob(unit))


def processor(folder: Path) -> float:
    """Seconds of processor time of a cgroup."""
    text = (folder / "cpu.stat").read_text()
    return int(next(line.split()[1] for line in text.splitlines() if line.startswith("usage_usec "))) / 1e6


def resident(folder: Path) -> float:
    """MB in memory of the processes of a cgroup (proc(5), Rss)."""
    total = 0
    for pid in (folder / "cgroup.procs").read_text().split():
        text = Path(f"/proc/{pid}/status").read_text()
        total += int(next(line.split()[1] for line in text.splitlines() if line.startswith("VmRSS:")))
    return total / 1024


def hostd(figures: Figures, its: Hall, *, seconds: float, units: int) -> None:
    """hostd of a server with so many units: at rest, and asked for their list."""
    node = its.servers[-1]
    here = len(node.units())
    text = "[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/usr/bin/true\n"
    names = [f"bench-{number:03}.service" for number in range(max(0, units + 10 - here))]
    script = "".join(f"cat > /run/systemd/system/{name} <<'.'\n{text}.\n" for name in names)
    node.run(["sh", "-e"], stdin=script + "systemctl daemon-reload\n")
    if names:
        node.succeeds("systemctl", "start", *names)
    with Hostd(node.service("hostd")) as client:
        listed = len(client.units().units)
        times = []
        for _ in range(100):
            began = time.monotonic()
            client.units()
            times.append(time.monotonic() - began)
    place = cgroup(its, node, "backline-hostd.service")
    before, began = processor(place), time.monotonic()
    _pass(seconds)
    spent = (processor(place) - before) / (time.monotonic() - began)
    figures.add(f"hostd with {listed} units, resident", resident(place), "MB", "under 60 MB")
    figures.add(f"hostd at rest, {seconds:.0f} s", spent * 100, "% of a core", "under 0.5 %")
    figures.add(f"list of {listed} units: median", statistics.median(times) * 1000, "ms", "under 20 ms")
    figures.add(f"list of {listed} units: worst of 100", max(times) * 1000, "ms")


def _pass(seconds: float) -> None:
    """Let time pass, which is what is measured."""
    time.sleep(seconds)


# A rollout


def rollout(figures: Figures, its: Hall, seats: range, *, boot_seconds: float, settle: int) -> None:
    """A rollout to simulated seats that beat every 15 s and restart when they are asked to: what it costs gw."""
    argv: list[str | Path] = [sys.executable, Path(__file__).with_name("seats.py"), str(len(seats)), str(boot_seconds)]
    places: dict[str, Callable[[], float]] = {}
    for name in (*(f"backline-{name}" for name in SERVICES), "nginx"):
        place = cgroup(its, its.gw, f"{name}.service")
        places[name] = lambda place=place: processor(place)  # type: ignore[misc]
    process = its.lab.sandbox.spawn(argv, stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        if not process.stdout.readline():
            raise SystemExit("the seats have ended")
        for what in ("heartbeats alone", "a rollout"):
            before, all_before, began = {name: take() for name, take in places.items()}, its.gw.cpu(), time.monotonic()
            if what == "a rollout":
                rings = _roll_out(its, settle)
            else:
                _pass(30.0 if settle > 1 else 1.0)
            took = time.monotonic() - began
            spent = {name: (take() - before[name]) / took * 100 for name, take in places.items()}
            goal = "under 20 %" if what == "a rollout" else ""
            figures.add(f"gw's services, {len(seats)} seats, {what}", sum(spent.values()), "% of a core", goal)
            for name, share in spent.items():
                figures.add(f"  {name.removeprefix('backline-')}, {what}", share, "%")
            figures.add(f"  all of gw, {what}", (its.gw.cpu() - all_before) / took * 100, "%")
        figures.add(f"a rollout to {len(seats)} seats, {rings} rings", took)
    finally:
        process.kill()
        process.wait()


def _roll_out(its: Hall, settle: int) -> int:
    """The newer version, to its end, which has to be a good one; how many rings it had."""
    with RolloutClient(its.gw.service("rollout")) as client:
        id = client.start(Plan(version=its.newer.version, settle=settle, within=300)).id
        its.gw.wait_until("the rollout's end", lambda: client.rollout(id).phase in OVER, seconds=600)
        found = client.rollout(id)
    if found.phase is not Phase.DONE:
        raise SystemExit(f"the rollout ended as {found.phase.value}: {found.why}")
    return len(found.rings)
