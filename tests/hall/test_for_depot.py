"""The depot's settings from a hall are settings that the depot reads."""

from __future__ import annotations

import tomllib
from pathlib import Path

import msgspec

from services.common.settings import read
from services.depot.schema import Settings
from services.hall import for_depot
from tests.hall.halls import hall


def test_receivers_are_the_root_file_servers(tmp_path: Path) -> None:
    found = tomllib.loads(for_depot.settings(hall()))
    assert found["receivers"] == sorted(name for name, host in hall().hosts.items() if host.role == "rhfs")
    assert found["receivers"] != []
    assert found["hall"] == hall().site.name


def test_a_server_without_a_number_of_a_root_file_server_receives_nothing() -> None:
    """Nobody could boot from it, and waiting for it would keep a channel from moving."""
    whole = hall()
    web = msgspec.structs.replace(whole.hosts["web"], role="rhfs")
    found = tomllib.loads(for_depot.settings(msgspec.structs.replace(whole, hosts={**whole.hosts, "web": web})))
    assert found["receivers"] == tomllib.loads(for_depot.settings(whole))["receivers"]


def test_the_depot_reads_them(tmp_path: Path) -> None:
    (tmp_path / "depot.toml").write_text(for_depot.settings(hall()))
    assert read(Settings, section="depot", file=tmp_path / "depot.toml").hall == hall().site.name
