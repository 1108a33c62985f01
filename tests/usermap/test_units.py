"""The map's units fit the code: who reads what, where who listens, and how little it may do."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from netboot.schema import Settings as NetbootSettings
from services.common.process import run
from services.common.settings import read
from services.hall import edge
from services.hall.render import USERMAP, Identity, render
from services.hall.schema import OF_GW
from services.usermap.client import SOCKET
from services.usermap.schema import Settings
from tests.hall.halls import hall

UNITS = Path(__file__).parents[2] / "units"
SERVICE = UNITS / "backline-usermap.service"


def test_it_is_where_clients_and_nginx_look() -> None:
    path = SOCKET.removeprefix("unix:")
    assert f"ListenStream={path}\n" in (UNITS / "backline-usermap.socket").read_text()
    assert f"server unix:{path};" in edge.servers(hall(), tls=False)
    assert "map" in OF_GW


def test_it_reads_what_hall_toml_says_and_keeps_what_its_unit_gives(tmp_path: Path) -> None:
    text = SERVICE.read_text()
    assert f"--config {USERMAP}\n" in text
    file = tmp_path / "usermap.toml"
    file.write_text(render(hall(), Identity("gw", "gw"))[USERMAP].content)
    settings = read(Settings, section="usermap", file=file, environ={})
    assert settings.hall == hall().site.name
    assert settings.folder == "/var/lib/" + re.findall(r"^StateDirectory=(\S+)$", text, re.MULTILINE)[0]
    assert str(settings.template.parent) == settings.folder


def test_netboot_lets_it_look_and_change_nothing() -> None:
    (user,) = re.findall(r"^User=(\S+)$", SERVICE.read_text(), re.MULTILINE)
    assert user in NetbootSettings().reader_groups
    assert user not in NetbootSettings().writer_groups


def test_it_is_little_exposed() -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("missing capability: systemd-analyze")
    done = run(["systemd-analyze", "security", "--offline=true", "--no-pager", str(SERVICE)], check=False)
    found = re.search(r"Overall exposure level for \S+: ([0-9.]+)", done.stdout)
    assert found, done.stderr
    assert float(found[1]) < 3.0, done.stdout
