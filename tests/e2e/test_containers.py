"""Real servers of Debian, each in a container on our own image: Kea, BIND, PostgreSQL; and one on a switch of a lab."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Interface
from pathlib import Path

import pytest
from testcontainers.core.config import testcontainers_config
from testcontainers.core.container import DockerContainer
from testcontainers.core.wait_strategies import LogMessageWaitStrategy

from builder.settings import Settings
from e2e import cgroups, registry
from e2e.containers import NETWORK, Engine, engine
from e2e.lab import Lab
from e2e.servers import BindContainer, KeaContainer, PostgresContainer
from e2e.topology import Nic, Node, Segment, Topology
from services.common.errors import HostError, MissingError

pytestmark = [pytest.mark.images, pytest.mark.needs("podman", "root", "cgroup2", "namespaces", "overlayfs")]
POOL = ("10.88.1.10", "10.88.1.19")
KEA: dict[str, object] = {"subnet4": [{"id": 1, "subnet": str(NETWORK), "pools": [{"pool": " - ".join(POOL)}]}]}
ZONE = """$TTL 60
@ SOA ns hostmaster 1 60 60 60 60
@ NS ns
ns A 192.0.2.1
mdb A 192.0.2.7
"""
BENCH = Topology(
    name="bench",
    segments={"bench": Segment(address=IPv4Interface("192.0.2.254/24"))},
    nodes={"gw": Node(role="gw", hall=False, nics=[Nic(segment="bench")])},
)
OWNER = """
import sys
from builder.settings import load
from e2e.containers import engine
from testcontainers.core.container import DockerContainer
with engine(settings=load({"store": sys.argv[1], "cache": sys.argv[2]})) as podman:
    with DockerContainer(podman.image_of("gw")).with_command(["sleep", "infinity"]):
        print(podman.sandbox.name, flush=True)
        sys.stdin.read()
