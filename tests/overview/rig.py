"""The overview as a process before a whole hall: hostds, netboot with seats that beat, the rollout service, a depot."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from netboot.client import Netboot
from services.common.process import running, spawn
from services.depot.client import Depot
from services.depot.schema import NewProgress, State
from services.overview.client import OverviewClient
from services.overview.schema import Hall
from tests.common.service_rig import ROOT, Service, activated, base_environment
from tests.depot import rig as depot_rig
from tests.netboot.rig import ONE, TWO, publish
from tests.rollout.rig import Seats, until

OVERVIEW = [sys.executable, "-m", "services.common.main", "overview", "serve"]
ROLLOUT = [sys.executable, "-m", "services.common.main", "rollout", "serve"]
GW_VERSION = "20261120.9c1f0b7d2e45"
HOSTS: dict[str, tuple[str, ...]] = {
    "gw": ("gw", GW_VERSION),
    "iron1": ("iron", GW_VERSION),
    "rhfs1": ("rhfs", "20261119.77ab04c1d9e2"),
    "rhfs2": ("rhfs", "20261119.77ab04c1d9e2"),
    "web": ("web", "20261118.5d20c8e4f613", "nginx.service"),
    "monitoring": ("monitoring", "20261118.e01b6a93c7f4"),
}
"""Hosts of the hall: role, version, and units that have failed."""
FIGURES = 'look_seconds = 0.5\nanswer_seconds = {answer}\nhall = "pasteur"\ndomain = "prolo"\n'


@dataclass
class Whole:
    """Everything that runs."""

    folder: Path
    overview: Service
    netboot: Service
    rollout: Service
    depot: Service
    hosts: dict[str, Service]
    seats: Seats

    def hall(self) -> Hall:
        """What the overview answers root."""
        with OverviewClient(self.overview.unix) as client:
            return client.hall()

    def state(self, host: str) -> str:
        return next(each for each in self.hall().hosts if each.name == host).state.value

    def troubles(self, *, failed: dict[int, list[str]], silent: list[int]) -> None:
        """What is wrong with seats of a crowd."""
        file = self.folder / "netboot/troubles.json"
        file.with_suffix(".new").write_text(json.dumps({"failed": failed, "silent": silent}))
        file.with_suffix(".new").rename(file)

    def ahead(self, seconds: float) -> None:
        """Have netboot believe that so much time has passed."""
        (self.folder / "netboot/ahead").write_text(str(seconds))


@contextlib.contextmanager
def stopped(service: Service) -> Iterator[None]:
    """A service that is half dead: its sockets take connections, and nobody answers."""
    os.kill(service.process.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(service.process.pid, signal.SIGCONT)


@contextlib.contextmanager
def hostd(folder: Path, name: str, *words: str, port: int = 0) -> Iterator[Service]:
    """hostd of a host."""
    own = folder / name
    own.mkdir(exist_ok=True)
    for left in ("service.sock", "notify"):
        (own / left).unlink(missing_ok=True)
    with activated(own, [sys.executable, "-m", "tests.overview.hostd_service", name, *words], port=port) as service:
        yield service


@contextlib.contextmanager
def whole(
    folder: Path,
    *,
    seats: int,
    htmx: Path | None = None,
    seconds: float = 0.4,
    bad: dict[str, str] | None = None,
    hosts: tuple[str, ...] = tuple(HOSTS),
    crowd: bool = False,
) -> Iterator[Whole]:
    """The whole hall, with version ONE on all seats, TWO published, and everybody heard once.

    A `crowd` of seats beats inside netboot (`tests.overview.netboot_service`), others in here.
    """
    with contextlib.ExitStack() as stack:
        own = folder / "netboot"
        own.mkdir()
        argv = [sys.executable, "-m", "tests.overview.netboot_service", str(own), str(seats)]
        argv += ["crowd"] if crowd else []
        netboot = stack.enter_context(activated(own, argv, env={"TZ": "UTC"}))
        script = f'htmx = "{htmx}"\n' if htmx else ""
        below = folder / "rollout"
        below.mkdir()
        file = below / "rollout.toml"
        file.write_text(f'state = "{below}/state"\nnetboot = "{netboot.unix}"\nlook_seconds = 0.3\n{script}')
        rollout = stack.enter_context(activated(below, [*ROLLOUT, "--config", str(file)], env={"TZ": "UTC"}))
        depot = stack.enter_context(_depot(folder / "depot", netboot.unix))
        found = {name: stack.enter_context(hostd(folder, name, *HOSTS[name])) for name in hosts}
        beating = Seats(folder, seats, seconds=seconds, bad=bad)
        if crowd:
            with Netboot(netboot.unix) as client:
                publish(client, ONE)
                publish(client, TWO, channel=None)
        else:
            stack.enter_context(beating)
        below = folder / "overview"
        below.mkdir()
        file = below / "overview.toml"
        text = FIGURES.format(answer=3 if crowd else 1) + script
        text += "".join(
            f'{name} = "{service.unix}"\n'
            for name, service in (("netboot", netboot), ("rollout", rollout), ("depot", depot))
        )
        for name, service in found.items():
            text += (
                f'[[hosts]]\nname = "{name}"\nrole = "{HOSTS[name][0]}"\naddress = "127.0.0.1"\nport = {service.port}\n'
            )
        file.write_text(text)
        overview = stack.enter_context(activated(below, [*OVERVIEW, "--config", str(file)], env={"TZ": "UTC"}))
        for each in (netboot, rollout, depot, overview, *found.values()):
            stack.callback(each.process.terminate)  # all at once: each takes its time to end
        made = Whole(folder, overview, netboot, rollout, depot, found, beating)
        until(lambda: not any(made.hall().seats[state] for state in ("unknown", "starting")))
        yield made


@contextlib.contextmanager
def _depot(folder: Path, netboot: str) -> Iterator[Service]:
    """A depot with a version that one server has, and the other is getting."""
    folder.mkdir()
    people = depot_rig.People.make(folder)
    with depot_rig.serving(folder, people, netboot=netboot) as service:
        with Depot(service.unix) as depot:
            for sequence, (role, version) in enumerate((("rhfs", depot_rig.ONE), ("nfsroot", depot_rig.TWO)), 1):
                image = depot_rig.image(version, role=role, size=60_000)
                depot_rig.bring(depot, image, people)
                said = depot_rig.says(image, sequence, why="new compilers" if role == "nfsroot" else "")
                id = depot.publish(depot_rig.publication(people, said)).id
                whole = NewProgress(bytes=61_000_000, total=61_000_000, full=912_000_000, state=State.CONFIRMED)
                half = NewProgress(bytes=38_000_000, total=61_000_000, full=912_000_000, state=State.PULLING)
                depot.progress(id, "rhfs1", whole)
                depot.progress(id, "rhfs2", whole if role == "rhfs" else half)
        yield service


@contextlib.contextmanager
def beating_seat(made: Whole, number: int) -> Iterator[int]:
    """A process that is the seat of that number, in place of the simulated one; its process id."""
    each = made.seats.seats[number - 1]
    each.silent = True
    token = made.seats.token(each)
    argv = [sys.executable, "-m", "tests.overview.beating_seat", made.netboot.unix, each.boot, token, each.version]
    process = spawn(argv, cwd=ROOT, env=base_environment())
    with running(process):
        yield process.pid
