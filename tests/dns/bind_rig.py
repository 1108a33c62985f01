"""A real named of the gw image, over a folder that an applier of this process writes; and questions from both views."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Iterator
from pathlib import Path

import dns.flags
import dns.message
import dns.query
import dns.rcode
from testcontainers.core.container import DockerContainer

from e2e.containers import Engine
from e2e.sandbox import entered_network
from services.common import process
from services.dns.apply import Applier
from services.dns.bind import Programs
from services.dns.folder import Folder
from services.dns.schema import Settings
from tests.dns.hall import ALIEN_GW, GW, SETTINGS

_RUNNING = re.compile(rb" running$", re.MULTILINE)
SEAT, UNKNOWN, STRANGER = "192.168.0.77", "192.168.250.7", "203.0.113.9"


class Box:
    """A container of the gw image with a folder of ours at the same path, where BIND's programs are run one by one."""

    def __init__(self, podman: Engine, container: DockerContainer, folder: Path) -> None:
        self.podman = podman
        self.container = container
        self.folder = folder
        self.network = podman.network_of(container)
        self.prefix = ("nsenter", f"--mount={self.network.with_name('mnt')}", f"--net={self.network}", "--")
        self.programs = Programs(key=Path("/etc/bind/rndc.key"), prefix=self.prefix)
        self.run("ip", "link", "set", "lo", "up")
        for address in (GW, ALIEN_GW, SEAT, UNKNOWN, STRANGER):
            self.run("ip", "address", "add", f"{address}/32", "dev", "lo")
        self.run("rndc-confgen", "-a", "-q", "-u", "bind", "-c", "/etc/bind/rndc.key")
        self.run("install", "-d", "-o", "bind", "-g", "bind", "/run/named")

    def run(self, *words: str) -> str:
        """What a program of the image prints."""
        return process.run([*self.prefix, *words]).stdout

    def applier(self, settings: Settings = SETTINGS, *, folder: Path | None = None) -> Applier:
        """Writes the folder and tells the named in here."""
        return Applier(settings, Folder(folder or self.folder), self.programs)

    @contextlib.contextmanager
    def named(self) -> Iterator[None]:
        """named over what is in the folder, for a block."""
        log = self.folder.with_name(f"{self.folder.name}.log")
        argv = [*self.prefix, "named", "-g", "-4", "-u", "bind", "-c", str(self.folder / "named.conf")]
        with log.open("wb") as output, process.running(process.spawn(argv, stderr=output, stdout=output)) as running:
            deadline = time.monotonic() + 20
            # Zones are loaded one by one while others answer already: it says "running" once all of them are.
            while not _RUNNING.search(log.read_bytes()):
                assert running.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.02)
            yield

    def ask(self, name: str, kind: str = "A", *, source: str = SEAT, to: str = GW, recurse: bool = False) -> list[str]:
        """What is answered: the records as text, or the word for an error, such as REFUSED."""
        query = dns.message.make_query(name, kind, flags=dns.flags.RD if recurse else 0)
        with entered_network(self.network):
            answer = dns.query.udp(query, to, timeout=5, source=source)
        if answer.rcode() != dns.rcode.NOERROR:
            return [dns.rcode.to_text(answer.rcode())]
        return sorted(str(record) for rrset in answer.answer for record in rrset)

    def serial(self, zone: str = "prolo", *, source: str = SEAT) -> int:
        """The serial of a zone as it is answered."""
        return int(self.ask(zone, "SOA", source=source)[0].split()[2])


@contextlib.contextmanager
def box(podman: Engine, folder: Path) -> Iterator[Box]:
    """A container to run named in, over a folder that it can read."""
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o755)
    idle = DockerContainer(podman.image_of("gw")).with_command(["sleep", "infinity"])
    with idle.with_volume_mapping(folder, str(folder), "rw") as container:
        yield Box(podman, container, folder)
