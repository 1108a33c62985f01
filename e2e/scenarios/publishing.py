"""A hall with its administrator, a seat that boots what netboot says, and what is published there: shared by scenarios.

Everything is published by `backline publish` itself, at this machine, with gw's services as root on gw has them.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2

from builder.store import Store
from e2e import netbooted, published, small
from e2e.administrator import Administrator
from e2e.lab import Lab
from e2e.node import Node
from netboot.client import Netboot
from netboot.schema import Channel, Seat
from services.common import statement as statements
from services.common.versions import Ref
from services.depot.client import Depot
from services.depot.schema import Publication, State

RHFS = "192.168.1.10"
SEAT = "pas-r01p01"
SMALL = "nfsroot-small"
"""The role of small versions: no time goes into deltas between them and whole ones."""
SECONDS = 240.0
_ROOTS = re.compile(r"\bbackline\.root=nfs:([0-9.]+):([^, ]+)")


@dataclass
class Story:
    """A lab, its administrator, and where versions are made."""

    lab: Lab
    administrator: Administrator
    place: Path
    made: list[Ref] = field(default_factory=list)

    @property
    def store(self) -> Store:
        """The store that is published from."""
        return self.lab.roots.store

    # Publishing

    def argv(self, ref: Ref | str, *words: str) -> list[str]:
        """`backline publish` to channel stable, unless `words` say another one."""
        channel = [] if "--channel" in words else ["--channel", "stable"]
        return self.administrator.argv(["backline", "publish", str(ref).replace("/", "@"), *channel, *words])

    def publish(self, ref: Ref | str, *words: str) -> dict[str, Any]:
        """Publish, to the end; what it says with --json."""
        done = subprocess.run([*self.argv(ref, *words), "--json"], capture_output=True, text=True, timeout=SECONDS)
        assert done.returncode == 0, done.stderr
        document: dict[str, Any] = json.loads(done.stdout)
        return document

    def refused(self, ref: Ref | str, *words: str) -> str:
        """Publish what must not be published; what is said about it."""
        done = subprocess.run(self.argv(ref, *words), capture_output=True, text=True, timeout=SECONDS)
        assert done.returncode != 0, done.stdout
        assert "Traceback" not in done.stderr
        return done.stderr

    @contextlib.contextmanager
    def publishing(self, ref: Ref | str, *words: str) -> Iterator[subprocess.Popen[str]]:
        """Publish, while a block does something else."""
        argv = [*self.argv(ref, *words), "--json"]
        with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            try:
                yield process
            finally:
                if process.poll() is None:
                    process.kill()

    def small(self, root: bytes) -> Ref:
        """A small version in the store, which nobody could boot."""
        ref = small.version(self.place, root, role=SMALL)
        self.store.add(ref.role, ref.version, self.place / ref.version)
        self.made.append(ref)
        return ref

    # What there is

    def pointer(self, channel: str = "stable") -> Channel:
        """Where a channel points to."""
        with self.netboot() as netboot:
            (found,) = [each for each in netboot.channels().channels if each.name == channel]
            return found

    def points(self, channel: str) -> str | None:
        """The version that a channel points to; None for one that is not there."""
        with self.netboot() as netboot:
            return next((each.current for each in netboot.channels().channels if each.name == channel), None)

    def held(self, host: str) -> Path:
        """The disk of a root file server, as a folder of this machine."""
        return Path(self.lab[host].binds[published.HELD])

    def netboot(self) -> Netboot:
        return Netboot(self.lab["gw"].service("netboot"))

    def depot(self) -> Depot:
        return Depot(self.lab["gw"].service("depot"))

    def holders(self, ref: Ref) -> list[int]:
        """The numbers under which a version is confirmed."""
        with self.netboot() as netboot:
            return sorted(each.rfs for each in netboot.holdings().holdings if each.version == ref.version)

    def newest(self, channel: str = "stable") -> Publication | None:
        """A channel's last publication."""
        with self.depot() as depot:
            return next(iter(depot.publications(channel).publications), None)

    def published(self, channel: str) -> list[str]:
        """The versions that a channel got, the newest first."""
        with self.depot() as depot:
            said = depot.publications(channel).publications
        return [statements.decode(each.statement).version for each in said]

    def pulled(self, channel: str = "stable", host: str = "rhfs01") -> tuple[State | None, int, int]:
        """How far a server is with the last publication: state, bytes, and how many it needs."""
        newest = self.newest(channel)
        words = [each for each in newest.progress if each.host == host] if newest else []
        return (words[0].state, words[0].bytes, words[0].total) if words else (None, 0, 0)

    # The seat

    @property
    def seat(self) -> Node:
        return self.lab[SEAT]

    def known(self) -> Seat:
        """The seat as netboot knows it."""
        with self.netboot() as netboot:
            return next(each for each in netboot.seats("stable").seats if each.hostname == SEAT)

    def nfs(self, program: str, server: str, path: str) -> list[str]:
        """What runs a libnfs program on the seats' network."""
        argv = [program, f"nfs://{server}{path}?version=4"]
        return self.lab.sandbox.inside(argv, netns=self.lab["web"].netns)

    def loaded(self) -> dict[str, str]:
        """SHA-256 of each file that the seat would load now, from the first server and path that its script names."""
        script = self.lab["web"].http("GET", f"http://192.168.1.254/boot/{self.lab.machines[SEAT].mac}").text
        found = _ROOTS.search(script)
        assert found is not None, script
        server, path = found[1], found[2]
        loaded = {}
        for name in ("vmlinuz", "initrd"):
            answer = self.lab["web"].http("GET", f"http://{server}{path}/{name}", seconds=60)
            assert isinstance(answer, httpx2.Response)
            assert answer.status_code == 200
            loaded[name] = hashlib.sha256(answer.content).hexdigest()
        for name in ("root.erofs", "root.verity"):
            loaded[name] = sha256(self.nfs("nfs-cat", server, f"{path}/{name}"))
        return loaded

    def signed(self, ref: Ref) -> dict[str, str]:
        """The same of a version, as its manifest has it."""
        artefacts = self.store.manifest(ref.role, ref.version).artefacts
        return {name: artefacts[name].sha256 for name in ("vmlinuz", "initrd", "root.erofs", "root.verity")}


def sha256(argv: list[str]) -> str:
    """Of what a program prints. It has to succeed."""
    digest = hashlib.sha256()
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        while data := process.stdout.read(1 << 20):
            digest.update(data)
    assert process.returncode == 0, argv
    return digest.hexdigest()


def begin(lab: Lab, place: Path) -> Story:
    """Start a lab as `backline lan up` does: its seats ask netboot, and what it begins with is published."""
    administrator = Administrator(lab)
    netbooted.follow(lab)
    lab.start(seconds=180)
    administrator.open()
    administrator.begin()
    return Story(lab, administrator, place)
