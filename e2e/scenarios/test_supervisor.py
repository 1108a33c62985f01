"""The supervisor with a real systemd: what it changes is there, comes back after a boot, and can always be undone."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from e2e.lab import Lab
from e2e.node import Node

pytestmark = [pytest.mark.lan(topology="single"), pytest.mark.images]

CLOCK = """
[units."clock.service"]
enabled = true
running = true
file = \"\"\"
[Service]
ExecStart=/usr/bin/sleep infinity
[Install]
WantedBy=multi-user.target
\"\"\"
[units."clock.service".drop_ins]
10-memory = \"\"\"
[Service]
MemoryMax=64M
\"\"\"
[units."chrony.service"]
enabled = false
running = false
"""
FALLING = CLOCK.replace("/usr/bin/sleep infinity", "/usr/bin/false")
SLOW = CLOCK.replace("[Service]\nExecStart=", "[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=").replace(
    "sleep infinity", "sleep 5"
)
SUPERVISOR = "backline-hostd-supervisor.service"


def apply(node: Node, document: str, *, works: bool = True) -> Any:
    """Apply a document, and return the job as JSON."""
    node.put("/root/document.toml", document)
    argv = ["backline", "host", "apply", "/root/document.toml", "--why", "a scenario", "--json"]
    return json.loads(node.succeeds(*argv) if works else node.fails(*argv).stdout)


def host(node: Node, *words: str) -> Any:
    return json.loads(node.succeeds("backline", "host", *words, "--json"))


@pytest.fixture
def gw(lab: Lab) -> Node:
    node = lab["gw"]
    node.wait_for_socket("/run/backline/supervisor.sock")
    return node


def test_at_rest_there_is_no_process_with_rights(gw: Node) -> None:
    assert gw.unit(SUPERVISOR).active == "inactive"
    assert host(gw, "history")["newest"] == 0
    assert gw.unit(SUPERVISOR).active == "active"
    assert gw.unit("backline-hostd-again.service").result in ("", "success")


def test_a_document_comes_into_force_and_is_taken_back(gw: Node) -> None:
    job = apply(gw, CLOCK)
    assert (job["state"], job["generation"]) == ("done", 1)
    clock = gw.unit("clock.service")
    assert (clock.active, clock.file_state) == ("active", "enabled")
    assert gw.succeeds("systemctl", "show", "clock.service", "-P", "MemoryMax").strip() == str(64 * 1024 * 1024)
    chrony = gw.unit("chrony.service")
    assert (chrony.active, chrony.file_state) == ("inactive", "disabled")
    assert host(gw, "show")["observed"]["drift"] == []

    assert json.loads(gw.succeeds("backline", "host", "rollback", "--json"))["state"] == "done"
    assert gw.fails("systemctl", "cat", "clock.service").returncode != 0
    chrony = gw.unit("chrony.service")
    assert (chrony.active, chrony.file_state) == ("active", "enabled")


def test_what_falls_over_is_taken_back_and_says_why(gw: Node) -> None:
    job = apply(gw, FALLING, works=False)
    assert (job["state"], job["failure"]["unit"]) == ("reverted", "clock.service")
    assert job["failure"]["code"] == "apply.unsettled"
    assert gw.unit("chrony.service").active == "active"
    assert gw.failed_units() == []


def test_what_systemd_would_not_take_is_refused_with_its_line(gw: Node) -> None:
    gw.put("/root/document.toml", CLOCK.replace("MemoryMax", "MemoryMaxx"))
    done = gw.fails("backline", "host", "plan", "/root/document.toml")
    assert "clock.service.d/10-memory.conf:2" in done.stderr


@pytest.mark.parametrize("document", [SLOW])
def test_a_supervisor_that_is_killed_goes_on(gw: Node, document: str) -> None:
    gw.put("/root/document.toml", document)
    before = host(gw, "history")["newest"]
    running = gw.run_in_background(["backline", "host", "apply", "/root/document.toml", "--why", "killed"])
    gw.wait_until("it starts the unit", lambda: gw.unit("clock.service").active == "activating")
    gw.succeeds("systemctl", "kill", "--signal=KILL", SUPERVISOR)
    running.wait(timeout=30)
    gw.wait_until("it is in force", lambda: host(gw, "history")["in_force"] == before + 1, seconds=60)
    assert (gw.unit("clock.service").active, gw.unit("chrony.service").active) == ("active", "inactive")
    assert host(gw, "rollback")["state"] == "done"


def test_what_is_in_force_is_there_again_after_a_boot(gw: Node) -> None:
    apply(gw, CLOCK)
    gw.reboot()
    gw.wait_for_unit("clock.service")
    gw.wait_until("chrony is off again", lambda: gw.unit("chrony.service").active == "inactive")
    gw.wait_until("it is settled", lambda: gw.unit("backline-hostd-again.service").active == "inactive")
    assert host(gw, "show")["observed"]["drift"] == []
    assert host(gw, "rollback")["state"] == "done"


def test_a_unit_is_restarted_by_name(gw: Node) -> None:
    before = gw.unit("chrony.service").main_pid
    assert host(gw, "restart", "chrony.service")["result"] == "done"
    assert gw.unit("chrony.service").main_pid not in (0, before)
    gw.fails("backline", "host", "restart", "none.service")
    job = host(gw, "start", "systemd-networkd.service")
    assert job["state"] == "done"


def test_a_list_of_300_units_takes_20_ms(gw: Node) -> None:
    for number in range(200):
        gw.put(f"/run/systemd/system/many-{number}.target", f"[Unit]\nDescription=Number {number}\n")
    gw.succeeds("systemctl", "daemon-reload")
    gw.succeeds("systemctl", "start", *(f"many-{number}.target" for number in range(200)))
    url = "http://localhost/v1/units"
    times = []
    for _ in range(20):
        words = [
            "curl",
            "-s",
            "-o",
            "/dev/null",
            "-w",
            "%{time_total}",
            "--unix-socket",
            "/run/backline/hostd.sock",
            url,
        ]
        times.append(float(gw.succeeds(*words)))
    count = len(json.loads(gw.succeeds("backline", "hostd", "units", "--json"))["units"])
    print(f"{count} units: median {sorted(times)[10] * 1000:.1f} ms, best {min(times) * 1000:.1f} ms")
    assert count > 250
    assert min(times) < 0.1


def test_hostd_and_supervisor_are_small_at_rest(gw: Node) -> None:
    host(gw, "show")
    for unit in ("backline-hostd.service", SUPERVISOR):
        shown = gw.succeeds("systemctl", "show", unit, "-P", "MemoryCurrent", "-P", "CPUUsageNSec").split()
        cpu = int(shown[1])
        began = time.monotonic()
        gw.succeeds("sleep", "10")
        later = int(gw.succeeds("systemctl", "show", unit, "-P", "CPUUsageNSec"))
        share = (later - cpu) / 1e9 / (time.monotonic() - began)
        print(f"{unit}: {int(shown[0]) / 1e6:.1f} MB, {share:.3%} of a core")
        assert int(shown[0]) < 80e6
        assert share < 0.02
