"""The harness on another kind of host: systemd as PID 1, in a container without loop devices.

The host is this machine's own file system, booted by nspawn with an overlay on top: everything that `make setup`
installed is there, and what a lab does to it is gone afterwards.
"""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from builder.settings import Settings
from e2e.pool import Labs
from e2e.sandbox import Sandbox
from services.common.process import Completed

pytestmark = [
    pytest.mark.images,
    pytest.mark.needs("root", "cgroup2", "namespaces", "systemd-nspawn", "overlayfs", "nftables bridge family"),
    pytest.mark.skipif(
        not Path("/lib/systemd/systemd").exists(), reason="missing capability: systemd installed on the host"
    ),
]
PROJECT = Path(__file__).parents[2]
PROGRAM = """
import sys
from builder.settings import load
from e2e import topology
from e2e.lab import Lab
from services.common.process import run
with Lab(topology.built_in("single"), name="inner", settings=load({"store": sys.argv[1], "cache": sys.argv[2]})) as lab:
    lab.start()
    print(lab["gw"].succeeds("systemctl", "is-system-running"))
    print(run(["systemctl", "show", "--property=ActiveState,Delegate", "backline-lab-inner.scope"]).stdout)
    print(lab.roots.extract)
print(run(["systemctl", "show", "--property=LoadState", "backline-lab-inner.scope"]).stdout)
"""
HOME = "/run/lab/host"
ROOT = f"""
mkdir -p {HOME}/data {HOME}/work {HOME}/root
mount -t overlay host -o lowerdir=/,upperdir={HOME}/data,workdir={HOME}/work {HOME}/root
"""


class Host:
    """A booted host: `run` runs a program of this machine in it."""

    def __init__(self, sandbox: Sandbox, leader: str) -> None:
        self.sandbox = sandbox
        self.leader = leader

    def run(self, *argv: str | Path) -> Completed:
        enter = ["nsenter", f"--target={self.leader}", "-m", "-u", "-i", "-n", "-p", "-C", "-r", "-w", "--"]
        environment = ["env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", f"PYTHONPATH={PROJECT}"]
        return self.sandbox.run([*enter, *environment, *argv])


@pytest.fixture(scope="module")
def settings(labs: Labs) -> Settings:
    assert labs.settings is not None
    return labs.settings


@pytest.fixture(scope="module")
def host(settings: Settings) -> Iterator[Host]:
    with Sandbox("systemd-host") as sandbox, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        sandbox.run(["sh", "-ec", ROOT])
        sandbox.make_cgroup("host")
        notify.bind(str(sandbox.lab / "notify"))
        notify.settimeout(120)
        argv = ["systemd-nspawn", "--quiet", "--register=no", "--keep-unit", "--machine=host", "--private-network"]
        argv += [f"--directory={HOME}/root", "--notify-ready=yes", "--link-journal=no", "--console=pipe"]
        # Stores that are mounts of their own would not show through the overlay.
        argv += [f"--bind-ro={settings.store}", f"--bind-ro={settings.cache}", "--capability=all", "--boot"]
        null = subprocess.DEVNULL
        environment = {"NOTIFY_SOCKET": "/run/lab/notify"}
        process = sandbox.spawn(argv, cgroup="host", env=environment, stdout=null, stderr=null)
        leader = ""
        while True:
            lines = notify.recv(65536).decode().splitlines()
            leader = next((line.partition("=")[2] for line in lines if line.startswith("X_NSPAWN_LEADER")), leader)
            if "READY=1" in lines:
                break
        yield Host(sandbox, leader)
        sandbox.run(["kill", "-s", "KILL", leader])
        process.wait()


def test_a_lab_runs_in_a_delegated_scope_of_a_host_with_systemd(host: Host, settings: Settings) -> None:
    assert host.run("test", "-d", "/run/systemd/system").returncode == 0
    said = host.run(sys.executable, "-c", PROGRAM, settings.store, settings.cache).stdout.split()
    assert said == ["running", "Delegate=yes", "ActiveState=active", "False", "LoadState=not-found"]


def test_the_command_names_what_that_host_lacks(host: Host) -> None:
    said = host.run(sys.executable, "-m", "services.common.main", "lan", "probe").stdout
    assert "loop devices: " in said.partition("missing:")[2]
