"""Machines through the supervisor: a document's, one by one, as events, and on the command line from afar.

The supervisor is a process, its systemd is on a private bus, and what carries changes out is the real code of
`backline-hostd-machine-ask@.service` on an iron in a folder.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import msgspec
import pytest

from services.common.errors import Exit
from services.common.feed.wire import Change, Parser, Snapshot
from services.common.problem import RemoteError
from services.common.process import Completed, run
from services.hostd.desired import Desired, MachineWish
from services.hostd.machines_schema import Resources
from services.hostd.supervisor_schema import Job, MachineAction
from tests.common.bus_rig import SystemdOnBus
from tests.common.service_rig import ROOT, base_environment, reachable
from tests.hostd.machines_rig import FAILING, NEW, OLD, ROLE
from tests.hostd.machines_rig import Rig as MachinesRig
from tests.hostd.supervisor_rig import Rig, around, supervisor

WISH = MachineWish(role=ROLE, version=OLD)
change = msgspec.structs.replace
numbers = itertools.count()


@contextlib.contextmanager
def iron(folder: Path) -> Iterator[tuple[str, SystemdOnBus]]:
    """An iron in a folder, and a bus; supervisors come and go."""
    (folder / "iron").mkdir()
    MachinesRig(folder / "iron").furnish()
    with around(folder) as found:
        yield found


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    folder = tmp_path_factory.mktemp("supervised")
    with iron(folder) as bus, supervisor(folder, *bus) as running:
        reachable(running.service.socket)
        yield running


@pytest.fixture
def rig(shared: Rig) -> Rig:
    """A supervisor with no machine, and nothing in force."""
    assert apply(shared, Desired()).state == "done"
    return shared


@pytest.fixture
def name() -> str:
    """A machine's name that no other test uses."""
    return f"m{next(numbers)}"


def apply(rig: Rig, desired: Desired) -> Job:
    with rig.client() as client:
        return rig.ended(client.apply(desired, why="a test", expected=client.generations().newest))


def of(name: str, **changes: object) -> Desired:
    return Desired(machines={name: change(WISH, **changes)})


def test_a_document_makes_a_machine_upgrades_it_and_sets_it_aside(rig: Rig, name: str) -> None:
    job = apply(rig, of(name))
    assert (job.state, job.failure) == ("done", None)
    with rig.client() as client:
        detail = client.machine(name)
        assert (detail.status.version, detail.status.state, detail.status.wanted) == (OLD, "active", "running")
        assert client.observed().drift == []
    job = apply(rig, of(name, version=NEW, resources=Resources(memory="2G")))
    assert (job.state, job.total) == ("done", 2)
    assert rig.iron.machines.records.load(name).current.version == NEW
    assert apply(rig, Desired()).state == "done"
    assert rig.iron.machines.records.names() == []
    assert apply(rig, of(name, version=NEW)).state == "done"
    record = rig.iron.machines.records.load(name)
    assert [outcome.kind for outcome in record.history] == ["created", "upgraded"], "it is the one that was set aside"


def test_an_upgrade_that_fails_its_gate_reverts_the_whole_generation(rig: Rig, name: str) -> None:
    assert apply(rig, of(name)).state == "done"
    job = apply(rig, Desired(machines={name: change(WISH, version=FAILING), f"a{name}": WISH}))
    assert job.state == "reverted"
    assert job.failure is not None
    assert job.failure.code == "machine.reverted"
    assert "broken.service" in job.failure.message
    assert rig.iron.machines.records.names() == [name], "what the generation made is set aside again"
    assert rig.iron.machines.records.load(name).current.version == OLD
    with rig.client() as client:
        assert (client.desired().desired, client.observed().drift) == (of(name), [])


def test_a_rollback_goes_back_to_the_version_before_with_its_var(rig: Rig, name: str) -> None:
    apply(rig, of(name))
    apply(rig, of(name, version=NEW))
    with rig.client() as client:
        assert rig.ended(client.rollback(why="it was wrong")).state == "done"
    record = rig.iron.machines.records.load(name)
    assert (record.current.version, record.current.var, len(record.kept)) == (OLD, "var-1", 1)


def test_a_machine_that_was_there_before_is_taken_over_and_given_back(rig: Rig, name: str) -> None:
    rig.iron.machines.create(name, ROLE, version=OLD, wanted="stopped")
    assert apply(rig, of(name, version=NEW)).state == "done"
    assert rig.iron.machines.records.load(name).wanted == "running"
    assert apply(rig, Desired()).state == "done"
    record = rig.iron.machines.records.load(name)
    assert (record.current.version, record.wanted) == (OLD, "stopped")
    rig.iron.machines.remove(name)


