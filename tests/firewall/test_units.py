"""The firewall's units fit the code: who reads what, where who listens, and how little it may do."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from services.common.process import run
from services.firewall.cli import EVENTS
from services.firewall.client import SOCKET
from services.firewall.flows import GROUP_NEW
from services.firewall.schema import Settings
from services.hall.render import FIREWALL

UNITS = Path(__file__).parents[2] / "units"
SERVICE = (UNITS / "backline-firewall.service").read_text()


def test_it_is_where_clients_look_and_keeps_what_its_unit_gives() -> None:
    assert f"ListenStream={SOCKET.removeprefix('unix:')}\n" in (UNITS / "backline-firewall.socket").read_text()
    assert f"--config {FIREWALL}\n" in SERVICE
    assert Settings().folder == "/var/lib/" + re.findall(r"^StateDirectory=(\S+)$", SERVICE, re.MULTILINE)[0]


def test_events_wait_for_it_in_a_socket_of_its_own() -> None:
    unit = "backline-firewall-connections.socket"
    text = (UNITS / unit).read_text()
    assert f"ListenNetlink=netfilter {1 << (GROUP_NEW - 1)}\n" in text
    assert f"FileDescriptorName={EVENTS}\n" in text
    assert f"Sockets=backline-firewall.socket {unit}\n" in SERVICE


def test_it_has_one_capability_and_forwarding_waits_for_its_rules() -> None:
    for name in ("CapabilityBoundingSet", "AmbientCapabilities"):
        assert re.findall(rf"^{name}=(.*)$", SERVICE, re.MULTILINE) == ["CAP_NET_ADMIN"]
    assert re.findall(r"^(ExecStart\w*)=\+?(\S+).* net\.ipv4\.ip_forward=1$", SERVICE, re.MULTILINE) == [
        ("ExecStartPost", "/usr/sbin/sysctl")
    ]
    images = [path for path in (UNITS.parent / "images").rglob("*") if path.is_file() and path.suffix != ".lock"]
    others = [path for path in images if b"ip_forward" in path.read_bytes() or b"IPv4Forwarding" in path.read_bytes()]
    assert others == []


def test_it_is_little_exposed() -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("missing capability: systemd-analyze")
    path = str(UNITS / "backline-firewall.service")
    done = run(["systemd-analyze", "security", "--offline=true", "--no-pager", path], check=False)
    found = re.search(r"Overall exposure level for \S+: ([0-9.]+)", done.stdout)
    assert found, done.stderr
    assert float(found[1]) < 3.0, done.stdout
