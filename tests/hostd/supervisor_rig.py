"""The supervisor as a process, with two activated sockets, a systemd on a private bus, and a folder of unit files."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from services.common.bus.fake import make_unit
from services.hostd.supervisor_client import Supervisor
from services.hostd.supervisor_schema import Job
from tests.common.bus_rig import SystemdOnBus, bus_daemon
from tests.common.service_rig import Service, activated
from tests.hostd.machines_rig import Rig as MachinesRig

ARGV = [sys.executable, "-m", "services.common.main", "hostd", "supervise"]
UNITS = [
    make_unit("nginx.service", "Web server"),
    make_unit("bad.service", "A bad one", active="failed", sub="failed"),
    make_unit("getty@tty1.service", "Getty"),
]


@dataclass
class Rig:
    """A running supervisor and what is around it."""

    folder: Path
    service: Service
    systemd: SystemdOnBus

    @property
    def iron(self) -> MachinesRig:
        """Its machines, where it is iron."""
        return MachinesRig(self.folder / "iron")

    @property
    def units(self) -> Path:
        return self.folder / "units"

    def client(self) -> Supervisor:
        return Supervisor(self.service.unix)

    def ended(self, job: Job) -> Job:
        """The job at its end."""
        with self.client() as client:
            return client.wait(job.id, deadline=time.monotonic() + 30)


@contextlib.contextmanager
def around(folder: Path) -> Iterator[tuple[str, SystemdOnBus]]:
    """A bus with a systemd, which outlives supervisors."""
    (folder / "units").mkdir()
    asked = [sys.executable, "-m", "tests.hostd.asked", str(folder)]
    with (
        bus_daemon(folder) as address,
        SystemdOnBus(
            address, UNITS, folder=folder / "units", programs={"backline-hostd-machine-ask@": asked}
        ) as systemd,
    ):
        yield address, systemd


@contextlib.contextmanager
def supervisor(folder: Path, address: str, systemd: SystemdOnBus, **settings: str) -> Iterator[Rig]:
    """A supervisor, for a block; its state is in `folder`, which is iron when it has machines (`iron`)."""
    env = {
        "BACKLINE_SUPERVISOR_BUS": address,
        "BACKLINE_SUPERVISOR_STATE": str(folder / "state"),
        "BACKLINE_SUPERVISOR_UNITS": str(folder / "units"),
        "BACKLINE_SUPERVISOR_SETTLE_SECONDS": "0.05",
        "BACKLINE_SUPERVISOR_IDLE_SECONDS": "0",
        "BACKLINE_SUPERVISOR_MACHINES": str(folder / "iron" / "disk"),
        "BACKLINE_SUPERVISOR_ROOTS": f"unix:{folder / 'roots.sock'}",
        **{f"BACKLINE_SUPERVISOR_{key.upper()}": value for key, value in settings.items()},
    }
    if (folder / "iron").exists():
        (folder / "backline.role").write_text("iron\n")
        env["CREDENTIALS_DIRECTORY"] = str(folder)
    for name in ("service.sock", "notify"):
        (folder / name).unlink(missing_ok=True)
    names = "backline-hostd-supervisor.socket:plain"
    with activated(folder, ARGV, env=env, names=names) as service:
        yield Rig(folder, service, systemd)
