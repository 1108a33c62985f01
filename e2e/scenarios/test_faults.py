"""Each fault verb does what it says, and heals."""

from __future__ import annotations

import socket
import time
from pathlib import Path

import pytest

from e2e import topology
from e2e.lab import Lab, TestFailed
from e2e.node import CommandFailed, WaitFailed
from e2e.pool import Labs
from services.common.errors import HostError, MissingError, UsageError

pytestmark = [pytest.mark.lan(topology="hall", seats=2), pytest.mark.images]
LLDP = bytes.fromhex("0180c200000e 525400000001 88cc 0000".replace(" ", "")).ljust(60, b"\0")


def reaches(lab: Lab, one: str, two: str) -> bool:
    """Whether a ping gets through within a second."""
    return lab[one].run(["ping", "-c1", "-W1", two], check=False).returncode == 0


def test_a_cut_cable_takes_the_carrier_and_heals(lab: Lab) -> None:
    lab.cut("web:0")
    carrier = ["cat", "/sys/class/net/host0/operstate"]
    lab["web"].wait_until("no carrier", lambda: lab["web"].succeeds(*carrier) != "up")
    assert not reaches(lab, "rhfs01", "192.168.1.100")
    lab.heal("web:0")
    lab["web"].wait_until("the way back", lambda: reaches(lab, "rhfs01", "192.168.1.100"))


def test_a_cut_trunk_parts_the_switches(lab: Lab) -> None:
    near, far = (lab[name] for name in lab.topology.seats())
    far.wait_for_address()
    lab.cut("room-1=server-room")
    assert not reaches(lab, far.name, "192.168.1.254")
    assert reaches(lab, near.name, "192.168.1.254")
    lab.heal()
    far.wait_until("the way back", lambda: reaches(lab, far.name, "192.168.1.254"))


@pytest.mark.parametrize(("card", "other"), [(0, "192.168.1.11"), (1, "192.168.1.10")])
def test_a_server_with_two_cards_survives_one_cable(lab: Lab, card: int, other: str) -> None:
    lab.cut(f"rhfs01:{card}")
    lab["web"].wait_until("the other card", lambda: reaches(lab, "web", other))
    lab["rhfs01"].wait_until("what it starts itself", lambda: reaches(lab, "rhfs01", "192.168.1.254"))


def test_a_partition_parts_two_groups_and_no_others(lab: Lab) -> None:
    lab.partition(["web"], ["rhfs01"])
    assert not reaches(lab, "web", "192.168.1.10")
    assert reaches(lab, "web", "192.168.1.254")
    assert reaches(lab, "rhfs01", "192.168.1.254")
    lab.heal()
    assert reaches(lab, "web", "192.168.1.10")


def test_a_lossy_cable_loses_its_share(lab: Lab) -> None:
    assert reaches(lab, "web", "192.168.1.254")
    lab.lose("web:0", 50)
    text = lab["web"].run(["ping", "-q", "-c200", "-i0.002", "-W1", "192.168.1.254"], check=False).stdout
    lost = float(text.split("% packet loss")[0].split()[-1])
    assert 50 < lost < 95, "both ways lose a half, so three quarters of the answers are missing"
    lab.heal()
    assert " 0% packet loss" in lab["web"].succeeds("ping", "-q", "-c20", "-i0.01", "192.168.1.254")


def test_everything_lost_is_everything(lab: Lab) -> None:
    lab.lose("web:0", 100)
    assert not reaches(lab, "web", "192.168.1.254")


def rate(lab: Lab, megabytes: int) -> float:
    """Bit/s from rhfs01 to web over TCP: bash sends and counts nothing, the clock is the harness's."""
    web, sender = lab["web"], lab["rhfs01"]
    with lab.sandbox.in_network(_listener, netns=lab["web"].netns) as listener:
        began = time.monotonic()
        sending = sender.run_in_background(
            ["bash", "-c", f"head -c {megabytes}000000 /dev/zero > /dev/tcp/{web.address}/4242"]
        )
        connection, _ = listener.accept()
        with connection:
            received = 0
            while data := connection.recv(1 << 20):
                received += len(data)
        seconds = time.monotonic() - began
        sending.wait(timeout=30)
    assert received == megabytes * 1_000_000
    return received * 8 / seconds


def _listener() -> socket.socket:
    listener = socket.create_server(("0.0.0.0", 4242))
    listener.settimeout(10)
    return listener


@pytest.mark.needs("tbf")
def test_a_slow_cable_has_that_rate_and_no_more(lab: Lab) -> None:
    full = rate(lab, 20)
    lab.slow("web:0", rate=20_000_000)
    slowed = rate(lab, 4)
    lab.heal()
    assert slowed < 24_000_000
    assert slowed > 4_000_000, "a busy machine sends less than the cable takes, not a fifth of it"
    assert full > 4 * slowed
    assert rate(lab, 20) > 4 * slowed


@pytest.mark.needs("netem")
def test_a_delayed_cable_delays(lab: Lab) -> None:
    lab.slow("web:0", delay=0.1)
    text = lab["web"].succeeds("ping", "-q", "-c3", "192.168.1.254")
    assert float(text.rpartition(" = ")[2].split("/")[1]) > 90


def test_a_delay_without_netem_is_refused_by_name(lab: Lab) -> None:
    lab.network.netem, before = False, lab.network.netem
    try:
        with pytest.raises(HostError, match="netem"):
            lab.slow("web:0", delay=0.1)
    finally:
        lab.network.netem = before


