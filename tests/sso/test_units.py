"""Single sign-on's units fit the code: where nginx asks, and what it reads."""

from __future__ import annotations

from pathlib import Path

from services.common.settings import read
from services.hall import edge
from services.hall.render import SSO, Identity, render
from services.sso.schema import Settings
from tests.hall.halls import changed, parse

UNITS = Path(__file__).parents[2] / "units"
SERVICE = UNITS / "backline-sso.service"


def test_it_is_where_nginx_asks() -> None:
    (listening,) = [
        line for line in (UNITS / "backline-sso.socket").read_text().splitlines() if line.startswith("ListenStream=")
    ]
    text = edge.servers(parse(changed()), tls=True)
    assert f"server unix:{listening.partition('=')[2]};" in text


def test_it_reads_the_overrides_of_hall_toml(tmp_path: Path) -> None:
    assert f"--config {SSO}\n" in SERVICE.read_text()
    text = changed() + '\n[sso.overrides]\n"192.168.0.77" = "alice"\nlaptop = "otto"\n'
    file = tmp_path / "sso.toml"
    file.write_text(render(parse(text), Identity("gw", "gw"))[SSO].content)
    settings = read(Settings, section="sso", file=file, environ={})
    assert settings.overrides == {"192.168.0.77": "alice", "laptop": "otto"}
    assert SSO not in render(parse(text), Identity("web", "web"))


def test_without_overrides_there_are_none(tmp_path: Path) -> None:
    file = tmp_path / "sso.toml"
    file.write_text(render(parse(changed()), Identity("gw", "gw"))[SSO].content)
    assert read(Settings, section="sso", file=file, environ={}).overrides == {}


def test_what_it_remembers_ends_with_the_boot_of_gw() -> None:
    assert f"RuntimeDirectory={Settings().memory.removeprefix('/run/')}\n" in SERVICE.read_text()
    assert "RuntimeDirectoryPreserve=yes\n" in SERVICE.read_text()
