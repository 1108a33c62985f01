"""The bus adapter against somebody else's systemd: python-dbusmock's template, which knows nothing of how we call it.

Our own stand-in (`bus_rig`) answers as we think that systemd does; this one is a check on that. The template has jobs
and their signals; what else we read of a unit is added to it as properties. dbusmock is Debian's (python3-dbusmock),
not of requirements/dev.txt: the bindings that it needs (dbus-python, PyGObject) have no wheels.
"""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.common.bus.jobs import finish
from services.common.bus.manager import SystemdManager
from services.common.bus.model import BusError, Resync, TransientService, UnitChanged
from services.common.bus.signals import SystemdEvents
from services.common.process import ProcessFailed, run, running, spawn
from services.hostd.hands import SystemHands
from services.hostd.journal import JournalReader
from services.hostd.planner import Kind, Step
from services.hostd.unit_files import UnitFiles
from tests.common.bus_rig import bus_daemon

PYTHON = "/usr/bin/python3"
SYSTEMD = "org.freedesktop.systemd1"
MANAGER = "/org/freedesktop/systemd1"
MOCK = "org.freedesktop.DBus.Mock"
UNIT = "/org/freedesktop/systemd1/unit/nginx_service"


def call(address: str, path: str, interface: str, member: str, *words: str) -> None:
    """A call of the mock, as busctl(1) makes it."""
    run(["busctl", f"--address={address}", "call", SYSTEMD, path, interface, member, *words])


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A private bus with the template on it, and a unit nginx.service that does not run."""
    if subprocess.run([PYTHON, "-c", "import dbusmock"], check=False, capture_output=True).returncode:
        pytest.skip("missing capability: dbusmock (Debian package python3-dbusmock)")
    with contextlib.ExitStack() as stack:
        address = stack.enter_context(bus_daemon(tmp_path_factory.mktemp("bus")))
        env = {"DBUS_SYSTEM_BUS_ADDRESS": address, "PATH": "/usr/bin:/bin"}
        stack.enter_context(running(spawn([PYTHON, "-m", "dbusmock", "--template", "systemd"], env=env)))
        end = time.monotonic() + 20
        while True:
            try:
                call(address, MANAGER, MOCK, "AddMockUnit", "s", "nginx.service")
                break
            except ProcessFailed:
                assert time.monotonic() < end
                time.sleep(0.05)
        load = "ret = self.units[args[0]]"
        call(address, MANAGER, MOCK, "AddMethod", "sssss", f"{SYSTEMD}.Manager", "LoadUnit", "s", "o", load)
        call(address, MANAGER, MOCK, "AddMethod", "sssss", f"{SYSTEMD}.Manager", "Subscribe", "", "", "")
        for key, value in (("SubState", "dead"), ("Description", "Web server")):
            call(address, UNIT, MOCK, "AddProperty", "ssv", f"{SYSTEMD}.Unit", key, "s", value)
        yield address


def state(address: str) -> str:
    """ActiveState, as busctl reads it."""
    argv = ["busctl", f"--address={address}", "get-property", SYSTEMD, UNIT, f"{SYSTEMD}.Unit", "ActiveState"]
    return run(argv).stdout.strip()


def test_a_job_is_started_and_its_end_is_heard(address: str) -> None:
    manager, events = SystemdManager(address), SystemdEvents(address)
    for action, after in ((manager.start, 's "active"'), (manager.stop, 's "inactive"')):
        ended = asyncio.run(finish(events, lambda: action("nginx.service"), deadline=time.monotonic() + 20))  # noqa: B023
        assert (ended.unit, ended.result) == ("nginx.service", "done")
        assert state(address) == after


def test_a_transient_unit_is_a_job_too(address: str) -> None:
    service = TransientService("once.service", ["/bin/true"], properties={"MemoryMax": 1 << 30})
    manager, events = SystemdManager(address), SystemdEvents(address)
    ended = asyncio.run(finish(events, lambda: manager.start_transient(service), deadline=time.monotonic() + 20))
    assert (ended.unit, ended.result) == ("once.service", "done")


def test_what_the_template_does_not_know_is_an_error_with_its_words(address: str) -> None:
    with pytest.raises(BusError, match=r"none\.service"):
        SystemdManager(address).start("none.service")


def test_changes_of_a_unit_are_events(address: str) -> None:
    async def follow() -> UnitChanged:
        async with asyncio.timeout(20), SystemdEvents(address).subscribe() as stream:
            async for event in stream:
                if isinstance(event, Resync):
                    properties = ["2", "ActiveState", "s", "failed", "SubState", "s", "failed"]
                    words = (f"{SYSTEMD}.Unit", *properties)
                    await asyncio.to_thread(call, address, UNIT, MOCK, "UpdateProperties", "sa{sv}", *words)
                elif isinstance(event, UnitChanged):
                    return event
        raise AssertionError

    changed = asyncio.run(follow())
    assert (changed.active, changed.sub) == ("failed", "failed")


def test_a_step_of_a_plan_is_done_by_it(address: str, tmp_path: Path) -> None:
    journal = JournalReader(seconds=1, size=1024)
    hands = SystemHands(SystemdManager(address), SystemdEvents(address), UnitFiles(tmp_path), journal, job_seconds=20)
    asyncio.run(hands.do(Step(Kind.START, "nginx.service"), "token"))
    assert state(address) == 's "active"'
    asyncio.run(hands.do(Step(Kind.STOP, "nginx.service"), "token"))
    assert state(address) == 's "inactive"'
