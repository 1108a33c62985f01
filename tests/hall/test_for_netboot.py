"""netboot's settings as hall.toml gives them, read by netboot's own reader."""

from __future__ import annotations

from pathlib import Path

from netboot.schema import Settings
from services.common.settings import read
from services.hall.for_netboot import settings
from services.hall.render import NETBOOT, Identity, render
from tests.hall.halls import hall


def load(text: str, folder: Path) -> Settings:
    file = folder / "netboot.toml"
    file.write_text(text)
    return read(Settings, section="netboot", file=file, environ={})


def test_machines_are_told_the_address_of_gw_in_their_own_network(tmp_path: Path) -> None:
    found = load(settings(hall()), tmp_path)
    assert (found.hall, found.domain) == ("finals", "prolo")
    assert found.gateways == ["192.168.0.0/23=192.168.1.254", "192.168.250.0/24=192.168.250.254"]
    assert found.aliens == "192.168.250.1-192.168.250.200"


def test_only_gw_is_given_them(tmp_path: Path) -> None:
    load(render(hall(), Identity("gw", "gw"))[NETBOOT].content, tmp_path)
    assert NETBOOT not in render(hall(), Identity("web", "web"))
