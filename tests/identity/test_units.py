"""The identity service's unit fits the code, and does little else."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from services.common.process import run
from services.hall.render import IDENTITY, ROOT_KEYS, Identity, render
from services.identity.accounts import GROUP, PASSWD, SHADOW
from services.identity.accounts import ROOT_KEYS as KEYS
from services.identity.client import SOCKET
from services.identity.schema import Settings
from services.identity.work import TOKEN
from services.seat.report import TOKEN as SEATS
from tests.hall.halls import hall

ROOT = Path(__file__).parents[2]
SERVICE = ROOT / "units/backline-identity.service"


def test_it_is_where_clients_look_and_reads_what_hall_toml_says() -> None:
    assert f"ListenStream={SOCKET.removeprefix('unix:')}\n" in (ROOT / "units/backline-identity.socket").read_text()
    assert f"--config {IDENTITY}\n" in SERVICE.read_text()
    for role, name in (("gw", "gw"), ("rhfs", "rhfs01"), ("nfsroot", "pas-r01p01")):
        assert IDENTITY in render(hall(), Identity(role, name))


def test_the_name_service_and_sshd_look_where_it_writes() -> None:
    folder = Path(Settings().folder)
    assert Path(ROOT_KEYS) == folder / "current" / KEYS
    text = (ROOT / "images/base/mkosi.extra/usr/lib/tmpfiles.d/backline-identity.conf").read_text()
    links = dict(re.findall(r"^L\+ (\S+) - - - - (\S+)$", text, re.MULTILINE))
    assert links == {
        f"/var/lib/extrausers/{name}": f"../{folder.name}/current/{name}" for name in (PASSWD, GROUP, SHADOW)
    }


def test_it_shows_udb_what_seats_and_servers_are_given() -> None:
    assert TOKEN == SEATS
    for name in (TOKEN, "backline.client.feed-private"):
        assert f"ImportCredential={name}\n" in SERVICE.read_text()


def test_it_is_little_exposed() -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("missing capability: systemd-analyze")
    done = run(["systemd-analyze", "security", "--offline=true", "--no-pager", str(SERVICE)], check=False)
    found = re.search(r"Overall exposure level for \S+: ([0-9.]+)", done.stdout)
    assert found, done.stderr
    assert float(found[1]) < 3.0, done.stdout
