"""Nothing is left of a lab: not when it ends, not when its owner is killed, and two labs do not know of each other."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from builder.settings import Settings
from e2e import cgroups, registry, topology
from e2e.lab import Lab
from e2e.pool import Labs
from services.common.errors import BusyError
from services.common.process import run

pytestmark = [pytest.mark.images, pytest.mark.needs("root", "cgroup2", "namespaces", "systemd-nspawn")]
OWNER = """
import sys
from builder.settings import load
from e2e import topology
from e2e.lab import Lab
with Lab(topology.hall(1), name=sys.argv[1], settings=load({"store": sys.argv[2], "cache": sys.argv[3]})) as lab:
    lab.start(["gw"])
    print("up", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def settings(labs: Labs) -> Settings:
    assert labs.settings is not None
    return labs.settings


@contextlib.contextmanager
def owner(name: str, settings: Settings) -> Iterator[subprocess.Popen[str]]:
    """A process with a lab of its own, up."""
    argv = [sys.executable, "-c", OWNER, name, settings.store, settings.cache]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        yield process


def traces(name: str) -> dict[str, list[str]]:
    """What is there of a lab: processes, mounts, cgroups, bridges, network namespaces, files."""
    processes = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            group = (folder / "cgroup").read_text()
            words = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if f"{cgroups.PREFIX}{name}/" in group or f"keeper.py {name} " in words:
            processes.append(f"{folder.name} {words}")
    return {
        "processes": processes,
        "mounts": [line for line in Path("/proc/self/mounts").read_text().splitlines() if "backline-lab" in line],
        "cgroups": [str(path) for key, path in cgroups.left_behind().items() if key == name],
        "bridges": run(["ip", "-brief", "link", "show", "type", "bridge"]).stdout.splitlines(),
        "files": [str(path) for path in registry.FOLDER.glob(f"{name}*")],
        "journals": [str(path) for path in Path("/tmp").glob(f"backline-lan-{name}-*")],
    }


NOTHING: dict[str, list[str]] = {
    "processes": [],
    "mounts": [],
    "cgroups": [],
    "bridges": [],
    "files": [],
    "journals": [],
}


def wait_for(name: str, wanted: dict[str, list[str]]) -> dict[str, list[str]]:
    """What is there of the lab, once it is what is wanted or ten seconds are over."""
    end = time.monotonic() + 10
    while (found := traces(name)) != wanted and time.monotonic() < end:
        time.sleep(0.05)
    return found


@pytest.fixture
def _alone(labs: Labs) -> None:
    """No other lab is up: what is found is this test's."""
    labs.close()


@pytest.mark.usefixtures("_alone")
def test_a_lab_that_ends_leaves_nothing(settings: Settings) -> None:
    with owner("ends", settings) as process:
        assert traces("ends")["cgroups"]
        assert process.stdin is not None
        process.stdin.close()
        process.wait(timeout=20)
    assert wait_for("ends", NOTHING) == NOTHING


@pytest.mark.usefixtures("_alone")
def test_a_lab_whose_owner_is_killed_leaves_nothing_but_its_journal(settings: Settings) -> None:
    with owner("killed", settings) as process:
        process.kill()
    journals = traces("killed")["journals"]
    assert len(journals) == 1
    assert wait_for("killed", {**NOTHING, "journals": journals}) == {**NOTHING, "journals": journals}
    assert "killed: removed" in run([Path(sys.executable).with_name("backline"), "lan", "clean"]).stdout
    assert traces("killed") == NOTHING


@pytest.mark.usefixtures("_alone")
def test_what_a_killed_keeper_left_is_found_and_removed_by_clean(settings: Settings) -> None:
    """Both the owner and the keeper killed at once: a cgroup, a record and a journal can stay."""
    with owner("orphan", settings) as process:
        keeper = next(
            int(folder.name)
            for folder in Path("/proc").glob("[0-9]*")
            if b"keeper.py\0orphan" in (folder / "cmdline").read_bytes() and folder.name != str(process.pid)
        )
        for pid in (keeper, process.pid):
            os.kill(pid, signal.SIGKILL)
    assert "orphan" in registry.leftovers()
    done = run([Path(sys.executable).with_name("backline"), "lan", "clean"])
    assert "orphan: removed" in done.stdout
    assert wait_for("orphan", NOTHING) == NOTHING


def test_two_labs_at_once_do_not_know_of_each_other(settings: Settings) -> None:
    with (
        Lab(topology.built_in("single"), name="one", settings=settings) as one,
        Lab(topology.built_in("single"), name="two", settings=settings) as two,
    ):
        one.start()
        two.start()
        one.network.cut("gw:0")
        assert two.network.wrong() == {}
        assert one["gw"].succeeds("cat", "/etc/machine-id") != two["gw"].succeeds("cat", "/etc/machine-id")


def test_a_name_that_is_taken_is_refused_with_the_way_out(settings: Settings) -> None:
    with Lab(topology.built_in("single"), name="taken", settings=settings):
        with pytest.raises(BusyError) as caught:
            Lab(topology.built_in("single"), name="taken", settings=settings)
        assert "backline lan down taken" in (caught.value.hint or "")
