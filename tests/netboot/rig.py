"""netboot as a process beside a real mdb, as systemd starts them; and the pieces of small halls."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from netboot.client import Netboot
from netboot.machines import Known, Machines
from netboot.schema import NewVersion, Version
from services.common.process import run
from services.common.tokens import CREDENTIAL
from tests.common.service_rig import Service, activated
from tests.mdb import rig as mdb_rig

NETBOOT = [sys.executable, "-m", "services.common.main", "netboot", "serve"]
KEY = bytes(range(32))
"""What the hall's tokens are made with."""
ONE, TWO = "20261121.bf275d18ebe8", "20261122.0123456789ab"
GATEWAY = "192.168.1.254"
CONFIGURATION = """
database = "{database}"
mdb = "{mdb}"
memory = "{folder}/mdb.json"
hall = "pasteur"
domain = "prolo"
gateways = ["192.168.0.0/23=192.168.1.254", "192.168.250.0/24=192.168.250.254"]
aliens = "192.168.250.1-192.168.250.200"
hall_toml = "{folder}/hall.toml"
"""


def version(id: str = ONE, **more: object) -> Version:
    values = {"role": "nfsroot", "root_hash": "ab" * 32, "options": "", "size": 0, "added": 0.0, "added_by": "me"}
    return Version(version=id, **{**values, **more})  # type: ignore[arg-type]


def new_version(id: str = ONE, **more: object) -> NewVersion:
    return NewVersion(version=id, **{"root_hash": "ab" * 32, **more})  # type: ignore[arg-type]


def seat(number: int = 1, **more: object) -> Known:
    values = {
        "id": number,
        "hostname": f"pas-r01p{number:02}",
        "ip": f"192.168.0.{number}",
        "mac": f"52:54:00:00:00:{number:02x}",
        "rfs": 1,
        "room": "pasteur",
    }
    return Known(**{**values, **more})  # type: ignore[arg-type]


def server(number: int, **more: object) -> Known:
    """The root file server of a number."""
    values = {
        "id": 1000 + number,
        "hostname": f"rhfs{number:02}",
        "ip": f"192.168.1.{number}",
        "mac": f"52:54:00:01:00:{number:02x}",
        "aliases": (f"rfs{number}", f"hfs{number}"),
        "type": "service",
    }
    return Known(**{**values, **more})  # type: ignore[arg-type]


def machines(*known: Known) -> Machines:
    """What mdb says: `known`, and root file servers 1, 2 and 10."""
    made = Machines([*known, server(1), server(2), server(10)])
    made.ready = True
    return made


@dataclass
class Answer:
    """Status and body of an answer."""

    status: int
    text: str

    @property
    def code(self) -> str:
        """The problem's code, or "" for an answer that is none."""
        try:
            return str(json.loads(self.text).get("code", ""))
        except (ValueError, AttributeError):
            return ""


def ask(
    service: Service,
    path: str,
    *,
    origin: str = "192.168.0.1",
    method: str = "GET",
    body: object = None,
    token: str | None = None,
    text: bytes | None = None,
    secure: bool = False,
) -> Answer:
    """What a machine at `origin` is answered, through nginx: its user, and the headers that it sets."""
    argv = ["setpriv", "--reuid=33", "--regid=33", "--clear-groups", "curl", "--silent", "--globoff"]
    argv += ["--request", method, "--write-out", "\n%{http_code}", "--header", f"X-Real-IP: {origin}"]
    argv += ["--header", f"X-Forwarded-Proto: {'https' if secure else 'http'}"]
    argv += ["--header", f"Authorization: Bearer {token}"] if token else []
    argv += ["--json", json.dumps(body)] if body is not None else []
    argv += ["--header", "Content-Type: text/plain", "--data-binary", "@-"] if text is not None else []
    # Through a descriptor: another user is not let through the folders of pytest, whatever their modes were made.
    folder = os.open(service.socket.parent, os.O_PATH)
    try:
        argv += ["--unix-socket", f"/proc/self/fd/{folder}/{service.socket.name}", f"http://netboot{path}"]
        found = run(argv, stdin=text, pass_fds=(folder,)).stdout
    finally:
        os.close(folder)
    content, _, status = found.rpartition("\n")
    return Answer(int(status), content)


@dataclass
class Pair:
    """A running netboot and the mdb that it follows."""

    netboot: Service
    mdb: Service


def until(true: Callable[[], object], *, seconds: float = 10) -> None:
    """Wait for something that follows by itself; fails after a deadline."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


@contextlib.contextmanager
def serving(folder: Path, database: str, mdb: str, **environment: str) -> Iterator[Service]:
    """netboot over a database, following the mdb at an address, ready to answer."""
    own = folder / "netboot"
    own.mkdir(exist_ok=True)
    for left in ("service.sock", "notify"):
        (own / left).unlink(missing_ok=True)
    file = own / "netboot.toml"
    file.write_text(CONFIGURATION.format(database=database, mdb=mdb, folder=own))
    (own / "hall.toml").write_text("[hall]\nname = 'pasteur'\n")
    (own / CREDENTIAL).write_bytes(KEY)
    env = {"CREDENTIALS_DIRECTORY": str(own), **environment}
    with activated(own, [*NETBOOT, "--config", str(file)], env=env) as service:
        own.chmod(0o711)  # nginx's user gets to the socket
        yield service


@contextlib.contextmanager
def pair(folder: Path) -> Iterator[Pair]:
    """mdb and netboot, each with an empty SQLite database."""
    other = folder / "mdb"
    other.mkdir(exist_ok=True)
    with mdb_rig.serving(other, f"sqlite:///{other}/mdb.db") as mdb:
        with serving(folder, f"sqlite:///{folder}/netboot.db", mdb.unix) as netboot:
            yield Pair(netboot, mdb)


def publish(client: Netboot, id: str = ONE, *, rfs: tuple[int, ...] = (1,), channel: str | None = "stable") -> None:
    """Make a version known and held, and have a channel point to it."""
    from netboot.schema import NewPointer

    client.add_version(new_version(id))
    for number in rfs:
        client.hold(number, id)
    if channel:
        client.switch_channel(channel, NewPointer(version=id))
