"""`backline hostd`: for people, and as JSON for programs."""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec
import pytest

from services.common.bus import BusError
from services.common.bus.fake import FakeSystemd, Fault
from services.common.errors import Exit, MissingError
from services.common.identity import ImageIdentity
from services.common.process import Completed, run
from services.hostd.cli import printable
from services.hostd.journal import JournalReader
from services.hostd.schema import Host, Journal, JournalQuery, Units, UnitsQuery
from services.hostd.store import Store
from tests.common.journal_rig import in_journal
from tests.common.service_rig import ROOT, Service, base_environment


def backline(*words: str, check: bool = True) -> Completed:
    argv = [sys.executable, "-m", "services.common.main", "hostd", *words]
    return run(argv, cwd=ROOT, env=base_environment(), check=check)


def test_the_version_is_told_in_a_line_and_as_json(hostd: Service) -> None:
    assert ": gw, 20260101.0123456789ab (configured)\n" in backline("version", "--address", hostd.unix).stdout
    host = msgspec.json.decode(backline("version", "--json", "--address", hostd.http).stdout, type=Host)
    assert host.version == "20260101.0123456789ab"


def test_units_are_told_in_columns_and_as_json(hostd: Service) -> None:
    lines = backline("units", "--address", hostd.unix, "--state", "failed").stdout
    assert lines == "bad.service  failed       failed       A bad one\n"
    units = msgspec.json.decode(backline("units", "--json", "--address", hostd.unix).stdout, type=Units)
    assert len(units.units) == 3


def test_a_unit_that_does_not_exist_ends_with_missing(hostd: Service) -> None:
    done = backline("journal", "none.service", "--address", hostd.unix, check=False)
    assert done.returncode == Exit.MISSING
    assert done.stderr == f"error: {hostd.unix}: there is no unit none.service, and no journal of one\n"


def test_an_address_that_makes_no_sense_says_how_to_write_it() -> None:
    done = backline("version", "--address", "localhost", check=False)
    assert (done.returncode, "unix:/path" in done.stderr) == (Exit.USAGE, True)


def test_wrong_settings_are_refused_with_file_and_line(tmp_path: Path) -> None:
    (tmp_path / "hostd.toml").write_text("\njournal_byte = 1\n")
    done = backline("serve", "--config", str(tmp_path / "hostd.toml"), check=False)
    assert done.returncode == Exit.INPUT
    assert done.stderr.startswith(f"error: {tmp_path}/hostd.toml:2: journal_byte: no such key")


def test_what_is_logged_cannot_steer_the_terminal() -> None:
    assert printable("a\x1b[2Jb\nc\td\x07é") == "a\ufffd[2Jb\nc\td\ufffdé"


SERVED = """
import os, sys
from services.common.process import run, running, spawn
hostd = [sys.executable, "-m", "services.common.main", "hostd"]
send = "MESSAGE=%s\\nPRIORITY=5\\nSYSLOG_IDENTIFIER=demo\\nREQUEST_ID=r1\\nOBJECT_SYSTEMD_UNIT=demo.service\\n"
import socket
journal = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
journal.connect("/run/systemd/journal/socket")
for number in range(5):
    journal.send((send % f"line {number}").encode())
journal.close()
run(["journalctl", "--sync"])
notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
notify.bind("/run/notify")
env = {**os.environ, "NOTIFY_SOCKET": "/run/notify"}
with running(spawn([*hostd, "serve", "--listen", "unix:/run/hostd.sock"], env=env)):
    notify.recv(100)
    ask = [*hostd, "journal", "demo.service", "--address", "unix:/run/hostd.sock", "--lines", "2"]
    print(run([*ask, "--json"]).stdout + run(ask).stdout, end="")
notify.close()
"""


def test_the_journal_of_a_unit_is_told_from_end_to_end() -> None:
    as_json, *lines = in_journal(SERVED).stdout.splitlines()
    journal = msgspec.json.decode(as_json, type=Journal)
    assert [entry.message for entry in journal.entries] == ["line 3", "line 4"]
    first = journal.entries[0]
    assert (first.priority, first.identifier, first.request_id, journal.truncated) == (5, "demo", "r1", False)
    assert [line.split(": ", 1)[1] for line in lines] == ["line 3", "line 4"]


def test_without_a_bus_units_fail_and_are_not_taken_for_missing() -> None:
    fake = FakeSystemd()
    fake.faults.add(Fault.UNREACHABLE)
    store = Store(manager=fake, journal=JournalReader(seconds=5, size=1000, program="true"), identity=ImageIdentity())
    with pytest.raises(BusError):
        store.units(UnitsQuery())
    with pytest.raises(BusError):
        store.journal("a.service", JournalQuery())


def test_a_unit_without_a_journal_but_known_is_no_failure() -> None:
    from services.common.bus.fake import make_unit

    store = Store(
        manager=FakeSystemd([make_unit("a.service")]),
        journal=JournalReader(seconds=5, size=1000, program="true"),
        identity=ImageIdentity(),
    )
    assert store.journal("a.service", JournalQuery()) == Journal("a.service", [], truncated=False)
    with pytest.raises(MissingError):
        store.journal("b.service", JournalQuery())


def test_a_host_that_nobody_told_anything_is_unconfigured() -> None:
    store = Store(
        manager=FakeSystemd(), journal=JournalReader(seconds=5, size=1000, program="true"), identity=ImageIdentity()
    )
    host = store.host()
    assert (host.role, host.version, host.state) == (None, None, "unconfigured")
