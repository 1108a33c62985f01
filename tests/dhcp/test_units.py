"""The units of DHCP on gw fit the code: who reads what, and where who listens."""

from __future__ import annotations

import re
from pathlib import Path

from services.dhcp.client import SOCKET
from services.dhcp.generations import CONFIGURATION
from services.dhcp.schema import Settings
from services.hall.render import DHCP

ROOT = Path(__file__).parents[2]
UNITS = ROOT / "units"
KEA = ROOT / "images/gw/mkosi.extra/usr/lib/systemd/system/kea-dhcp4-server.service.d/10-backline.conf"


def test_the_socket_is_where_clients_look() -> None:
    assert f"ListenStream={SOCKET.removeprefix('unix:')}\n" in (UNITS / "backline-dhcp.socket").read_text()


def test_kea_starts_with_what_the_service_keeps() -> None:
    settings = Settings()
    assert f"kea-dhcp4 -c {settings.state}/current/{CONFIGURATION}\n" in KEA.read_text()
    for unit in ("backline-dhcp.service", "backline-dhcp-prepare.service"):
        assert f"StateDirectory={settings.state.name}\n" in (UNITS / unit).read_text()


def test_both_read_what_hall_toml_says() -> None:
    for unit in ("backline-dhcp.service", "backline-dhcp-prepare.service"):
        assert f"--config {DHCP}\n" in (UNITS / unit).read_text()


def test_kea_has_its_configuration_looked_at_before_each_start_and_mdb_is_waited_for_by_nobody() -> None:
    assert "Requires=backline-dhcp-prepare.service\nAfter=backline-dhcp-prepare.service\n" in KEA.read_text()
    for path in (KEA, *UNITS.glob("backline-dhcp*")):
        orders = re.findall(r"^(?:After|Requires|Wants|BindsTo)=(.*)$", path.read_text(), re.MULTILINE)
        assert not [order for order in orders if "mdb" in order], path
