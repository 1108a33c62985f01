"""`backline hall` answers people and scripts; the manual and the unit are in line with the code."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from services.common.errors import Exit
from services.common.main import run_module
from services.hall.reference import BEGIN, END, field_table
from tests.hall.halls import changed, machine, proposal

SOURCE = Path(__file__).parent.parent.parent
UNIT = SOURCE / "units/backline-hall.service"


def hall(*words: str | Path) -> int:
    return run_module("services.hall.cli", "backline hall", [str(word) for word in words])


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "hall.toml"
    path.write_text(proposal())
    return path


def test_check_says_that_a_hall_is_right(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert hall("check", file) == 0
    assert "right (2 networks, 5 hosts" in capsys.readouterr().out


def test_check_names_file_and_line_of_a_mistake(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file.write_text(changed(('domain = "prolo"', 'domain = "pro_lo"')))
    assert hall("check", file) == Exit.INPUT
    assert re.match(rf"error: {re.escape(str(file))}:\d+: hall\.domain: ", capsys.readouterr().err)


def test_check_answers_scripts(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hall("check", "--json", file)
    assert json.loads(capsys.readouterr().out)["ok"] is True


def test_render_writes_a_tree(file: Path, tmp_path: Path) -> None:
    assert hall("render", file, "--role", "gw", "--host", "gw", "--out", tmp_path / "out") == 0
    assert (tmp_path / "out/etc/hosts").read_text().startswith("# From hall.toml")
    assert hall("render", file, "--role", "gw", "--host", "gw", "--out", tmp_path / "out") == Exit.USAGE


def test_render_answers_scripts(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hall("render", file, "--role", "web", "--host", "web", "--json")
    assert json.loads(capsys.readouterr().out)["/etc/hosts"]["mode"] == "0644"


def test_apply_reload_and_show_go_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    environment = machine(tmp_path)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", environment["CREDENTIALS_DIRECTORY"])
    assert hall("apply", "--root", tmp_path) == 0
    assert hall("reload", "--root", tmp_path) == Exit.INPUT
    capsys.readouterr()
    hall("show", "--root", tmp_path, "--json")
    assert json.loads(capsys.readouterr().out)["configured"] is False
    machine(tmp_path, text=proposal())
    assert hall("reload", "--root", tmp_path) == 0
    capsys.readouterr()
    hall("show", "--root", tmp_path, "--json")
    shown = json.loads(capsys.readouterr().out)
    assert shown["configured"] is True
    assert shown["hall"]["hall"]["domain"] == "prolo"


def test_a_machine_that_cannot_be_written_to_is_an_error_with_its_place(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run").write_text("a file")
    assert hall("apply", "--root", tmp_path) == Exit.HOST
    assert re.match(rf"error: {re.escape(str(tmp_path))}/run\S*: ", capsys.readouterr().err)


def test_machines_need_no_cryptography_to_apply(file: Path) -> None:
    code = (
        "import sys; sys.modules['cryptography'] = None\n"
        "from services.common.main import run_module\n"
        f"sys.exit(run_module('services.hall.cli', 'hall', ['render', {str(file)!r}, '--role', 'gw', '--host', 'gw']))"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], cwd=SOURCE, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_manual_has_the_fields_of_the_code() -> None:
    text = (SOURCE / "docs/hall.md").read_text()
    assert text.partition(BEGIN)[2].partition(END)[0].strip() == field_table().strip(), "run `backline hall fields`"


def test_every_field_is_described() -> None:
    assert not re.search(r"\|\s+\|$", field_table(), re.M)


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="missing capability: systemd-analyze")
def test_the_unit_is_hardened() -> None:
    argv = ["systemd-analyze", "security", "--offline=true", "--threshold=30", "--no-pager", str(UNIT)]
    done = subprocess.run(argv, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_the_unit_comes_before_whatever_reads_what_it_renders() -> None:
    before = {word for line in re.findall(r"^Before=(.*)$", UNIT.read_text(), re.M) for word in line.split()}
    assert {"network-pre.target", "systemd-networkd.service", "systemd-resolved.service", "ssh.service"} <= before
    assert "chrony.service" in before
