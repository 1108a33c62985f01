"""The overview's settings as hall.toml gives them, read by its own reader."""

from __future__ import annotations

from pathlib import Path

from services.common.settings import read
from services.hall.render import OVERVIEW, Identity, render
from services.overview.schema import Settings
from tests.hall.halls import hall


def test_only_gw_is_given_every_host_of_the_hall(tmp_path: Path) -> None:
    file = tmp_path / "overview.toml"
    file.write_text(render(hall(), Identity("gw", "gw"))[OVERVIEW].content)
    settings = read(Settings, section="overview", file=file, environ={})
    assert (settings.hall, settings.domain) == (hall().site.name, "prolo")
    assert {(each.name, each.role, each.address, each.port) for each in settings.hosts} == {
        (name, host.role, str(host.address), 20210) for name, host in hall().hosts.items()
    }
    assert OVERVIEW not in render(hall(), Identity("web", "web"))
