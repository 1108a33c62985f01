"""`backline lan` as a newcomer and an administrator use it, from another terminal."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from builder.settings import Settings
from e2e.pool import Labs
from services.common.process import Completed, run

pytestmark = [pytest.mark.images, pytest.mark.needs("root", "cgroup2", "namespaces", "systemd-nspawn")]
BACKLINE = Path(sys.executable).with_name("backline")


@pytest.fixture(scope="module")
def settings(labs: Labs) -> Settings:
    assert labs.settings is not None
    labs.close()
    return labs.settings


@pytest.fixture(scope="module")
def up(settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[subprocess.Popen[str]]:
    """`backline lan up` with one seat, which has said that it is up; what it printed is its `.said`."""
    environment = {**os.environ, "BACKLINE_BUILD_STORE": settings.store, "BACKLINE_BUILD_CACHE": settings.cache}
    argv = [str(BACKLINE), "lan", "up", "--seats", "1", "--name", "newcomer"]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if line.startswith("Ctrl-C"):
            break
    process.said = "".join(lines)  # type: ignore[attr-defined]
    yield process
    if process.poll() is None:
        process.kill()
    process.communicate()


def lan(*words: str, check: bool = True) -> Completed:
    return run([BACKLINE, "lan", words[0], "--lab", "newcomer", *words[1:]], check=check)


def test_up_prints_machines_pages_and_what_to_try(up: subprocess.Popen[str]) -> None:
    said = up.said  # type: ignore[attr-defined]
    for word in ("gw", "rhfs01", "web", "pas-r01p01", "192.168.1.254", "192.168.0.1", "backline lan shell"):
        assert word in said


def test_a_page_that_up_names_can_be_opened_from_the_host(up: subprocess.Popen[str]) -> None:
    address = re.search(r"http://127\.0\.0\.1:\d+/v1/host", up.said)  # type: ignore[attr-defined]
    assert address is not None
    with urllib.request.urlopen(address[0], timeout=10) as answer:
        assert json.load(answer)["role"] == "gw"


@pytest.mark.usefixtures("up")
def test_status_tells_every_machine() -> None:
    status = json.loads(lan("status", "--json").stdout)
    assert {node["name"]: node["state"] for node in status["nodes"]} == dict.fromkeys(
        ("gw", "rhfs01", "web", "pas-r01p01"), "up"
    )


@pytest.mark.usefixtures("up")
def test_run_runs_in_the_machine_and_has_its_exit_code() -> None:
    assert lan("run", "web", "hostname").stdout == "web\n"
    assert lan("run", "web", "sh", "-c", "exit 7", check=False).returncode == 7


@pytest.mark.usefixtures("up")
def test_a_cable_is_cut_told_and_healed() -> None:
    assert lan("cut", "web:0").stdout == "web:0: cut\n"
    assert "wrong: web:0 cut" in lan("status").stdout
    assert lan("heal").stdout == "nothing is wrong with the network\n"


@pytest.mark.usefixtures("up")
def test_a_crashed_machine_is_started_again() -> None:
    assert lan("crash", "web").stdout.startswith("web: off")
    assert lan("start", "web").stdout.startswith("web: up after")


@pytest.mark.usefixtures("up")
def test_one_seat_more_joins_with_an_address() -> None:
    assert re.match(r"pas-r01p02: up after [0-9.]+ s, nfsroot/\S+ 192\.168\.0\.\d+", lan("boot", "pas-r01p02").stdout)


@pytest.mark.usefixtures("up")
def test_its_administrator_has_gws_services_and_what_the_lab_begins_with_is_published() -> None:
    found = json.loads(lan("admin", "backline", "depot", "history", "stable", "--json").stdout)
    (first,) = found["publications"]
    assert (first["signed_by"], first["receivers"]) == (["lab"], ["rhfs01"])
    assert [each["state"] for each in first["progress"]] == ["confirmed"]
    done = lan("admin", "backline", "root", "rollback", check=False)
    assert (done.returncode, "nothing to go back to" in done.stderr) == (8, True)
    assert lan("admin", "sh", "-c", "exit 7", check=False).returncode == 7


@pytest.mark.usefixtures("up")
def test_a_seat_boots_what_netboot_says_and_nothing_else() -> None:
    version = json.loads(lan("status", "--json").stdout)["nodes"][-1]["version"]
    done = lan("reboot", "pas-r01p01", "--version", version, check=False)
    assert (done.returncode, "boots what netboot says" in done.stderr) == (2, True)
    why = lan("admin", "backline", "why", "pas-r01p01").stdout
    assert why.startswith(f"pas-r01p01 boots nfsroot {version} from rfs")
    assert "!!" not in why


@pytest.mark.usefixtures("up")
def test_the_journal_is_filtered_by_machine_and_unit() -> None:
    lines = lan("journal", "--node", "gw", "--unit", "kea-dhcp4-server.service").stdout.splitlines()
    assert lines
    assert all(" gw " in line for line in lines)


@pytest.mark.usefixtures("up")
def test_top_counts_memory_by_machine() -> None:
    found = json.loads(lan("top", "--json").stdout)
    assert 5e6 < found["gw"]["memory"] < 1e9


@pytest.mark.usefixtures("up")
def test_a_port_is_forwarded() -> None:
    address = lan("forward", "web", "20210").stdout.strip()
    with urllib.request.urlopen(f"http://{address}/healthz", timeout=10) as answer:
        assert answer.status == 200


@pytest.mark.usefixtures("up")
def test_the_hall_at_a_glance_is_reachable_and_every_host_is_up() -> None:
    found = re.search(r"(127\.0\.0\.1:\d+) → gw:overview", lan("status").stdout)
    assert found
    with urllib.request.urlopen(f"http://{found[1]}/v1/hall", timeout=15) as answer:
        hall = json.load(answer)
    states = {host["name"]: host["state"] for host in hall["hosts"]}
    assert {states["gw"], states["web"]} <= {"up", "degraded"}
    with urllib.request.urlopen(f"http://{found[1]}/", timeout=15) as answer:
        assert 'id="host-gw"' in answer.read().decode()


@pytest.mark.usefixtures("up")
@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("shell", "wbe"), "did you mean web?"),
        (("cut", "web:9"), "web:0"),
        (("run", "web"), "backline lan run NODE PROGRAM"),
        (("crash", "nobody"), "there are: gw"),
    ],
)
def test_a_mistake_is_one_line_and_a_hint(words: tuple[str, ...], code: str) -> None:
    done = lan(*words, check=False)
    assert done.returncode not in (0, 1)
    assert "Traceback" not in done.stderr
    assert code in done.stderr


def test_ctrl_c_stops_it_all(up: subprocess.Popen[str]) -> None:
    up.send_signal(signal.SIGINT)
    _, errors = up.communicate(timeout=30)
    assert up.returncode == 0
    assert "Traceback" not in errors
    assert "newcomer" not in run([BACKLINE, "lan", "list"]).stdout


def test_without_a_lab_the_others_say_how_to_start_one() -> None:
    done = run([BACKLINE, "lan", "status", "--lab", "newcomer"], check=False)
    assert done.returncode == 4
    assert "no lab newcomer is running" in done.stderr


def test_probe_names_what_is_there_and_what_is_missing() -> None:
    found = json.loads(run([BACKLINE, "lan", "probe", "--json"]).stdout)
    assert found["systemd-nspawn"] == "yes"
