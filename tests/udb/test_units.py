"""udb's units fit the code: who reads what, where who listens, and how little it may do."""

from __future__ import annotations

import shutil
import tomllib
from pathlib import Path

import pytest

from services.common.process import run
from services.hall import edge
from services.hall.for_udb import settings
from services.hall.render import UDB
from services.hall.schema import OF_GW
from services.udb.client import SOCKET
from services.udb.schema import Settings
from services.udb.sealing import CREDENTIAL, KEY_BYTES
from tests.hall.halls import hall

ROOT = Path(__file__).parents[2]
UNITS = ROOT / "units"
SERVICE, KEY = UNITS / "backline-udb.service", UNITS / "backline-udb-key.service"


def test_it_is_where_clients_and_nginx_look() -> None:
    assert f"ListenStream={SOCKET.removeprefix('unix:')}\n" in (UNITS / "backline-udb.socket").read_text()
    (site,) = [site for site in edge.SITES if site.name == "udb"]
    assert site.feeds == ("/v1/feed", "/v1/feed/private")
    assert not site.aliens
    assert "udb" in OF_GW


def test_it_reads_what_hall_toml_says() -> None:
    assert f"--config {UDB}\n" in SERVICE.read_text()
    assert tomllib.loads(settings(hall()))["hall"]


def test_the_key_is_made_where_the_service_takes_it_from() -> None:
    assert f"LoadCredential={CREDENTIAL}:/var/lib/backline/{CREDENTIAL}\n" in SERVICE.read_text()
    made = KEY.read_text()
    assert f"ConditionPathExists=!/var/lib/backline/{CREDENTIAL}\n" in made
    assert f"head -c {KEY_BYTES} /dev/urandom >{CREDENTIAL}.new" in made
    assert "Before=backline-udb.service\n" in made


def test_no_core_dump_has_passwords_or_their_key() -> None:
    assert "LimitCORE=0\n" in SERVICE.read_text()


def test_the_group_that_verifies_users_is_in_the_image() -> None:
    ids = tomllib.loads((ROOT / "images/ids.toml").read_text())["id"]
    names = {each["name"] for each in ids if "udb" in each["needs"]}
    assert names == {"backline-udb", *Settings().private_groups}


@pytest.mark.parametrize("unit", [SERVICE, KEY], ids=lambda unit: unit.name)
def test_it_is_little_exposed(unit: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("missing capability: systemd-analyze")
    done = run(
        ["systemd-analyze", "security", "--offline=true", "--no-pager", "--threshold=30", str(unit)], check=False
    )
    assert done.returncode == 0, done.stdout
