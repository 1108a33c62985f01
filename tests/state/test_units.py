"""Units, settings and the code of other services fit what is saved here."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from netboot.schema import Settings as Netboot
from services.common.process import run
from services.depot.schema import Settings as Depot
from services.depot.store import NUMBERS as OF_DEPOT
from services.hall import certificates
from services.hall.render import STATE
from services.mdb.schema import Settings as Mdb
from services.rollout.schema import Settings as Rollout
from services.roots.schema import Settings as Roots
from services.state import client, databases, seal
from services.state.parts import NUMBERS, PARTS, STARTED, TOKEN_KEY, UNITS
from services.state.schema import Databases, Settings
from services.state.shelf import JOURNAL
from services.udb.schema import Settings as Udb

UNITS_FOLDER = Path(__file__).parents[2] / "units"
IMAGES = Path(__file__).parents[2] / "images"


def text(name: str) -> str:
    return (UNITS_FOLDER / name).read_text()


def test_databases_are_where_their_services_have_them() -> None:
    assert Databases() == Databases(
        mdb=Mdb().database, udb=Udb().database, netboot=Netboot().database, depot=Depot().database
    )
    assert (Rollout().state, Depot().folder) == tuple(
        part.folder for name in ("rollout", "depot") for part in PARTS if part.name == name
    )
    assert Settings().roots == Roots().folder / "state.json"
    assert NUMBERS == OF_DEPOT


@pytest.mark.parametrize("service", databases.SERVICES)
def test_every_revision_of_a_schema_is_known_in_order(service: str) -> None:
    found = databases.revisions(service)
    files = (databases.CODE / databases.SERVICES[service] / "migrations/versions").glob("[0-9]*.py")
    assert found == sorted(path.name.partition("_")[0] for path in files)
    assert found


def test_the_names_that_two_parts_of_the_house_use_are_the_same() -> None:
    assert certificates.STATE_KEY == seal.CREDENTIAL
    assert certificates.credential(client.SCOPE) == client.CREDENTIAL
    assert f"ListenStream={client.SOCKET.removeprefix('unix:')}\n" in text("backline-state-keeper.socket")
    assert f"ListenStream={client.PORT}\n" in text("backline-state-keeper-tls.socket")
    assert f"ConditionPathExists={Settings().folder}/{JOURNAL}\n" in text("backline-state-restore.service")
    assert f"ConditionPathExists=!{Settings().folder}/{JOURNAL}\n" in text("backline-state.service")
    assert f"ConditionPathExists=!{TOKEN_KEY}\n" in text("backline-hall-key.service")
    for name in ("backline-state.service", "backline-state-restore.service", "backline-state-keeper.service"):
        assert f"--config {STATE}" in text(name)


def test_a_restore_may_write_where_parts_are_and_a_save_where_sqlite_has_to() -> None:
    def writable(unit: str) -> set[str]:
        lines = re.findall(r"^ReadWritePaths=(.*)$", text(unit), re.MULTILINE)
        return {path.lstrip("-") for line in lines for path in line.split()}

    assert writable("backline-state-restore.service") >= {
        part.folder.removesuffix("/backline") if part.name == "authority" else part.folder for part in PARTS
    }
    assert writable("backline-state.service") == {part.folder for part in PARTS if part.database}


def test_a_restore_that_goes_on_at_a_start_is_before_everybody_who_reads() -> None:
    lines = re.findall(r"^Before=(.*)$", text("backline-state-restore.service"), re.MULTILINE)
    after = {unit for line in lines for unit in line.split()}
    own = {unit for unit in UNITS if unit.endswith(".service") and unit != "backline-hostd-supervisor.service"}
    assert after >= own
    presets = (IMAGES / "gw/mkosi.extra/usr/lib/systemd/system-preset/20-backline-gw.preset").read_text()
    enabled = set(re.findall(r"^enable (\S+)$", presets, re.MULTILINE))
    assert {unit for unit in STARTED if "hostd" not in unit} <= enabled
    assert enabled >= {"backline-state.timer", "backline-state-restore.service", "backline-state-keeper.socket"}


def test_saving_is_root_that_can_only_become_others() -> None:
    assert re.findall(r"^CapabilityBoundingSet=(.*)$", text("backline-state.service"), re.MULTILINE) == [
        "CAP_SETUID CAP_SETGID"
    ]
    assert "\nPrivateNetwork=yes\n" in text("backline-state.service")
    keeper = text("backline-state-keeper.service")
    assert re.findall(r"^(?:User|CapabilityBoundingSet)=(.*)$", keeper, re.MULTILINE) == ["backline-state", ""]
    assert "backline.state\n" not in keeper, "who has the network has no key"


def test_a_root_file_server_needs_no_driver_of_a_database() -> None:
    """Its image has none."""
    code = "import sys, services.state.app, services.state.cli; print(sorted(sys.modules))"
    loaded = run([sys.executable, "-c", code]).stdout
    for module in ("sqlalchemy", "psycopg", "alembic", "cryptography"):
        assert f"'{module}'" not in loaded
