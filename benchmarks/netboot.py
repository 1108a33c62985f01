"""`make bench-netboot`: from an edit in mdb to what machines are answered, with real processes, in one run.

Rows, each of which can be measured alone (`--row`):

- subscribers: machines that follow mdb's feed; one change, and what a subscriber costs mdb in memory
- import: machines in one import, by the command that administrators use, on SQLite and on PostgreSQL
- live: a booted gw of the store; one edit in mdb, until DNS and DHCP answer with it
- boot: scripts of machines through nginx at a fixed rate, while as many machines again are imported
- full: scripts of machines through nginx, as many as there can be, beside a file of the same size
- pxe: a machine from power on to its default target, beside one of the same files on a plain NFS tree

Clients are processes of their own on the same CPUs. This measures, it does not judge.
"""

from __future__ import annotations

import argparse
import contextlib
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from ipaddress import IPv4Interface
from pathlib import Path

import dns.message
import dns.query
import httpx2
import msgspec

from benchmarks import gateway, pxe
from benchmarks.figures import Figures
from benchmarks.load import ADDRESS
from e2e import halls, topology
from e2e.capabilities import probe
from e2e.containers import Engine, engine
from e2e.lab import Lab
from e2e.servers import PostgresContainer
from services.mdb.client import Mdb
from services.mdb.schema import Format, MachinePatch, NewMachine
from tests.dhcp.client import wire

RATE = 500.0
STEADY_SECONDS = 20.0
FULL_SECONDS = 8.0
LIVE = {1000: "under 1 s", 10_000: "under 3 s"}
# The hall of the proposal with room for all of them; its reverse zones stay those of 256 addresses each.
WIDE = (
    ('cidr = "192.168.0.0/23"', 'cidr = "192.168.0.0/17"'),
    ('users = "192.168.0.1-192.168.0.253"', 'users = "192.168.16.1-192.168.95.254"'),
)
GW = "192.168.1.254"


# Feeds and imports


def subscribers(figures: Figures, count: int, machines: int) -> None:
    """`count` subscribers of a hall of `machines`, and one change."""
    with gateway.folder() as where, gateway.mdb(where) as mdb:
        gateway.take(where, gateway.table(range(machines)))
        with gateway.load("subscribe", "1", f"{where}/mdb.sock") as one:
            gateway.told(one)  # what the first one costs is no subscriber's
        before = gateway.memory(mdb)
        with (
            gateway.load("subscribe", str(count), f"{where}/mdb.sock") as many,
            Mdb(f"unix:{where}/mdb.sock") as client,
        ):
            gateway.told(many)
            settle()
            after = gateway.memory(mdb)
            machine = client.machine(gateway.hostname(0))
            began = time.monotonic()
            client.change(machine.id, MachinePatch(notes=f"changed at {began}"))
            seen = gateway.told(many)
    figures.add(f"{count} subscribers, one change: the last one has it", seen["last"] - began, goal="under 0.3 s")
    figures.add(f"{count} subscribers, one change: half of them have it", seen["median"] - began)
    figures.add("a subscriber on the server", (after - before) / count / 1024, "KiB", "under 40 KiB")


def settle() -> None:
    """Let a server finish what it does after its last answer."""
    time.sleep(1.0)


def imports(figures: Figures, podman: Engine, count: int) -> None:
    """`count` machines in one import, into an empty mdb."""
    content = gateway.table(range(count), addresses=False)
    with gateway.folder() as where:
        with gateway.mdb(where):
            figures.add(f"import of {count} machines, SQLite", gateway.take(where, content), goal="under 10 s")
    with gateway.folder() as where, PostgresContainer(podman.image_of("gw")) as postgres:
        with gateway.mdb(where, postgres.get_connection_url()):
            figures.add(f"import of {count} machines, PostgreSQL", gateway.take(where, content), goal="under 10 s")


# A booted gw


