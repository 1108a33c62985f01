"""The rollout service and netboot as processes, with seats that beat from here."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx2

from netboot.client import Netboot
from netboot.schema import Health, Heartbeat
from services.common.errors import BacklineError
from services.common.tokens import Tokens
from tests.common.service_rig import Service, activated
from tests.netboot.rig import KEY, ONE, TWO, publish

ROLLOUT = [sys.executable, "-m", "services.common.main", "rollout", "serve"]
NETBOOT = [sys.executable, "-m", "tests.rollout.netboot_service"]


@contextlib.contextmanager
def serving_netboot(folder: Path, seats: int) -> Iterator[Service]:
    """netboot with its own tables, in a hall of so many seats; a second start goes on with what is there."""
    own = _folder(folder / "netboot")
    with activated(own, [*NETBOOT, str(own), str(seats)]) as service:
        yield service


@contextlib.contextmanager
def serving_rollout(folder: Path, netboot: Service) -> Iterator[Service]:
    """The rollout service beside it."""
    own = _folder(folder / "rollout")
    file = own / "rollout.toml"
    file.write_text(f'state = "{own}/state"\nnetboot = "{netboot.unix}"\nlook_seconds = 0.2\n')
    with activated(own, [*ROLLOUT, "--config", str(file)]) as service:
        yield service


def _folder(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    for left in ("service.sock", "notify"):
        (folder / left).unlink(missing_ok=True)
    return folder


@dataclass
class SimulatedSeat:
    """A seat: the boot that it runs, and what is wrong with it."""

    number: int
    boot: str = ""
    version: str = ""
    user: str | None = None
    boots: list[str] = field(default_factory=list)
    failed: tuple[str, ...] = ()
    silent: bool = False


class Seats(threading.Thread):
    """Seats that boot from netboot and beat every `seconds`. `bad` names a unit that fails in each version."""

    def __init__(self, folder: Path, count: int, *, seconds: float = 0.5, bad: dict[str, str] | None = None) -> None:
        super().__init__(name="seats")
        self.address = f"unix:{folder}/netboot/service.sock"
        self.seats = [SimulatedSeat(number + 1) for number in range(count)]
        self.seconds = seconds
        self.bad = bad or {}
        self.stopped = threading.Event()
        self.failures: list[BaseException] = []
        self._tokens = Tokens(KEY)

    def __enter__(self) -> Seats:
        with Netboot(self.address) as netboot:
            publish(netboot, ONE)
            publish(netboot, TWO, channel=None)
            for each in self.seats:
                self._boot(netboot, each)
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopped.set()
        self.join()
        if self.failures:
            raise self.failures[0]

    def run(self) -> None:
        try:
            while not self.stopped.is_set():
                began = time.monotonic()
                # It is killed now and then, also in the middle of an answer.
                with contextlib.suppress(BacklineError, httpx2.HTTPError), Netboot(self.address) as netboot:
                    for each in self.seats:
                        self._beat(netboot, each)
                self.stopped.wait(max(0.01, self.seconds - (time.monotonic() - began)))
        except BaseException as error:
            self.failures.append(error)

    def _boot(self, netboot: Netboot, each: SimulatedSeat) -> None:
        answer = netboot._http.get(f"/boot/52:54:00:00:{each.number // 256:02x}:{each.number % 256:02x}").text
        assert "backline.boot=" in answer, answer
        each.boot = answer.partition("backline.boot=")[2].split()[0]
        each.version = answer.partition("backline.version=")[2].split()[0]
        each.boots.append(each.version)

    def token(self, each: SimulatedSeat) -> str:
        """What a seat shows of its boot."""
        return self._tokens.for_machine(f"seat{each.number}", machine=each.number, boot=each.boot, seconds=600)

    def _beat(self, netboot: Netboot, each: SimulatedSeat) -> None:
        token = self.token(each)
        if each.silent:
            return
        unit = self.bad.get(each.version)
        failed = [*each.failed, *([unit] if unit else [])]
        health = Health(state="degraded", failed_units=failed) if failed else Health(state="running")
        orders = netboot.heartbeat(each.boot, token, Heartbeat(version=each.version, health=health, user=each.user))
        if orders.reboot and (each.user is None or orders.even_with_user):
            self._boot(netboot, each)


def until(true: Callable[[], object], *, seconds: float = 30) -> None:
    """Wait for something that follows by itself; fails after a deadline."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)
