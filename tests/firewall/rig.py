"""gw, a switch with seats, and the world, in network namespaces; on gw the service, with this host's nft and kernel."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from e2e.sandbox import Sandbox
from services.common.errors import BacklineError
from services.common.feed.wire import Record
from services.common.process import running, spawn
from services.firewall.client import FirewallClient
from tests.common.service_rig import base_environment
from tests.common.told import Teller, telling

GW, WORLD, OUTSIDE = "192.168.1.254", "198.51.100.1", "198.51.100.2"
SEATS = {"seat1": "192.168.0.1", "seat2": "192.168.0.2", "orga1": "192.168.1.130", "rhfs": "192.168.1.10"}
PORT = 8080
SETTINGS = """networks = ["192.168.0.0/23", "192.168.250.0/24"]
aliens = ["192.168.250.0/24"]
services = ["192.168.1.1-192.168.1.127"]
look_seconds = 0.5
new_per_second = 20
new_at_once = 50
"""
NETWORK = f"""
mkdir -p /run/netns
ip link add hall type bridge
ip link set hall up
ip netns add gw
ip netns add world
ip link add g0 type veth peer name hall0 netns gw
ip link set g0 master hall up
ip -n gw link add world0 type veth peer name out0 netns world
ip -n gw addr add {GW}/23 dev hall0
ip -n gw addr add {OUTSIDE}/24 dev world0
ip -n world addr add {WORLD}/24 dev out0
for link in lo hall0 world0; do ip -n gw link set $link up; done
for link in lo out0; do ip -n world link set $link up; done
ip -n gw route add default via {WORLD}
""" + "".join(
    f"""
ip netns add {name}
ip link add p{number} type veth peer name host0 netns {name}
ip link set p{number} master hall up
ip -n {name} addr add {ip}/23 dev host0
ip -n {name} link set lo up
ip -n {name} link set host0 up
ip -n {name} route add default via {GW}
"""
    for number, (name, ip) in enumerate(SEATS.items())
)
# Echoes what it gets, over TCP and UDP, and says whom it sees.
ECHO = f"""
import socket, threading
tcp = socket.create_server(("{WORLD}", {PORT}))
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
udp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
udp.bind(("{WORLD}", {PORT}))
def one(held):
    try:
        while data := held.recv(100):
            held.send(data)
    except OSError:
        pass
def datagrams():
    while True:
        udp.sendto(*udp.recvfrom(100))
threading.Thread(target=datagrams, daemon=True).start()
print("ready", flush=True)
while True:
    held, address = tcp.accept()
    print(*address, sep=":", flush=True)
    threading.Thread(target=one, args=(held,), daemon=True).start()
"""
# Opens a connection, then sends and receives a letter for each line that it is told.
TALK = f"""
import socket, sys
kind = sys.argv[1]
held = socket.socket(socket.AF_INET, socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM)
held.settimeout(2)
try:
    held.connect(("{WORLD}", {PORT}))
    print("open", held.getsockname()[1], flush=True)
    for line in sys.stdin:
        held.send(b"x")
        print("heard" if held.recv(1) else "ended", flush=True)
except OSError as error:
    print(type(error).__name__, flush=True)
"""


def until(what: Callable[[], bool], *, seconds: float = 15) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@dataclass
class Talk:
    """A connection of a seat to the world."""

    process: subprocess.Popen[bytes]

    def answer(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().decode().strip()

    def say(self) -> str:
        """Send something: `heard` when it came back, else the name of the error."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(b"\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            return "BrokenPipeError"
        return self.answer()


