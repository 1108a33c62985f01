"""Presence's units fit the code: where it listens, whom it believes, and what is its own."""

from __future__ import annotations

import re
from pathlib import Path

from netboot.schema import Settings as NetbootSettings
from services.hall import edge
from services.hall.schema import OF_GW
from services.presence.client import SOCKET
from services.presence.schema import Settings

UNITS = Path(__file__).parents[2] / "units"
SERVICE = UNITS / "backline-presence.service"


def test_it_is_where_clients_netboot_and_nginx_look() -> None:
    assert f"ListenStream={SOCKET.removeprefix('unix:')}\n" in (UNITS / "backline-presence.socket").read_text()
    assert NetbootSettings().presence == SOCKET
    assert "presence" in {site.name for site in edge.SITES}
    assert "presence" in OF_GW


def test_who_brings_heartbeats_is_netboot() -> None:
    found = re.search(r"^User=(\S+)$", (UNITS / "backline-netboot.service").read_text(), re.MULTILINE)
    assert found
    assert Settings().heartbeat_groups == [found[1]]


def test_its_state_is_its_own() -> None:
    text = SERVICE.read_text()
    assert "StateDirectory=backline-presence\nStateDirectoryMode=0700\n" in text
    assert Settings().database.startswith(f"sqlite:///{Settings().memory}/")
    assert Settings().memory == "/var/lib/backline-presence"
    assert "UMask=0077\n" in text, "it remembers hashes of passwords"
    assert "LimitCORE=0\n" in text, "passwords are in its memory"
