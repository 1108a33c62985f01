"""Every unit of the house: known to systemd, and shut in as far as it can be."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from services.common.process import run

UNITS = Path(__file__).parents[2] / "units"
SERVICES = sorted(UNITS.glob("*.service"))
# What systemd 257 of the images knows and 252 of Debian 12 does not.
NEWER = ("ImportCredential", "RestartSteps", "RestartMaxDelaySec")


def need(program: str) -> None:
    if shutil.which(program) is None:
        pytest.skip(f"missing capability: {program}")


@pytest.mark.parametrize("path", SERVICES, ids=lambda path: path.name)
def test_a_service_is_little_exposed_or_says_why(path: Path) -> None:
    need("systemd-analyze")
    if re.search(r"^# exposure: \S", path.read_text(), re.MULTILINE):
        return
    done = run(["systemd-analyze", "security", "--offline=true", "--no-pager", str(path)], check=False)
    found = re.search(r"Overall exposure level for \S+: ([0-9.]+)", done.stdout)
    assert found, done.stderr
    assert float(found[1]) < 3.0, done.stdout


@pytest.mark.parametrize("path", sorted(UNITS.glob("*.*")), ids=lambda path: path.name)
def test_a_unit_has_no_setting_that_systemd_ignores(path: Path) -> None:
    need("systemd-analyze")
    done = run(
        ["systemd-analyze", "verify", "--man=no", str(path)], check=False, env={"SYSTEMD_UNIT_PATH": f"{UNITS}:"}
    )
    about = [line for line in done.stderr.splitlines() if str(path) in line or line.startswith(f"{path.name}:")]
    accepted = ("is not executable", *(f"Unknown key '{key}'" for key in NEWER))
    assert [line for line in about if not any(each in line for each in accepted)] == []


def test_hostd_is_an_ordinary_user_with_the_journal_as_its_only_right() -> None:
    text = (UNITS / "backline-hostd.service").read_text()
    assert re.findall(r"^(?:User|SupplementaryGroups|CapabilityBoundingSet)=(.*)$", text, re.MULTILINE) == [
        "backline-hostd", "systemd-journal", "",
    ]  # fmt: skip


def test_the_socket_of_hostd_is_where_its_client_looks() -> None:
    from services.hostd.client import SOCKET

    assert f"ListenStream={SOCKET.removeprefix('unix:')}\n" in (UNITS / "backline-hostd.socket").read_text()
