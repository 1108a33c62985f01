"""What gw and root file servers are told of gw's state from hall.toml; and the key that it is sealed with."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from e2e import halls
from services.common import settings
from services.common.main import run_module
from services.hall import for_state, render
from services.state.copying import receivers
from services.state.schema import Settings
from services.state.seal import Key

HALL = halls.make(roles={"rhfs23": "rhfs"})


@pytest.mark.parametrize(("role", "host", "wanted"), [("gw", "gw", ["rhfs01", "rhfs23"]), ("rhfs", "rhfs01", [])])
def test_the_service_reads_what_is_written(tmp_path: Path, role: str, host: str, wanted: list[str]) -> None:
    (tmp_path / "state.toml").write_text(for_state.settings(HALL.data, host, role))
    found = settings.read(Settings, section="state", file=tmp_path / "state.toml", environ={})
    assert (found.hall, found.domain, found.host) == ("lab", "prolo", host)
    assert list(receivers(found)) == wanted
    if wanted:
        assert receivers(found)["rhfs01"] == "https://192.168.1.10:20212"


def test_only_gw_and_root_file_servers_get_it() -> None:
    for role, host in (("gw", "gw"), ("rhfs", "rhfs01"), ("web", "web"), ("nfsroot", "seat")):
        files = render.render(HALL.data, render.identify(HALL.data, role, host))
        assert (render.STATE in files) == (role in ("gw", "rhfs"))


def test_a_key_is_made_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    (tmp_path / "hall.toml").write_text(HALL.text)
    argv = ["state-key", "--hall", str(tmp_path / "hall.toml"), "--json"]
    made = []
    for first in (True, False):
        assert run_module("services.hall.cli", "backline hall", argv) == 0
        told = json.loads(capsys.readouterr().out)
        assert (told["made"], told["credential"]) == (first, "backline.state")
        made.append(Path(told["file"]).read_text())
        assert stat.S_IMODE(Path(told["file"]).stat().st_mode) == 0o600
    assert made[0] == made[1]
    Key.parse(made[0])
