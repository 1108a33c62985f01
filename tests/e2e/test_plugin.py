"""The pytest plugin, in a pytest of its own whose labs are of fake nodes: reports, options, what no assertion saw."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import pytest

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: a lab makes namespaces")
TOPOLOGY = """
name = "fake"
[nodes.node]
role = "gw"
backend = "fake"
hall = false
"""
HEAD = """
import pytest
from e2e.node import PROCESS_EXIT

pytestmark = pytest.mark.lan(topology="{topology}")
"""


OTHERS = ("anyio", "hypothesispytest", "schemathesis", "xdist", "xdist.looponfail")
"""Plugins of the environment that have no part in this, and take two seconds to load."""


class Ran(NamedTuple):
    code: int
    out: str
    report: ElementTree.Element


def run(folder: Path, body: str, *options: str, typed: str = "") -> Ran:
    """Run tests with the body `body` in a pytest of their own, without the project's configuration."""
    (folder / "topology.toml").write_text(TOPOLOGY)
    (folder / "test_it.py").write_text(HEAD.format(topology=folder / "topology.toml") + body)
    argv = [sys.executable, "-m", "pytest", "-c", os.devnull, f"--rootdir={folder}", "-p", "no:cacheprovider"]
    argv += [word for name in OTHERS for word in ("-p", f"no:{name}")]
    argv += [f"--junitxml={folder}/report.xml", *options, str(folder / "test_it.py")]
    environment = {**os.environ, "TMPDIR": str(folder)}  # journals that are kept to be looked at
    done = subprocess.run(
        argv, input=typed, text=True, capture_output=True, check=False, cwd=folder, env=environment, timeout=120
    )
    return Ran(done.returncode, done.stdout + done.stderr, ElementTree.parse(folder / "report.xml").getroot())


def test_a_lab_is_there_and_a_good_test_passes(tmp_path: Path) -> None:
    ran = run(tmp_path, "def test_good(lab):\n    assert lab['node'].state == 'up'\n")
    assert ran.code == 0, ran.out
    assert "lan: --lan-seed=" in ran.out


def test_a_core_dump_fails_a_test_whose_asserts_passed(tmp_path: Path) -> None:
    body = """
def test_dump(lab):
    fields = {"MESSAGE_ID": PROCESS_EXIT, "EXIT_CODE": "dumped", "UNIT": "some.service", "MESSAGE": "code=dumped"}
    lab.journal.add("node", fields)

def test_after(lab):
    pass
"""
    ran = run(tmp_path, body)
    assert ran.code == 1
    assert "node: some.service dumped core" in ran.out
    assert "1 failed, 1 passed" in ran.out, "and no test after it"


def test_a_core_dump_while_the_lab_was_started_fails_its_first_test(tmp_path: Path) -> None:
    body = """
@pytest.fixture
def dumped(lab):
    fields = {"MESSAGE_ID": PROCESS_EXIT, "EXIT_CODE": "killed", "EXIT_STATUS": "11", "UNIT": "early.service"}
    lab.journal.add("node", fields)

def test_good(dumped, lab):
    pass
"""
    ran = run(tmp_path, body)
    assert (ran.code, "node: early.service dumped core" in ran.out) == (1, True)


def test_a_failure_names_the_journal_that_was_kept_and_the_seed(tmp_path: Path) -> None:
    ran = run(tmp_path, "def test_bad(lab):\n    assert lab is None\n", "--lan-seed=7")
    assert ran.code == 1
    path = Path(ran.out.partition("backline lan journal --file ")[2].split()[0])
    assert path.exists()
    path.unlink()
    assert "seed: 7" in ran.out


def test_keeping_keeps_the_journal_of_a_good_test(tmp_path: Path) -> None:
    ran = run(tmp_path, "def test_good(lab):\n    pass\n", "--lan-keep", "-s")
    assert ran.code == 0
    path = Path(ran.out.partition("backline lan journal --file ")[2].split()[0])
    assert "test_good" in path.read_text()
    path.unlink()


def test_the_prompt_has_the_lab_at_the_moment_of_failure(tmp_path: Path) -> None:
    typed = "print('it is', lab['node'].state, 'and', node.name)\n"
    ran = run(tmp_path, "def test_bad(lab):\n    assert lab is None\n", "--lan-repl", typed=typed)
    assert ran.code == 1
    assert "`lab` is the lab; Ctrl-D goes on" in ran.out
    assert "it is up and node" in ran.out
    Path(ran.out.partition("backline lan journal --file ")[2].split()[0]).unlink()


def test_a_topology_for_all_replaces_that_of_every_test(tmp_path: Path) -> None:
    (tmp_path / "other.toml").write_text(TOPOLOGY.replace("[nodes.node]", "[nodes.other]"))
    ran = run(
        tmp_path,
        "def test_names(lab):\n    assert list(lab.nodes) == ['other']\n",
        f"--lan-topology={tmp_path}/other.toml",
    )
    assert ran.code == 0, ran.out


def test_seats_run_in_the_back_end_that_was_chosen_and_servers_in_their_own(tmp_path: Path) -> None:
    seat = '[nodes.seat]\nrole = "nfsroot"\nseat = true\nhall = false\n'
    (tmp_path / "seats.toml").write_text(TOPOLOGY + seat)
    body = """
def test_seat(lab):
    assert lab.backend_of(lab["seat"]).name == "fake"
    assert lab["seat"].state == "up"
"""
    ran = run(tmp_path, body, f"--lan-topology={tmp_path}/seats.toml", "--lan-backend=fake")
    assert ran.code == 0, ran.out


def test_a_report_has_the_versions_under_test(tmp_path: Path) -> None:
    body = """
@pytest.fixture(autouse=True)
def _named(monkeypatch):
    from e2e.lab import Lab
    monkeypatch.setattr(Lab, "versions", lambda self: {"node": "gw/20260131.0123456789ab"})

def test_good(_named, lab):
    pass
"""
    report = run(tmp_path, body).report
    found = {each.get("name"): each.get("value") for each in report.iter("property")}
    assert found == {"version.node": "gw/20260131.0123456789ab"}
