"""The supervisor with a real systemd: what it changes is there, comes back after a boot, and can always be undone."""

from __future__ import annotations

import json
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
[units."ssh.service"]
enabled = false
running = false
"""
FALLING = CLOCK.replace("/usr/bin/sleep infinity", "/usr/bin/false")
SLOW = CLOCK.replace("[Service]\nExecStart=", "[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=").replace(
    "sleep infinity", "sleep 5"
)
LIST = """
import socket, time
for number in range(20):
    began = time.perf_counter()
    with socket.socket(socket.AF_UNIX) as client:
        client.connect("/run/backline/hostd.sock")
        client.sendall(b"GET /v1/units HTTP/1.1\\r\\nHost: x\\r\\nConnection: close\\r\\n\\r\\n")
        while client.recv(65536):
            pass
    print(time.perf_counter() - began)
"""
SUPERVISOR = "backline-hostd-supervisor.service"


def apply(node: Node, document: str, *, works: bool = True) -> Any:
    """Apply a document, and return the job as JSON."""
    node.put("/root/document.toml", document)
    argv = ["backline", "host", "apply", "/root/document.toml", "--why", "a scenario", "--json"]
    return json.loads(node.succeeds(*argv) if works else node.fails(*argv).stdout)


def host(node: Node, *words: str) -> Any:
    return json.loads(node.succeeds("backline", "host", *words, "--json"))


def state(node: Node, unit: str) -> str:
    """How a unit is; empty for one that does not exist."""
    return "".join(each.active for each in node.units() if each.name == unit)


@pytest.fixture
def gw(lab: Lab) -> Node:
    node = lab["gw"]
    node.wait_for_unit("backline-hostd-supervisor.socket")
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
    ssh = gw.unit("ssh.service")
    assert (ssh.active, ssh.file_state) == ("inactive", "disabled")
    assert host(gw, "show")["observed"]["drift"] == []

    assert json.loads(gw.succeeds("backline", "host", "rollback", "--json"))["state"] == "done"
    assert gw.fails("systemctl", "cat", "clock.service").returncode != 0
    ssh = gw.unit("ssh.service")
    assert (ssh.active, ssh.file_state) == ("active", "enabled")


def test_what_falls_over_is_taken_back_and_says_why(gw: Node) -> None:
    job = apply(gw, FALLING, works=False)
    assert (job["state"], job["failure"]["unit"]) == ("reverted", "clock.service")
    assert job["failure"]["code"] == "apply.unsettled"
    assert gw.unit("ssh.service").active == "active"
    assert gw.failed_units() == []


def test_what_systemd_would_not_take_is_refused_with_its_line(gw: Node) -> None:
    gw.put("/root/document.toml", CLOCK.replace("MemoryMax", "MemoryMaxx"))
    done = gw.fails("backline", "host", "plan", "/root/document.toml")
    assert "clock.service.d/10-memory.conf:2" in done.stderr


def test_a_supervisor_that_is_killed_goes_on(gw: Node) -> None:
    gw.put("/root/document.toml", SLOW)
    before = host(gw, "history")["newest"]
    running = gw.run_in_background(["backline", "host", "apply", "/root/document.toml", "--why", "killed"])
    gw.wait_until("it starts the unit", lambda: state(gw, "clock.service") == "activating")
    gw.succeeds("systemctl", "kill", "--signal=KILL", SUPERVISOR)
    running.wait(timeout=30)
    gw.wait_until("it is in force", lambda: host(gw, "history")["in_force"] == before + 1, seconds=60)
    assert (gw.unit("clock.service").active, gw.unit("ssh.service").active) == ("active", "inactive")
    assert host(gw, "rollback")["state"] == "done"


def test_a_systemd_that_is_upgraded_meanwhile_loses_nothing(gw: Node) -> None:
    """It comes back on the bus under another name; jobs go on, and their end may go unheard."""
    gw.put("/root/document.toml", SLOW)
    running = gw.run_in_background(["backline", "host", "apply", "/root/document.toml", "--why", "upgraded"])
    gw.wait_until("it starts the unit", lambda: state(gw, "clock.service") == "activating")
    gw.succeeds("systemctl", "daemon-reexec")
    assert running.wait(timeout=30) == 0
    assert (gw.unit("clock.service").active, gw.unit("ssh.service").active) == ("active", "inactive")
    assert host(gw, "rollback")["state"] == "done"


def test_what_is_in_force_is_there_again_after_a_boot(gw: Node) -> None:
    apply(gw, CLOCK)
    gw.reboot()
    gw.wait_for_unit("clock.service")
    gw.wait_until("ssh is off again", lambda: gw.unit("ssh.service").active == "inactive")
    gw.wait_until("it is settled", lambda: gw.unit("backline-hostd-again.service").active == "inactive")
    assert host(gw, "show")["observed"]["drift"] == []
    assert host(gw, "rollback")["state"] == "done"


def test_a_host_that_goes_down_in_the_middle_goes_on_at_its_next_boot(gw: Node) -> None:
    gw.put("/root/document.toml", SLOW)
    before = host(gw, "history")["newest"]
    running = gw.run_in_background(["backline", "host", "apply", "/root/document.toml", "--why", "reboot"])
    gw.wait_until("it starts the unit", lambda: state(gw, "clock.service") == "activating")
    gw.reboot()
    running.wait(timeout=30)
    gw.wait_until("it is in force", lambda: host(gw, "history")["in_force"] == before + 1, seconds=60)
    assert (gw.unit("clock.service").active, gw.unit("ssh.service").active) == ("active", "inactive")
    assert host(gw, "rollback")["state"] == "done"


def test_a_unit_is_restarted_by_name(gw: Node) -> None:
    before = gw.unit("ssh.service").main_pid
    assert host(gw, "restart", "ssh.service")["result"] == "done"
    assert gw.unit("ssh.service").main_pid not in (0, before)
    gw.fails("backline", "host", "restart", "none.service")
    job = host(gw, "start", "systemd-networkd.service")
    assert job["state"] == "done"


def test_a_list_of_300_units_takes_20_ms(gw: Node) -> None:
    for number in range(200):
        gw.put(f"/run/systemd/system/many-{number}.target", f"[Unit]\nDescription=Number {number}\n")
    gw.succeeds("systemctl", "daemon-reload")
    gw.succeeds("systemctl", "start", *(f"many-{number}.target" for number in range(200)))
    times = [float(line) for line in gw.succeeds("python3", "-c", LIST).splitlines()]
    count = len(json.loads(gw.succeeds("backline", "hostd", "units", "--json"))["units"])
    print(f"{count} units: median {sorted(times)[10] * 1000:.1f} ms, best {min(times) * 1000:.1f} ms")
    assert count > 250
    assert min(times) < 0.02


def test_hostd_and_supervisor_are_small_at_rest(gw: Node) -> None:
    host(gw, "show")
    pids = {unit: gw.unit(unit).main_pid for unit in ("backline-hostd.service", SUPERVISOR)}
    assert 0 not in pids.values()
    before = {unit: seconds_of(gw, pid) for unit, pid in pids.items()}
    gw.succeeds("sleep", "20")
    for unit, pid in pids.items():
        share = (seconds_of(gw, pid) - before[unit]) / 20
        rss = next(line for line in gw.get(f"/proc/{pid}/status").decode().splitlines() if line.startswith("VmRSS"))
        megabytes = int(rss.split()[1]) / 1024
        print(f"{unit}: {megabytes:.1f} MB, {share:.2%} of a core")
        assert megabytes < 60
        assert share < 0.005


def seconds_of(node: Node, pid: int) -> float:
    """Processor time of a process (proc(5), stat, fields 14 and 15, in hundredths)."""
    fields = node.get(f"/proc/{pid}/stat").decode().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100
