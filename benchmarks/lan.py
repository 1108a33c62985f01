"""`make bench-lan`: the harness beside what a user would run instead, bare systemd-nspawn, in one run on one machine.

Bare nspawn gets the same trees, the same kernel features and a cgroup of its own per container, as one has to give it
by hand; it has no switch, no journal, no credentials. Both are timed from the first process to READY=1 of the last
container. Every row is the median of several turns, ours and theirs in turn. This measures, it does not judge.
"""

from __future__ import annotations

import argparse
import contextlib
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from builder import settings
from e2e import cgroups, topology
from e2e.capabilities import probe
from e2e.lab import Lab
from e2e.roots import Roots
from e2e.sandbox import Sandbox

ROLES = ("gw", "rhfs", "nfsroot")


@dataclass
class Row:
    """One measured thing: a figure of each turn."""

    name: str
    figures: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        return statistics.median(self.figures)

    def text(self, unit: str = "s") -> str:
        low, high = min(self.figures), max(self.figures)
        return f"{self.median:7.2f} {unit} ({low:.2f}-{high:.2f}, {len(self.figures)} runs)"


class Bare:
    """Containers as one starts them by hand, in a sandbox because a host without systemd needs one."""

    def __init__(self, sandbox: Sandbox, roots: Roots) -> None:
        self.sandbox = sandbox
        self.roots = roots
        self.processes: list[subprocess.Popen[bytes]] = []

    def boot(self, roles: list[str]) -> float:
        """Boot a container of each role at once; seconds until all are ready."""
        lowers = [self.roots.mount(self.roots.find(role)).lower for role in roles]
        sockets = []
        for number in range(len(roles)):
            receiver = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            receiver.bind(str(self.sandbox.lab / f"bare{number}"))
            sockets.append(receiver)
            self.sandbox.make_cgroup(f"bare{number}")
        began = time.monotonic()
        for number, lower in enumerate(lowers):
            argv = ["systemd-nspawn", "--quiet", "--register=no", "--keep-unit", f"--machine=bare{number}"]
            argv += [f"--directory={lower}", "--volatile=overlay", "--private-network", "--notify-ready=yes"]
            argv += ["--link-journal=no", "--timezone=off", "--resolv-conf=off", "--console=pipe", "--boot"]
            environment = {"NOTIFY_SOCKET": f"/run/lab/bare{number}"}
            null = subprocess.DEVNULL
            process = self.sandbox.spawn(argv, cgroup=f"bare{number}", env=environment, stdout=null, stderr=null)
            self.processes.append(process)
        for receiver in sockets:
            receiver.settimeout(120)
            while "READY=1" not in receiver.recv(65536).decode().split("\n"):
                pass
            receiver.close()
        return time.monotonic() - began

    def memory(self, number: int) -> int:
        """Bytes that a container uses."""
        return cgroups.memory(self.sandbox.cgroup / f"bare{number}")

    def close(self) -> None:
        """Kill what runs."""
        for number, process in enumerate(self.processes):
            cgroups.kill(self.sandbox.cgroup / f"bare{number}")
            process.wait()


@contextlib.contextmanager
def bare() -> Iterator[Bare]:
    """A sandbox for bare containers."""
    with Sandbox("bench-bare") as sandbox:
        one = Bare(sandbox, Roots(sandbox, settings.load()))
        try:
            yield one
        finally:
            one.close()


def nodes(roles: list[str]) -> topology.Topology:
    """A lab of these roles on one switch, without a hall: the same work as bare containers have."""
    nic = topology.Nic(segment="bench")
    found = {f"node-{number}": topology.Node(role=role, nics=[nic], hall=False) for number, role in enumerate(roles)}
    return topology.Topology(name="bench", segments={"bench": topology.Segment()}, nodes=found)


def boot_ours(roles: list[str]) -> tuple[float, float, float]:
    """Seconds until all are ready, seconds to take them down, bytes of the last one."""
    with Lab(nodes(roles)) as lab:
        began = time.monotonic()
        lab.start(seconds=180)
        ready = time.monotonic() - began
        memory = list(lab.nodes.values())[-1].memory()
        began = time.monotonic()
    return ready, time.monotonic() - began, memory


def boot_bare(roles: list[str]) -> tuple[float, float]:
    """Seconds until all are ready, bytes of the last one."""
    with bare() as one:
        return one.boot(roles), one.memory(len(roles) - 1)


def hall() -> float:
    """Seconds until the hall of the design is up: gw, rhfs01, web's stand-in, 4 seats with their addresses."""
    began = time.monotonic()
    with Lab(topology.hall(4)) as lab:
        lab.start(seconds=120)
        with ThreadPoolExecutor() as executor:
            list(executor.map(lambda node: node.wait_for_address(), lab.nodes.values()))
        assert lab.problems() == []
        return time.monotonic() - began


def main() -> int:
    """Measure every row and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=int, default=5, help="turns (default: %(default)s)")
    runs = parser.parse_args().runs
    probe().require()
    names = ("one", "bare one", "12", "bare 12", "24", "bare 24", "hall", "seat MB", "bare seat MB", "teardown 24")
    rows = {name: Row(name) for name in names}

    def add(name: str, figure: float) -> None:
        rows[name].figures.append(figure)
        print(f"  {name}: {figure:.2f}", file=sys.stderr, flush=True)

    boot_bare(["rhfs"])  # both start from warm file caches
    boot_bare(list(ROLES))
    for _ in range(runs):
        add("one", boot_ours(["rhfs"])[0])
        add("bare one", boot_bare(["rhfs"])[0])
        for count in (12, 24):
            roles = [ROLES[number % len(ROLES)] for number in range(count)]
            ready, down, _ = boot_ours(roles)
            add(str(count), ready)
            if count == 24:
                add("teardown 24", down)
            add(f"bare {count}", boot_bare(roles)[0])
        add("hall", hall())
        add("seat MB", boot_ours(["nfsroot"])[2] / 1e6)
        add("bare seat MB", boot_bare(["nfsroot"])[1] / 1e6)
    show(rows)
    return 0


def show(rows: dict[str, Row]) -> None:
    """Print the table of figures with their targets."""

    def line(what: str, ours: Row, theirs: Row | None, goal: str, unit: str = "s") -> None:
        ratio = f"{ours.median / theirs.median:.2f}" if theirs else ""
        other = theirs.text(unit) if theirs else ""
        print(f"{what:<32} {ours.text(unit):<38} {other:<38} {ratio:<6} {goal}")

    print(f"{'what':<32} {'ours, median':<38} {'bare nspawn':<38} {'ratio':<6} to reach")
    line("one node to its default target", rows["one"], rows["bare one"], "at most 1.2")
    line("12 nodes of our roles", rows["12"], rows["bare 12"], "at most 1.3")
    line("24 nodes of our roles", rows["24"], rows["bare 24"], "at most 1.3")
    line("hall with 4 seats, all green", rows["hall"], None, "under 15 s")
    line("memory of an idle seat", rows["seat MB"], rows["bare seat MB"], "at most 1.1", "MB")
    line("teardown of 24 nodes", rows["teardown 24"], None, "under 2 s")


if __name__ == "__main__":
    sys.exit(main())
