"""The depot's units fit the code: who reads what, where who listens, and what a delta may take."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from services.common import patching
from services.common.process import run
from services.depot.client import SOCKET
from services.depot.schema import Settings
from services.hall import edge
from services.hall.render import DEPOT

UNITS = Path(__file__).parents[2] / "units"
SERVICE = UNITS / "backline-depot.service"


def test_the_socket_is_where_clients_look() -> None:
    assert f"ListenStream={SOCKET.removeprefix('unix:')}\n" in (UNITS / "backline-depot.socket").read_text()


def test_it_reads_what_hall_toml_says_and_keeps_its_state_where_nginx_looks() -> None:
    text = SERVICE.read_text()
    assert f"--config {DEPOT}\n" in text
    folder = Settings().folder
    assert f"StateDirectory={folder.removeprefix('/var/lib/')}\nStateDirectory" not in text
    assert f"StateDirectory={folder.removeprefix('/var/lib/')}\n" in text
    (site,) = [site for site in edge.SITES if site.name == "depot"]
    assert site.files == f"{folder}/files/"


def test_a_delta_that_is_not_worth_it_fits_into_its_memory_too() -> None:
    """It is all that is not the page cache's, beside an index of 2^24 entries of 8 bytes."""
    found = re.search(r"^MemoryMax=(\d+)G$", SERVICE.read_text(), re.MULTILINE)
    assert found
    assert Settings().delta_bytes <= patching.LARGEST
    assert Settings().delta_bytes + 2**27 + 2**29 < int(found[1]) * 2**30


def test_it_is_little_exposed() -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("missing capability: systemd-analyze")
    done = run(["systemd-analyze", "security", "--offline=true", "--no-pager", str(SERVICE)], check=False)
    found = re.search(r"Overall exposure level for \S+: ([0-9.]+)", done.stdout)
    assert found, done.stderr
    assert float(found[1]) < 2.0, done.stdout