@pytest.mark.parametrize("moment", ["held", "asked"])
def test_a_supervisor_that_is_killed_amid_an_upgrade_goes_on(tmp_path: Path, moment: str) -> None:
    hold, name = tmp_path / "hold", "one"
    with iron(tmp_path) as bus:
        with supervisor(tmp_path, *bus) as first:
            reachable(first.service.socket)
            assert apply(first, of(name)).state == "done"
            hold.touch()
            with first.client() as client:
                job = client.apply(of(name, version=NEW), why="a test", expected=1)
            until(lambda: "upgrade" in (tmp_path / "state/asks/one.json").read_text())
            if moment == "asked":
                hold.unlink()
            os.kill(first.service.process.pid, signal.SIGKILL)
            first.service.process.wait()
            hold.unlink(missing_ok=True)
        with supervisor(tmp_path, *bus) as second:
            reachable(second.service.socket)
            assert second.ended(job).state == "done"
            record = second.iron.machines.records.load(name)
    assert (record.current.version, len(record.history)) == (NEW, 2), "it was upgraded, and once"


def until(true: object) -> None:
    assert callable(true)
    end = time.monotonic() + 20
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_what_is_cancelled_amid_an_upgrade_is_taken_back(rig: Rig, name: str) -> None:
    apply(rig, of(name))
    (rig.folder / "hold").touch()
    with rig.client() as client:
        job = client.apply(of(name, version=NEW), why="a test", expected=client.generations().newest)
        until(lambda: "upgrade" in (rig.folder / f"state/asks/{name}.json").read_text())
        client.cancel(job.id)
        (rig.folder / "hold").unlink()
        ended = rig.ended(job)
    assert ended.state == "cancelled"
    assert rig.iron.machines.records.load(name).current.version == OLD


# One machine at a time


def test_a_machine_is_stopped_started_upgraded_and_taken_back_by_jobs(rig: Rig, name: str) -> None:
    apply(rig, of(name))
    with rig.client() as client:
        for action, version, after in (
            ("stop", None, (OLD, "inactive")),
            ("start", None, (OLD, "active")),
            ("upgrade", NEW, (NEW, "active")),
            ("revert", None, (OLD, "active")),
        ):
            job = rig.ended(client.change(name, MachineAction(action, version, "why not")))  # type: ignore[arg-type]
            assert (job.state, job.kind, job.machine) == ("done", "machine", name), job.failure
            status = client.machine(name).status
            assert (status.version, status.state) == after
        assert [each.name for each in client.machines().machines] == [name]
        assert f"{ROLE}@{NEW}" in client.machines().held
    assert "root: why not" in rig.iron.machines.records.load(name).history[-2].detail


def test_an_unknown_machine_or_version_is_missing(rig: Rig, name: str) -> None:
    apply(rig, of(name))
    with rig.client() as client:
        for which, action, code in (
            ("two", MachineAction("start"), "machine.unknown"),
            (name, MachineAction("upgrade", "20990101.0123456789ab"), "machine.version"),
        ):
            with pytest.raises(RemoteError) as caught:
                client.change(which, action)
            assert (caught.value.code, caught.value.problem.status) == (code, 404)
        with pytest.raises(RemoteError) as caught:
            client.roots()
        assert caught.value.code == "host.roots"


def test_machines_are_events(rig: Rig, name: str) -> None:
    apply(rig, of(name))
    seen: list[str] = []
    transport = httpx2.HTTPTransport(uds=str(rig.service.socket))
    with httpx2.Client(transport=transport, base_url="http://supervisor", timeout=20) as http:
        with http.stream("GET", "/v1/events?topic=machines") as stream, rig.client() as client:
            parser = Parser()
            for piece in stream.iter_bytes():
                for event in parser.feed(piece):
                    if event.kind == "snapshot":
                        snapshot = msgspec.json.decode(event.data, type=Snapshot)
                        assert [item.key for item in snapshot.items] == [name]
                        client.change(name, MachineAction("stop"))
                    elif event.kind == "change":
                        told = msgspec.json.decode(event.data, type=Change)
                        assert told.topic == "machines"
                        assert told.record is not None
                        seen.append(str(told.record["state"]))
                if seen and seen[-1] == "inactive":
                    return


# From afar


def backline(rig: Rig, *words: str, code: int = 0) -> Completed:
    argv = [sys.executable, "-m", "services.common.main", "machine", *words, "--address", rig.service.unix]
    done = run(argv, cwd=ROOT, env=base_environment(), check=False)
    assert done.returncode == code, done.stderr
    return done


def test_the_command_works_from_afar(rig: Rig, name: str) -> None:
    apply(rig, of(name))
    assert backline(rig, "list").stdout.split() == [name, ROLE, OLD, "active"]
    assert backline(rig, "upgrade", name, NEW, "--why", "newer").stdout == f"{name}: {ROLE} {NEW}, active\n"
    assert f"goes back to {OLD}" in backline(rig, "show", name).stdout
    failed = backline(rig, "upgrade", name, FAILING, code=Exit.FAILED)
    assert f"{name} runs {NEW} again: units failed: broken.service (machine.reverted)" in failed.stderr