"""


@pytest.fixture(scope="module")
def podman(gw_settings: Settings) -> Iterator[Engine]:
    with engine(settings=gw_settings) as running:
        yield running


@pytest.fixture(scope="module")
def gw(podman: Engine) -> str:
    """The name of the image."""
    return podman.image_of("gw")


@pytest.fixture(scope="module")
def postgres(gw: str) -> Iterator[PostgresContainer]:
    with PostgresContainer(gw) as running:
        yield running


def idle(image: str) -> DockerContainer:
    """A container that does nothing, for as long as it is wanted."""
    return DockerContainer(image).with_command(["sleep", "infinity"])


def asked(giaddr: IPv4Address, kind: int, **options: bytes) -> bytes:
    """What a relay sends on (RFC 2131): 1 is a DHCPDISCOVER, 3 a DHCPREQUEST; options as `o50=`."""
    header = struct.pack("!4BIHH", 1, 1, 6, 1, 0x5EA7, 0, 0) + bytes(12) + giaddr.packed
    body = header + bytes.fromhex("525400000001") + bytes(10 + 64 + 128) + b"\x63\x82\x53\x63"
    rest = b"".join(bytes([int(name[1:]), len(data)]) + data for name, data in options.items())
    return body + bytes([53, 1, kind]) + rest + b"\xff"


# The three servers


def test_kea_takes_a_configuration_and_refuses_a_wrong_one(gw: str) -> None:
    with KeaContainer(gw, KEA) as kea:
        running = kea.command("config-get")["arguments"]
        assert kea.command("config-test", {"Dhcp4": {**KEA}})["result"] == 0
        refused = kea.command("config-test", {"Dhcp4": {"subnet4": [{"id": 1, "subnet": "192.0.2.0/99"}]}})
        assert (refused["result"], "subnet" in refused["text"]) == (1, True)
        assert kea.command("config-get")["arguments"] == running


def test_kea_gives_a_relay_a_lease_of_its_pool(podman: Engine, gw: str) -> None:
    relay = next(NETWORK.hosts())
    with KeaContainer(gw, KEA) as kea, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        server = podman.address_of(kea).ip
        client.bind((str(relay), 67))
        client.connect((str(server), 67))
        client.settimeout(10)
        client.send(asked(relay, 1))
        offered = client.recv(2048)[16:20]
        client.send(asked(relay, 3, o50=offered, o54=server.packed))
        assert client.recv(2048)[16:20] == offered
        assert IPv4Address(POOL[0]) <= IPv4Address(offered) <= IPv4Address(POOL[1])


def test_bind_answers_for_its_zone_and_for_no_other(gw: str) -> None:
    with BindContainer(gw, {"prolo": ZONE}) as bind:
        assert bind.resolve("mdb.prolo") == ["192.0.2.7"]
        assert bind.resolve("example.org") == []


def test_postgresql_runs_statements(postgres: PostgresContainer) -> None:
    assert postgres.query("SELECT 1") == "1"
    with pytest.raises(HostError, match="syntax error"):
        postgres.query("SELEKT")


def test_a_mapped_port_leads_to_the_server(postgres: PostgresContainer) -> None:
    """It is what a URL names, and what PostgreSQL answers there to a request for TLS is `N`: it has no certificate."""
    where = postgres.get_connection_url("psycopg").rpartition("@")[2].partition("/")[0]
    host, _, port = where.partition(":")
    assert (host, int(port)) == ("127.0.0.1", postgres.get_exposed_port(5432))
    with socket.create_connection((host, int(port)), timeout=10) as client:
        client.sendall(struct.pack("!II", 8, 80877103))
        assert client.recv(1) == b"N"


# Images


def test_an_image_is_not_copied(podman: Engine, gw: str) -> None:
    """All that the engine stores is in one tmpfs, and the tree of gw is more than half a GiB."""
    with idle(gw) as container:
        assert container.exec(["test", "-x", "/usr/sbin/named"]).exit_code == 0
        used = os.statvfs(podman.folder)
        assert (used.f_blocks - used.f_bfree) * used.f_frsize < 2**28


def test_what_a_container_writes_no_other_sees(gw: str) -> None:
    with idle(gw) as one, idle(gw) as other:
        assert one.exec(["sh", "-c", "echo mine >/etc/motd && rm /usr/bin/dig"]).exit_code == 0
        assert other.exec(["cat", "/etc/motd"]).output != b"mine\n"
        assert other.exec(["test", "-e", "/usr/bin/dig"]).exit_code == 0


def test_an_image_is_made_once(podman: Engine, gw: str) -> None:
    assert podman.image_of("gw", gw.rpartition(":")[2]) == gw


def test_a_role_that_is_not_in_the_store_is_named(podman: Engine) -> None:
    with pytest.raises(MissingError, match="no version of nothing"):
        podman.image_of("nothing")


def test_a_server_that_dies_ends_the_wait_at_once(gw: str) -> None:
    broken = DockerContainer(gw).with_command(["sh", "-c", "exit 7"]).waiting_for(LogMessageWaitStrategy("ready"))
    began = time.monotonic()
    with pytest.raises(RuntimeError, match="exited"):
        broken.__enter__()
    assert time.monotonic() - began < 10


# In a lab


@pytest.fixture(scope="module")
def lab(podman: Engine, gw_settings: Settings) -> Iterator[Lab]:
    """A switch on which the lab itself answers, and gw, which has not been told anything but its address."""
    with Lab(BENCH, settings=gw_settings) as lab:
        lab.start()
        lab["gw"].succeeds("ip", "address", "add", "192.0.2.1/24", "dev", "host0")
        yield lab


def test_a_container_and_a_node_of_a_lab_reach_each_other(podman: Engine, gw: str, lab: Lab) -> None:
    with idle(gw) as container, podman.join(container, lab, "bench", "192.0.2.2/24"):
        lab["gw"].succeeds("ping", "-c1", "-W2", "192.0.2.2")
        assert container.exec(["ping", "-c1", "-W2", "192.0.2.1"]).exit_code == 0
        lab.cut("gw:0")
        lab["gw"].fails("ping", "-c1", "-W1", "192.0.2.2")
        lab.heal()
        lab["gw"].succeeds("ping", "-c1", "-W2", "192.0.2.2")


def test_a_server_in_a_container_serves_a_node_of_a_lab(podman: Engine, gw: str, lab: Lab) -> None:
    with BindContainer(gw, {"prolo": ZONE}) as bind, podman.join(bind, lab, "bench", "192.0.2.2/24") as address:
        assert lab["gw"].succeeds("dig", "+short", "+tries=1", f"@{address.ip}", "mdb.prolo") == "192.0.2.7"
        lab.sandbox.connect((str(address.ip), 53)).close()


def test_a_container_leaves_the_segment_with_its_block(podman: Engine, gw: str, lab: Lab) -> None:
    before = lab.network.links()
    with idle(gw) as container:
        with podman.join(container, lab, "bench", "192.0.2.2/24"), podman.join(container, lab, "bench", "192.0.2.3/24"):
            assert len(lab.network.links()) == len(before) + 2
        assert len(lab.network.links()) == len(before)
        lab["gw"].fails("ping", "-c1", "-W1", "192.0.2.2")


def test_a_segment_that_is_not_there_is_named(podman: Engine, gw: str, lab: Lab) -> None:
    with idle(gw) as container, pytest.raises(MissingError, match="no segment 'nowhere'"):
        podman.join(container, lab, "nowhere", "192.0.2.2/24").__enter__()


# What is left


def test_the_block_is_in_the_network_of_the_engine_and_the_host_is_not(podman: Engine) -> None:
    host = Path("/proc/1/net/dev").read_text()
    assert "podman" not in host
    assert Path("/proc/thread-self/ns/net").readlink() == Path(f"/proc/{podman.sandbox.pid}/ns/net").readlink()


def test_an_engine_that_ends_leaves_everything_as_it_was(gw_settings: Settings) -> None:
    ours = f"engine-{os.getpid()}-"  # others come and go on the same machine

    def state() -> tuple[object, ...]:
        mounts = Path("/proc/self/mounts").read_text().splitlines()
        return (
            {name: os.environ.get(name) for name in ("DOCKER_HOST", "TESTCONTAINERS_RYUK_DISABLED")},
            vars(testcontainers_config).copy(),
            Path("/proc/thread-self/ns/net").readlink(),
            sorted(name for name in cgroups.left_behind() if name.startswith(ours)),
            sorted(name for name in registry.labs() if name.startswith(ours)),
            [line for line in mounts if "containers" in line or ours in line],
            Path("/proc/1/net/dev").read_text().count(":"),
            {
                str(path): path.lstat().st_mtime_ns
                for folder in ("/var/lib/containers", "/var/lib/cni", "/etc/cni", "/etc/containers")
                for path in [Path(folder), *Path(folder).rglob("*")]
                if path.exists()
            },
        )

    before = state()
    with engine(settings=gw_settings) as podman:
        with idle(podman.image_of("gw")):
            assert state() != before
    assert state() == before


def test_an_engine_writes_nothing_where_the_host_keeps_things(podman: Engine) -> None:
    name = f"/var/lib/backline-{podman.sandbox.name}"
    done = podman.sandbox.run(["mkdir", name], check=False)
    assert (done.returncode, Path(name).exists()) == (1, False)
    assert "Read-only" in done.stderr


def test_an_engine_whose_owner_is_killed_leaves_nothing(gw_settings: Settings) -> None:
    argv = [sys.executable, "-c", OWNER, gw_settings.store, gw_settings.cache]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        name = owner.stdout.readline().strip()
        assert name in cgroups.left_behind()
        owner.kill()
    end = time.monotonic() + 10
    while (left := traces(name)) and time.monotonic() < end:
        time.sleep(0.05)
    assert left == []


def traces(name: str) -> list[str]:
    """Processes, the cgroup and the record of an engine that are still there."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if f"{cgroups.PREFIX}{name}/" in (folder / "cgroup").read_text():
                found.append((folder / "cmdline").read_text())
    found += [str(path) for key, path in cgroups.left_behind().items() if key == name]
    return found + [str(path) for path in registry.FOLDER.glob(f"{name}*")]