@contextlib.contextmanager
def booted() -> Iterator[Lab]:
    """gw of the store on a switch where the lab itself has an address, in a hall that is wide enough."""
    text = halls.make(roles={"gw": "gw"}).text
    for old, new in WIDE:
        assert old in text, old
        text = text.replace(old, new)
    hall = halls.parse(text, Path("hall.toml"))
    nic = topology.Nic(segment="hall")
    wanted = topology.Topology(
        name="bench",
        segments={
            "hall": topology.Segment(address=IPv4Interface("192.168.100.1/17")),
            "upstream": topology.Segment(address=IPv4Interface("198.51.100.1/24")),
        },
        nodes={"gw": topology.Node(role="gw", nics=[nic, topology.Nic(segment="upstream")])},
    )
    with Lab(wanted, hall=hall) as lab:
        lab.start(seconds=180)
        yield lab


def live(figures: Figures, count: int) -> None:
    """One edit in a hall of `count` machines, until named and Kea answer with it."""
    with booted() as lab, Mdb(lab["gw"].service("mdb"), seconds=120) as mdb:
        rows = re.sub(r",10\.0\.[0-9.]+,user", ",,user", gateway.table(range(count)))
        mdb.take(rows.encode(), Format.CSV, dry=False)
        last = mdb.machine(gateway.hostname(count - 1))
        lab.sandbox.in_network(lambda: until(lambda: resolved(last.hostname) == [str(last.ip)], seconds=120))
        bridge = lab.network.plan.bridges["hall"]
        lab.sandbox.in_network(lambda: until(lambda: offered(bridge, last.mac or "") == str(last.ip), seconds=120))
        new = NewMachine(hostname="edited", mac="52:54:00:ff:00:01", aliases=["fresh"], room="other")
        new = msgspec.structs.replace(new, type=last.type)
        began = time.monotonic()
        made = mdb.create(new)
        name = threading.Thread(
            target=lambda: figures.add(
                f"edit to DNS at {count} machines",
                lab.sandbox.in_network(lambda: until(lambda: resolved("fresh") == [str(made.ip)])) - began,
                goal=LIVE.get(count, ""),
            )
        )
        name.start()
        seen = lab.sandbox.in_network(lambda: until(lambda: offered(bridge, made.mac or "") == str(made.ip)))
        figures.add(f"edit to DHCP at {count} machines", seen - began, goal=LIVE.get(count, ""))
        name.join()


def until(what: Callable[[], bool], *, seconds: float = 60.0) -> float:
    """When something came to hold."""
    deadline = time.monotonic() + seconds
    while not what():
        if time.monotonic() > deadline:
            raise SystemExit("it did not come in time")
        time.sleep(0.01)
    return time.monotonic()


def resolved(name: str) -> list[str]:
    """What gw answers for a name of the hall."""
    query = dns.message.make_query(f"{name}.{halls.DOMAIN}", "A")
    answer = dns.query.udp(query, GW, timeout=5)
    return [str(record) for rrset in answer.answer for record in rrset]


def offered(bridge: str, mac: str) -> str:
    """The address that gw offers to a card."""
    with wire(bridge) as card:
        found = card.discover(mac, seconds=0.4)
    return str(found.address) if found else ""


# Scripts of machines


@contextlib.contextmanager
def answering(podman: Engine, machines: int) -> Iterator[tuple[Path, str, int]]:
    """mdb, netboot and nginx, with machines that may all boot one version: folder, nginx's address, netboot's PID."""
    with gateway.folder() as where, gateway.mdb(where):
        with Mdb(f"unix:{where}/mdb.sock") as mdb:
            new = {"hostname": "rhfs01", "mac": "52:54:00:ff:01:01", "aliases": ["rfs1"], "type": "service"}
            mdb.create(msgspec.convert(new, NewMachine))
        gateway.take(where, gateway.table(range(machines)))
        with gateway.serving("netboot", gateway.NETBOOT.format(folder=where), where) as netboot:
            (where / "netboot.sock").chmod(0o666)
            gateway.publish(where)
            with gateway.nginx(podman, where) as base:
                until(lambda: script(base, machines - 1) != "")
                yield where, base, netboot.pid


