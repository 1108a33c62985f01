"""hostd as a process, with two activated sockets, a systemd on a private bus, and an image's credentials."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

from services.common.bus.fake import make_unit
from tests.common.bus_rig import SystemdOnBus, bus_daemon
from tests.common.service_rig import Service, activated, reachable

HOSTD = [sys.executable, "-m", "services.common.main", "hostd", "serve"]
UNITS = [
    make_unit("nginx.service", "Web server"),
    make_unit("bad.service", "A bad one", active="failed", sub="failed"),
    make_unit("getty@tty1.service", "Getty"),
]


@pytest.fixture(scope="session")
def hostd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("hostd")
    for name, value in (("role", "gw"), ("version", "20260101.0123456789ab")):
        (folder / f"backline.{name}").write_text(value + "\n")
    with bus_daemon(folder) as address, SystemdOnBus(address, UNITS):
        env = {"BACKLINE_HOSTD_BUS": address, "CREDENTIALS_DIRECTORY": str(folder)}
        with activated(folder, HOSTD, env=env, names="backline-hostd.socket:backline-hostd.socket") as service:
            reachable(service.socket)
            yield service
