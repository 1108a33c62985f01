"""`backline machine`, as it is typed; on an iron in a folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from services.common.errors import InputError, UsageError
from services.common.main import run_module
from services.hostd import machine_cli
from services.hostd.machines_schema import Card
from tests.hall.halls import hall
from tests.hostd.machines_rig import FAILING, NAME, NEW, OLD, ROLE, Rig


@pytest.fixture
def rig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Rig:
    made = Rig(tmp_path)
    made.furnish()
    made.machines.create(NAME, ROLE, version=OLD)
    made.machines.settle(NAME)
    monkeypatch.setattr(machine_cli, "_machines", lambda: made.machines)
    return made


def backline(*words: str) -> int:
    return run_module("services.hostd.machine_cli", "backline machine", list(words))


def test_list_shows_each_machine_on_a_line(rig: Rig, capsys: pytest.CaptureFixture[str]) -> None:
    assert backline("list") == 0
    assert capsys.readouterr().out.split() == [NAME, ROLE, OLD, "active"]


def test_list_is_for_programs_too(rig: Rig, capsys: pytest.CaptureFixture[str]) -> None:
    rig.machines.plan_upgrade(NAME, NEW)
    assert backline("list", "--json") == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert (found["name"], found["state"], found["change"]) == (NAME, "active", f"to {NEW}: planned")


def test_show_tells_what_was_kept_and_why(rig: Rig, capsys: pytest.CaptureFixture[str]) -> None:
    rig.machines.plan_upgrade(NAME, FAILING, gate_seconds=10, settle_seconds=1)
    rig.machines.settle(NAME)
    assert backline("show", NAME) == 0
    text = capsys.readouterr().out
    assert f"{rig.machines.records.home(NAME)}/var-2: what {FAILING} wrote until it was taken back" in text
    assert f"reverted {OLD}, away from {FAILING}: units failed: broken.service" in text


def test_an_unknown_machine_is_named_with_a_hint(rig: Rig, capsys: pytest.CaptureFixture[str]) -> None:
    assert backline("show", "ome") == 4
    assert capsys.readouterr().err == "error: there is no machine ome on this host\n  hint: did you mean one?\n"


def test_images_say_which_are_in_use(rig: Rig, capsys: pytest.CaptureFixture[str]) -> None:
    assert backline("images") == 0
    lines = capsys.readouterr().out.splitlines()
    assert f"{ROLE}@{OLD}  in use" in lines
    assert f"{ROLE}@{NEW}" in lines


def test_a_version_in_use_is_not_dropped(rig: Rig, capsys: pytest.CaptureFixture[str]) -> None:
    assert backline("drop-image", f"{ROLE}@{OLD}") == 8
    assert "is what one runs or can go back to" in capsys.readouterr().err
    assert backline("drop-image", f"{ROLE}@{NEW}") == 0


def test_a_secret_comes_from_a_file(rig: Rig, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "key").write_bytes(b"hush")
    assert backline("credential", NAME, "backline.tls", str(tmp_path / "key")) == 0
    assert "hush" not in capsys.readouterr().out
    assert (rig.folder / "credstore/backline.machines/one/backline.tls").read_bytes() == b"hush"


@pytest.mark.parametrize("name", ["../x", ".x", "a/b", "a:b"])
def test_a_secret_has_the_name_of_a_credential(rig: Rig, tmp_path: Path, name: str) -> None:
    (tmp_path / "key").write_bytes(b"hush")
    assert backline("credential", NAME, name, str(tmp_path / "key")) == 2
    assert not (rig.folder / "credstore").exists()


def test_settle_and_boot_are_what_units_run(rig: Rig) -> None:
    rig.iron.reboot()
    assert backline("boot") == 0
    assert rig.iron.world.woken == [NAME]
    assert backline("settle", NAME) == 0
    assert NAME in rig.iron.world.runs


@pytest.mark.parametrize(
    ("text", "card"),
    [
        ("bridge:br0", Card(kind="bridge", on="br0")),
        ("macvlan:eno1,52:54:00:AB:CD:EF", Card(kind="macvlan", on="eno1", mac="52:54:00:ab:cd:ef")),
    ],
)
def test_a_card_is_typed_like_this(text: str, card: Card) -> None:
    assert machine_cli._card(text) == card


@pytest.mark.parametrize("text", ["br0", "veth:br0", "bridge:", "bridge:a b", "bridge:br0,nonsense"])
def test_a_card_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is no card"):
        machine_cli._card(text)


def test_a_server_of_hall_toml_hangs_on_what_it_says() -> None:
    changed = hall(('addresses = { hall = "192.168.1.10" }', 'bridge = "br0"\naddresses = { hall = "192.168.1.10" }'))
    assert changed.hosts["rhfs01"].nics[0].bridge == "br0"


@pytest.mark.parametrize("line", ['bridge = "much too long a name"', 'bridge = "br0"\nmacvlan = "eno1"'])
def test_hall_toml_says_one_thing_that_exists(line: str) -> None:
    with pytest.raises(InputError):
        hall(('addresses = { hall = "192.168.1.10" }', f'{line}\naddresses = {{ hall = "192.168.1.10" }}'))