def script(base: str, number: int) -> str:
    """What a machine is told to boot; "" when it is not."""
    with httpx2.Client(timeout=10) as client:
        headers = {ADDRESS: gateway.address(number)}
        answer = client.get(f"{base}/boot/{gateway.mac(number)}", headers=headers)
    return answer.text if gateway.hostname(number) in answer.text and "kernel" in answer.text else ""


def boot(figures: Figures, podman: Engine, machines: int, seconds: float) -> None:
    """Scripts at a fixed rate while as many machines again are imported."""
    with answering(podman, machines) as (where, base, _):
        file = gateway.urls(base, range(machines), where)
        with gateway.load("steady", str(RATE), str(seconds), file) as clients:
            took = gateway.take(where, gateway.table(range(machines, 2 * machines)))
            seen = gateway.told(clients)
    what = f"/boot at {RATE:.0f}/s, {machines} machines, during an import"
    figures.add(f"{what}: p99", seen["p99"] * 1000, "ms", "under 20 ms")
    figures.add(f"{what}: median", seen["median"] * 1000, "ms")
    figures.add(f"{what}: wrong answers", seen["wrong"], "", "0")
    figures.add(f"import of {machines} machines meanwhile", took)
    if seen["wrong"]:
        print(f"    {seen['examples']}", file=sys.stderr)


def full(figures: Figures, podman: Engine, machines: int, seconds: float) -> None:
    """Scripts as fast as they come, and a static file of the same size."""
    with answering(podman, machines) as (where, base, netboot):
        text = script(base, 0)
        (where / "static").mkdir()
        (where / "static" / "script").write_text(text)
        (where / "static-urls").write_text(f"{base}/static/script kernel 10.0.0.1\n")
        before = gateway.cpu_seconds(netboot)
        with gateway.load("full", str(seconds), gateway.urls(base, range(machines), where)) as clients:
            ours = gateway.told(clients)
        spent = gateway.cpu_seconds(netboot) - before
        with gateway.load("full", str(seconds), f"{where}/static-urls") as clients:
            theirs = gateway.told(clients)
    figures.add(f"/boot, {machines} machines, full load", ours["per_second"], "/s", "reported")
    figures.add(f"nginx, a file of the same {len(text)} bytes", theirs["per_second"], "/s", "the other side")
    figures.add("ratio of the two", ours["per_second"] / theirs["per_second"], "", "reported")
    figures.add("CPU time of netboot for a script", spent / ours["answered"] * 1000, "ms")
    figures.add("answers that were no script", ours["wrong"], "", "0")


def main() -> int:
    """Measure the rows, and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    rows = ("subscribers", "import", "live", "boot", "full", "pxe")
    parser.add_argument("--row", action="append", choices=rows, help="only this one; may be repeated")
    parser.add_argument("--runs", type=int, default=3, help="turns (default: %(default)s)")
    parser.add_argument("--machines", type=int, default=10_000, help="machines of a large hall (default: %(default)s)")
    parser.add_argument("--subscribers", type=int, default=1000, help="subscribers (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=STEADY_SECONDS, help="of steady load (default: %(default)s)")
    parser.add_argument("--starts", type=int, default=5, help="of a machine, on each side (default: %(default)s)")
    options = parser.parse_args()
    probe().require()
    gateway.allow_files()
    chosen = options.row or rows
    figures = Figures()
    print(f"{gateway.processors()} CPUs, {options.machines} machines, {options.runs} turns", file=sys.stderr)
    for _ in range(options.runs):
        if "subscribers" in chosen:
            subscribers(figures, options.subscribers, 1000)
        if {"import", "boot", "full"} & set(chosen):
            with engine() as podman:
                if "import" in chosen:
                    imports(figures, podman, options.machines)
                if "boot" in chosen:
                    boot(figures, podman, options.machines, options.seconds)
                if "full" in chosen:
                    full(figures, podman, options.machines, FULL_SECONDS)
        if "live" in chosen:
            for count in sorted({min(1000, options.machines), options.machines}):
                live(figures, count)
    if "pxe" in chosen:
        for row in pxe.figures(options.starts):
            figures.add(*row)
    figures.show()
    return 0


if __name__ == "__main__":
    sys.exit(main())