def test_what_is_wrong_is_told_by_edge(lab: Lab) -> None:
    lab.cut("web:0")
    lab.lose("gw:0", 10)
    assert lab.network.wrong() == {"web:0": "cut", "gw:0": "loses 10 %"}
    lab.heal()
    assert lab.network.wrong() == {}


def test_an_edge_that_is_not_there_is_named_with_the_nearest(lab: Lab) -> None:
    with pytest.raises(MissingError) as caught:
        lab.cut("web:1")
    assert "web:0" in (caught.value.hint or "")


def test_a_partition_of_a_node_from_itself_is_refused(lab: Lab) -> None:
    with pytest.raises(UsageError):
        lab.partition(["web"], ["web", "gw"])


def test_a_frozen_machine_answers_nothing_until_it_is_thawed(lab: Lab) -> None:
    lab["web"].freeze()
    with pytest.raises(OSError, match=r"timed out|refused|unreachable"):
        with lab["gw"].connect((lab["web"].address, 20210), seconds=1) as connection:
            connection.recv(1)  # the kernel accepts, nobody answers
    lab["web"].thaw()
    lab["gw"].wait_for_http(f"http://{lab['web'].address}:20210/healthz")


def test_a_crashed_machine_is_gone_at_once_and_comes_back(lab: Lab) -> None:
    web = lab["web"]
    web.put("/var/lib/kept", "as it was")
    began = time.monotonic()
    web.crash()
    assert time.monotonic() - began < 5  # to shut it down in order takes longer where something hangs: up to 20
    assert web.state == "off"
    assert not reaches(lab, "gw", "192.168.1.100")
    web.start()
    web.wait_ready()
    assert web.get("/var/lib/kept") == b"as it was"


def test_a_machine_that_is_stopped_shuts_down_in_order(lab: Lab) -> None:
    web = lab["web"]
    web.stop()
    assert web.state == "off"
    assert any("Reached target" in entry.message and "Power" in entry.message for entry in web.journal())
    web.start()
    web.wait_ready()


def test_injected_frames_reach_a_segment_or_one_cable(lab: Lab) -> None:
    """LLDP's address is one that switches do not forward: it still reaches whoever is plugged in."""
    with lab.network.listen("gw:0") as gw, lab.network.listen("web:0", seconds=1) as web:
        lab.network.inject("server-room", LLDP)
        assert heard(gw, LLDP)
        assert heard(web, LLDP)
        lab.network.inject("gw:0", LLDP)
        assert heard(gw, LLDP)
        assert not heard(web, LLDP)


def heard(ear: socket.socket, frame: bytes) -> bool:
    """Whether that frame comes before the ear gives up."""
    try:
        while ear.recv(2048)[:60] != frame:
            pass
    except TimeoutError:
        return False
    return True


@pytest.mark.needs("tcpdump")
def test_a_capture_holds_what_passed(lab: Lab, tmp_path: Path) -> None:
    with lab.network.capture("server-room", tmp_path / "room.pcap") as path:
        lab["web"].succeeds("ping", "-c2", "-i0.1", "-s", "777", "192.168.1.254")
    data = path.read_bytes()
    assert data[:4] in (b"\xd4\xc3\xb2\xa1", b"\x4d\x3c\xb2\xa1")
    assert len(data) > 4 * 777


def test_steps_and_faults_are_entries_of_the_journal(lab: Lab) -> None:
    mark = lab.journal.mark()
    lab.cut("web:0")
    lab.heal()
    own = [(entry.kind, entry.message) for entry in lab.journal.since(mark) if entry.kind in ("fault", "step")]
    assert own == [("fault", "cut web:0"), ("step", "heal everything")]


@pytest.mark.lan(topology="hall", seats=0, share=False)
def test_a_unit_that_fails_ends_the_wait_at_once_with_its_lines(lab: Lab) -> None:
    web = lab["web"]
    web.put(
        "/run/systemd/system/broken.service",
        "[Service]\nType=oneshot\nExecStart=/bin/sh -c 'echo it is broken; exit 3'\n",
    )
    web.allowed_failures.add("broken.service")
    web.run(["systemctl", "start", "broken.service"], check=False)
    began = time.monotonic()
    with pytest.raises(WaitFailed, match="it is broken") as caught:
        web.wait_for_unit("broken.service")
    assert time.monotonic() - began < 5
    assert "backline lan journal --file" in (caught.value.hint or "")
    lab.kept = False


@pytest.mark.lan(topology="hall", seats=0, share=False)
def test_a_failed_unit_that_nobody_looked_at_is_a_problem(lab: Lab) -> None:
    lab["web"].run(["systemd-run", "--wait", "--unit=forgotten", "false"], check=False)
    with pytest.raises(TestFailed, match=r"web: forgotten\.service failed"):
        lab.check()
    lab.kept = False
    lab["web"].succeeds("systemctl", "reset-failed")


def test_a_core_dump_that_nobody_looked_at_is_a_problem(labs: Labs) -> None:
    labs.close()
    with Lab(topology.built_in("single"), settings=labs.settings) as lab:
        lab.start()
        lab["gw"].run(["systemd-run", "--wait", "--unit=crashing", "sh", "-c", "kill -ABRT $$$$"], check=False)
        lab["gw"].succeeds("systemctl", "reset-failed")  # the unit is forgotten, the dump is not
        with pytest.raises(TestFailed, match=r"gw: crashing\.service dumped core"):
            lab.check()
        lab.kept = False


def test_a_command_that_fails_says_where_and_why(lab: Lab) -> None:
    with pytest.raises(CommandFailed, match="on web: `ls /nowhere`") as caught:
        lab["web"].succeeds("ls", "/nowhere")
    assert "No such file" in caught.value.message
