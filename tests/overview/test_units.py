"""The overview's units fit the code: who reads what, where who listens, and how little it may do."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from netboot.schema import Settings as NetbootSettings
from services.common.process import run
from services.hall import edge
from services.hall.render import OVERVIEW
from services.hall.schema import OF_GW
from services.overview.client import SOCKET
from services.rollout.schema import Settings as RolloutSettings

UNITS = Path(__file__).parents[2] / "units"
SERVICE = UNITS / "backline-overview.service"


def test_it_is_where_clients_and_nginx_look() -> None:
    assert f"ListenStream={SOCKET.removeprefix('unix:')}\n" in (UNITS / "backline-overview.socket").read_text()
    assert "overview" in {site.name for site in edge.SITES}
    assert "overview" in OF_GW


def test_it_reads_what_hall_toml_says() -> None:
    assert f"--config {OVERVIEW}\n" in SERVICE.read_text()


def test_those_whom_it_asks_let_it_look() -> None:
    found = re.search(r"^User=(\S+)$", SERVICE.read_text(), re.MULTILINE)
    assert found
    assert found[1] in NetbootSettings().reader_groups
    assert found[1] in RolloutSettings().reader_groups
    assert found[1] not in [*NetbootSettings().writer_groups, *RolloutSettings().writer_groups]


def test_it_is_little_exposed() -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("missing capability: systemd-analyze")
    done = run(["systemd-analyze", "security", "--offline=true", "--no-pager", str(SERVICE)], check=False)
    found = re.search(r"Overall exposure level for \S+: ([0-9.]+)", done.stdout)
    assert found, done.stderr
    assert float(found[1]) < 3.0, done.stdout