@dataclass
class Place:
    """The network, the feeds, and where the service is."""

    folder: Path
    sandbox: Sandbox
    feeds: dict[str, Teller]
    service: subprocess.Popen[bytes] | None = None
    settings: str = SETTINGS
    htmx: Path | None = None

    @property
    def address(self) -> str:
        return f"unix:{self.folder}/firewall.sock"

    def inside(self, node: str, *argv: str) -> list[str]:
        # Not in the sandbox's process namespace: nsenter would fork for that, and signals would reach it alone.
        return ["nsenter", f"--target={self.sandbox.pid}", "-m", "--", "nsenter", f"--net=/run/netns/{node}", *argv]

    def run(self, node: str, *argv: str, stdin: str | None = None) -> str:
        return self.sandbox.run(argv, netns=f"/run/netns/{node}", stdin=stdin).stdout

    @contextlib.contextmanager
    def serving(self, env: Mapping[str, str] | None = None, *, also: str = "") -> Iterator[FirewallClient]:
        """The service, once it answers; there is another socket of it in folder `also`."""
        file = self.folder / "firewall.toml"
        addresses = "".join(f'{name} = "{feed.address}"\n' for name, feed in self.feeds.items())
        script = f'htmx = "{self.htmx}"\n' if self.htmx else ""
        file.write_text(f'{self.settings}folder = "{self.folder}"\n{script}{addresses}')
        argv = [sys.executable, "-m", "services.common.main", "firewall", "serve"]
        argv += ["--listen", self.address, "--config", str(file)]
        argv += ["--listen", f"unix:{also}/firewall.sock"] if also else []
        with (self.folder / "journal").open("ab") as log:
            process = spawn(
                self.inside("gw", *argv), env={**base_environment(), **(env or {})}, stderr=log, cwd=Path.cwd()
            )
        with running(process), FirewallClient(self.address) as client:
            self.service = process
            until(lambda: _answers(client, process))
            yield client

    def journal(self) -> str:
        """What the service has written."""
        return (self.folder / "journal").read_text()

    @contextlib.contextmanager
    def talking(self, seat: str, kind: str = "tcp") -> Iterator[Talk]:
        """Somebody on a seat who talks to the world."""
        argv = self.inside(seat, sys.executable, "-c", TALK, kind)
        with spawn(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process, running(process):
            yield Talk(process)

    def reaches(self, seat: str, kind: str = "tcp") -> bool:
        """Can a seat open a connection to the world, and is it answered?"""
        with self.talking(seat, kind) as talk:
            return talk.answer().startswith("open") and talk.say() == "heard"

    def seen(self) -> list[str]:
        """Connections as the world sees them, `address:port` each."""
        return (self.folder / "seen").read_text().splitlines()[1:]


def _answers(client: FirewallClient, process: subprocess.Popen[bytes]) -> bool:
    assert process.poll() is None, "see journal in the folder of the test"
    try:
        client.status()
    except BacklineError:
        return False
    return True


def machine(id: int, hostname: str, ip: str, type: str) -> Record:
    return {"id": id, "hostname": hostname, "ip": ip, "type": type, "aliases": []}


def machines() -> dict[str, Record | None]:
    """The seats as mdb tells of them: 1 and 2 are contestants', 3 is an organizer's, 4 is a server."""
    types = {"orga1": "orga", "rhfs": "service"}
    return {
        str(id): machine(id, name, ip, types.get(name, "user")) for id, (name, ip) in enumerate(SEATS.items(), start=1)
    }


def sits(login: str, id: int) -> dict[str, Record | None]:
    return {login: {"login": login, "machine": id, "hostname": list(SEATS)[id - 1], "since": 0.0}}


@contextlib.contextmanager
def placed(folder: Path) -> Iterator[Place]:
    """The network and the feeds; in the hall are alice of group user, and olga of group orga."""
    with contextlib.ExitStack() as stack:
        sandbox = stack.enter_context(Sandbox(f"firewall-{os.getpid()}"))
        sandbox.run(["sh", "-ec", NETWORK])
        sandbox.run(
            ["sysctl", "-qw", "net.ipv4.ip_forward=1", "net.netfilter.nf_conntrack_events=0"], netns="/run/netns/gw"
        )
        feeds = stack.enter_context(telling(folder, mdb="machines", udb="users", presence="sessions"))
        feeds["mdb"].tell(machines())
        feeds["udb"].tell(
            {"1": {"id": 1, "login": "alice", "group": "user"}, "2": {"id": 2, "login": "olga", "group": "orga"}}
        )
        with (folder / "seen").open("wb") as seen:
            made = Place(folder, sandbox, feeds)
            stack.enter_context(running(spawn(made.inside("world", sys.executable, "-c", ECHO), stdout=seen)))
        until(lambda: (folder / "seen").read_text() != "")
        yield made
