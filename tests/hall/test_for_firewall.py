"""The firewall's settings as hall.toml gives them, read by its own reader."""

from __future__ import annotations

from ipaddress import IPv4Address
from pathlib import Path

from services.common.settings import read
from services.common.users import UserGroup
from services.firewall.plan import Bounds
from services.firewall.schema import Settings
from services.hall.render import FIREWALL, Identity, render
from services.hall.schema import Hall
from tests.hall.halls import hall


def settings(tmp_path: Path, of: Hall) -> Settings:
    file = tmp_path / "firewall.toml"
    file.write_text(render(of, Identity("gw", "gw"))[FIREWALL].content)
    return read(Settings, section="firewall", file=file, environ={})


def test_gw_is_told_networks_servers_and_groups(tmp_path: Path) -> None:
    found = settings(tmp_path, hall())
    assert found.networks == ["192.168.0.0/23", "192.168.250.0/24"]
    assert found.aliens == ["192.168.250.0/24"]
    assert found.services[0] == "192.168.1.1-192.168.1.127"
    assert found.allowed_groups == list(UserGroup)
    assert found.strict_sources
    bounds = Bounds.of(found)
    assert any(IPv4Address("192.168.1.10") in span for span in bounds.servers)
    assert FIREWALL not in render(hall(), Identity("web", "web"))


def test_it_is_told_whose_users_get_out(tmp_path: Path) -> None:
    found = hall(('allowed_groups = ["user", "orga", "root"]', 'allowed_groups = ["orga", "root"]'))
    assert settings(tmp_path, found).allowed_groups == [UserGroup.ORGA, UserGroup.ROOT]
