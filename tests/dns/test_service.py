"""The whole of it: a real mdb, the service as a process, and named of the gw image; from an edit to the answer."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from ipaddress import IPv4Address
from pathlib import Path

import httpx2
import msgspec
import pytest

from services.common.feed.client import remembered
from services.common.process import running, spawn
from services.dns.client import Dns
from services.dns.serials import newer
from services.mdb.client import Mdb
from services.mdb.schema import Edits, MachinePatch, NewMachine
from tests.common.service_rig import NotifySocket, base_environment
from tests.dns.bind_rig import Box
from tests.dns.hall import SETTINGS
from tests.dns.test_bind import place, shop
from tests.mdb.rig import serving

__all__ = ["place", "shop"]

pytestmark = [pytest.mark.images, pytest.mark.needs("podman", "root", "cgroup2", "namespaces", "overlayfs")]

SOON = 3.0  # seconds, on a machine that is busy with other tests; `make bench-netboot` says what it is when it is not
PROGRAMS = ("named-checkzone", "named-checkconf", "rndc")


def new(number: int, **more: object) -> NewMachine:
    mac = f"52:54:00:00:{number >> 8:02x}:{number & 255:02x}"
    return msgspec.convert({"hostname": f"p{number:04}", "mac": mac, "type": "user", **more}, NewMachine)


class Rig:
    """The service's process, which sees BIND's programs and named's address as on gw, and its mdb."""

    def __init__(self, place: Box, folder: Path, mdb: str) -> None:
        self.place = place
        self.folder = folder
        self.mdb = Mdb(mdb)
        self.socket = folder / "dns.sock"
        self.client = Dns(f"unix:{self.socket}")
        self.settings = msgspec.structs.replace(SETTINGS, folder=str(place.folder), mdb=mdb)
        for name in PROGRAMS:
            wrapper = folder / "bin" / name
            wrapper.parent.mkdir(exist_ok=True)
            wrapper.write_text(f'#!/bin/sh\nexec {" ".join(place.prefix)} {name} "$@"\n')
            wrapper.chmod(0o755)

    @property
    def inside(self) -> list[str]:
        """Where the addresses are gw's own."""
        return ["nsenter", f"--net={self.place.network}", "--"]

    def environment(self) -> dict[str, str]:
        return {**base_environment(), "PATH": f"{self.folder / 'bin'}:/usr/sbin:/usr/bin:/sbin:/bin"}

    def command(self, *words: str) -> list[str]:
        file = self.folder / "dns.toml"
        values = msgspec.to_builtins(self.settings)
        aliens = values.pop("aliens")
        lines = [f"{key} = {msgspec.json.encode(value).decode()}" for key, value in values.items()]
        lines += ["[aliens]", *(f'{key} = "{value}"' for key, value in aliens.items())]
        file.write_text("\n".join(lines))
        return [sys.executable, "-m", "services.common.main", "dns", *words, "--config", str(file)]

    def prepare(self) -> str:
        argv = [*self.inside, *self.command("prepare")]
        done = subprocess.run(argv, env=self.environment(), capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    @contextlib.contextmanager
    def serving(self) -> Iterator[subprocess.Popen[bytes]]:
        """The service, ready to answer."""
        (self.folder / "notify").unlink(missing_ok=True)
        self.socket.unlink(missing_ok=True)
        notify = NotifySocket(self.folder / "notify")
        argv = [*self.inside, *self.command("serve"), "--listen", f"unix:{self.socket}"]
        environment = {**self.environment(), "NOTIFY_SOCKET": str(self.folder / "notify")}
        with contextlib.closing(notify), (self.folder / "log").open("ab") as log:
            with running(spawn(argv, env=environment, stdout=log, stderr=log)) as process:
                try:
                    notify.wait_for("READY")
                except TimeoutError:
                    raise AssertionError((self.folder / "log").read_text()) from None
                yield process

    def until(self, what: Callable[[], bool], *, seconds: float = 10) -> float:
        """Wait until something holds; seconds that it took."""
        began = time.monotonic()
        while not what():
            assert time.monotonic() - began < seconds, (self.folder / "log").read_text()[-4000:]
            time.sleep(0.01)
        return time.monotonic() - began

    def settled(self) -> None:
        """Wait until all that mdb knows is in force."""
        total = self.mdb.machines().total
        self.until(lambda: (status := self.client.status()).state == "applied" and status.machines == total)

    def health(self) -> int:
        transport = httpx2.HTTPTransport(uds=str(self.socket))
        with httpx2.Client(transport=transport, base_url="http://localhost", timeout=10) as client:
            return client.get("/healthz").status_code


@pytest.fixture
def rig(place: Box, tmp_path: Path) -> Iterator[Rig]:
    for path in [*place.folder.rglob("*.zone"), place.folder / "named.conf", place.folder / "feed.json"]:
        path.unlink(missing_ok=True)
    with serving(tmp_path, f"sqlite:///{tmp_path}/mdb.db") as mdb:
        made = Rig(place, tmp_path, mdb.unix)
        with made.mdb, made.client:
            yield made


@pytest.fixture
def hall(rig: Rig) -> Iterator[Rig]:
    """All of it runs, and what is known is in force."""
    rig.prepare()
    with rig.place.named(), rig.serving():
        rig.settled()
        yield rig


def test_an_edit_is_answered_at_once(hall: Rig) -> None:
    made = hall.mdb.create(new(1, aliases=["printer"]))
    assert hall.until(lambda: hall.place.ask("printer.prolo") == [str(made.ip)]) < SOON
    hall.mdb.change(made.id, MachinePatch(hostname="renamed", ip=IPv4Address("192.168.0.99")))
    assert hall.until(lambda: hall.place.ask("renamed.prolo") == ["192.168.0.99"]) < SOON
    hall.until(lambda: hall.place.ask("99.0.168.192.in-addr.arpa", "PTR") == ["renamed.prolo."])
    assert hall.place.ask("p0001.prolo") == ["NXDOMAIN"]
    hall.mdb.delete(made.id)
    assert hall.until(lambda: hall.place.ask("printer.prolo") == ["NXDOMAIN"]) < SOON


def test_many_machines_of_one_import_are_one_load_of_each_zone(hall: Rig) -> None:
    before = hall.client.status().reloads
    hall.mdb.edit(Edits(create=[new(number) for number in range(200)]))
    hall.until(lambda: hall.place.ask("p0199.prolo") != ["NXDOMAIN"])
    hall.settled()
    assert hall.client.status().reloads - before == 2  # forward and reverse


def test_what_does_not_concern_dns_changes_nothing(hall: Rig) -> None:
    made = hall.mdb.create(new(1))
    hall.settled()
    reloads, serial = hall.client.status().reloads, hall.place.serial()
    reverse = hall.place.serial("0.168.192.in-addr.arpa")
    hall.mdb.change(made.id, MachinePatch(notes="a note", room="elsewhere"))
    other = hall.mdb.create(new(2, type="service"))  # another reverse zone: the first one stays
    hall.until(lambda: hall.place.ask("p0002.prolo") == [str(other.ip)])
    hall.settled()
    assert hall.client.status().reloads - reloads == 2
    assert newer(hall.place.serial(), serial)
    assert hall.place.serial("0.168.192.in-addr.arpa") == reverse


def test_it_tells_what_is_in_force_and_what_dns_has_on_a_name(hall: Rig) -> None:
    made = hall.mdb.create(new(1, aliases=["printer"]))
    hall.settled()
    hall.until(lambda: hall.client.lookup("printer").served == [str(made.ip)])
    status = hall.client.status()
    assert (status.problem, status.left_out, status.machines) == (None, [], 1)
    assert all(each.serial == each.served for each in status.zones)
    found = hall.client.lookup(f"{made.ip}")
    assert [(each.value, each.machine) for each in found.answers] == [("p0001.prolo.", str(made.id))]
    assert [each.view for each in hall.client.lookup("netboot.prolo.").answers] == ["hall", "alien"]
    assert hall.client.lookup("no such name").answers == []
    assert hall.health() == 200


def test_a_name_that_hall_toml_has_given_is_told_as_left_out(hall: Rig) -> None:
    made = hall.mdb.create(new(1, aliases=["rfs0"]))
    hall.until(lambda: hall.client.status().left_out_total == 1)
    (told,) = hall.client.status().left_out
    assert (told.machine, told.name, told.reason) == (str(made.id), "rfs0", "the name is rhfs01's (192.168.1.10)")
    assert hall.place.ask("rfs0.prolo") == ["192.168.1.10"]


def test_health_says_that_named_is_away_and_all_is_told_when_it_is_back(rig: Rig) -> None:
    rig.prepare()
    with rig.serving():
        with rig.place.named():
            rig.settled()
            assert rig.health() == 200
        made = rig.mdb.create(new(1))
        rig.until(lambda: rig.client.status().state == "pending")
        assert rig.health() == 503
        with rig.place.named():
            assert rig.place.ask("p0001.prolo") == [str(made.ip)]  # files do not wait for named
            rig.settled()
            assert rig.health() == 200


def test_names_do_not_wait_for_mdb_after_a_restart_of_gw(rig: Rig) -> None:
    assert rig.prepare().startswith("no machines are known yet")
    with rig.place.named(), rig.serving():
        made = rig.mdb.create(new(1))
        rig.until(lambda: rig.place.ask("p0001.prolo") == [str(made.ip)])
        serial = rig.place.serial()
        rig.until(lambda: len(remembered(rig.place.folder / "feed.json") or {}) == 1)
    rig.settings = msgspec.structs.replace(rig.settings, mdb="unix:/nowhere.sock")
    assert rig.prepare().startswith("1 machines")
    with rig.place.named(), rig.serving():
        assert rig.place.ask("p0001.prolo") == [str(made.ip)]
        assert rig.place.serial() == serial
        assert rig.health() == 503  # it serves, and says that it does not hear from mdb


def test_a_service_that_is_killed_in_the_middle_of_edits_comes_back_to_what_mdb_says(rig: Rig) -> None:
    rig.prepare()
    with rig.place.named():
        for turn in range(4):
            with rig.serving() as process:
                for number in range(10):
                    rig.mdb.create(new(turn * 10 + number))
                time.sleep(0.05 * turn)
                process.send_signal(signal.SIGKILL)
                process.wait()
        with rig.serving():
            rig.settled()
            rig.until(lambda: rig.place.ask("p0039.prolo") != ["NXDOMAIN"])
            found = {each.hostname: str(each.ip) for each in rig.mdb.machines().machines}
            assert len(found) == 40
            assert {name: rig.place.ask(f"{name}.prolo") for name in found} == {
                name: [address] for name, address in found.items()
            }


def test_a_hall_toml_with_another_domain_is_in_force_with_the_next_start(rig: Rig) -> None:
    rig.prepare()
    with rig.place.named():
        with rig.serving():
            made = rig.mdb.create(new(1))
            rig.until(lambda: rig.place.ask("p0001.prolo") == [str(made.ip)])
        rig.settings = msgspec.structs.replace(rig.settings, domain="finals.example")
        with rig.serving():
            rig.until(lambda: rig.place.ask("p0001.finals.example") == [str(made.ip)])
            rig.until(lambda: rig.place.ask("p0001.prolo") == ["REFUSED"])
            rig.settled()
            assert rig.health() == 200
