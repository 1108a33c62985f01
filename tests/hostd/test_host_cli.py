"""`backline host`: for people, and as JSON for programs; and the hosts of a hall, of which silent ones are unknown."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from services.common.errors import Exit
from services.common.process import Completed, run
from services.hostd import hosts
from services.hostd.supervisor_schema import Job, Planned
from tests.common.bus_rig import SystemdOnBus
from tests.common.service_rig import ROOT, Service, base_environment
from tests.hostd.supervisor_rig import Rig, around, supervisor

DOCUMENT = '[units."nginx.service"]\nrunning = false\n'


@pytest.fixture(scope="module")
def bus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str, SystemdOnBus]]:
    folder = tmp_path_factory.mktemp("host")
    with around(folder) as (address, systemd):
        yield folder, address, systemd


@pytest.fixture(scope="module")
def rig(bus: tuple[Path, str, SystemdOnBus]) -> Iterator[Rig]:
    with supervisor(*bus) as running:
        yield running


def backline(rig: Rig, *words: str, code: int = 0) -> Completed:
    argv = [sys.executable, "-m", "services.common.main", "host", *words, "--address", rig.service.unix]
    done = run(argv, cwd=ROOT, env=base_environment(), check=False)
    assert done.returncode == code, done.stderr
    return done


def test_from_a_plan_to_a_rollback(rig: Rig, tmp_path: Path) -> None:
    file = tmp_path / "document.toml"
    file.write_text(DOCUMENT)
    assert backline(rig, "plan", str(file)).stdout == "stop nginx.service\n"
    assert backline(rig, "apply", str(file), "--why", "not needed").stdout == "generation 1: done\n"
    assert backline(rig, "plan", str(file)).stdout == "nothing to do\n"
    assert "nginx.service       inactive     dead " in backline(rig, "units").stdout
    shown = backline(rig, "show", code=Exit.DIFFERENT).stdout
    assert "generation 1\n  nginx.service: inactive, enabled\nfailed: bad.service\n" in shown
    (tmp_path / "again.json").write_text(backline(rig, "show", "--document").stdout)
    assert backline(rig, "plan", str(tmp_path / "again.json")).stdout == "nothing to do\n"
    done = backline(rig, "apply", str(file), "--why", "x", "--match", "0", code=Exit.BUSY)
    assert "the newest generation is 1, not 0" in done.stderr
    job = msgspec.json.decode(backline(rig, "rollback", "--json").stdout, type=Job)
    assert (job.state, job.generation) == ("done", 2)
    lines = backline(rig, "history").stdout.splitlines()
    assert [line[:5] for line in lines] == ["*   2", "    1"]
    assert lines[1].endswith("done       root: not needed")
    assert backline(rig, "again").stdout == "nothing to do\n"
    assert backline(rig, "restart", "nginx.service").stdout == "restart nginx.service: done\n"


def test_what_is_reverted_is_no_success(rig: Rig, tmp_path: Path) -> None:
    rig.systemd.end_jobs_with("failed")
    file = tmp_path / "document.toml"
    file.write_text(DOCUMENT)
    done = backline(rig, "apply", str(file), "--why", "x", code=Exit.FAILED)
    rig.systemd.end_jobs_with("done")
    assert ": reverted\n" in done.stdout
    assert "error: the job of nginx.service ended: failed (unit.job)\n" in done.stderr


def test_a_mistake_in_a_document_is_told_with_its_line(rig: Rig, tmp_path: Path) -> None:
    file = tmp_path / "document.toml"
    file.write_text('[units."nginx.service"]\n\nruning = true\n')
    done = backline(rig, "plan", str(file), code=Exit.INPUT)
    assert done.stderr.startswith(f"error: {file}:3: ")
    (tmp_path / "document.json").write_text("{")
    assert backline(rig, "plan", str(tmp_path / "document.json"), code=Exit.INPUT).stderr.startswith("error: ")


def test_a_plan_as_json_says_what_it_is_based_on(rig: Rig, tmp_path: Path) -> None:
    file = tmp_path / "document.toml"
    file.write_text("")
    assert msgspec.json.decode(backline(rig, "plan", str(file), "--json").stdout, type=Planned).steps == []


def ask(name: str, address: str, port: int, *, seconds: float = 5.0) -> hosts.HostState:
    return asyncio.run(hosts._ask(name, "gw", address, seconds=seconds, port=port))


def test_a_host_that_answers_is_up_or_says_what_has_failed(hostd: Service) -> None:
    found = ask(socket.gethostname(), "127.0.0.1", hostd.port)
    assert (found.state, found.failed, found.version) == ("degraded", ["bad.service"], "20260101.0123456789ab")


def test_a_host_that_does_not_answer_is_unknown() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        found = ask("gw", "127.0.0.1", silent.getsockname()[1], seconds=0.2)
        assert (found.state, found.why) == ("unknown", "no answer within 0.2 s")
        port = silent.getsockname()[1]
    assert ask("gw", "127.0.0.1", port).state == "unknown"


def test_a_host_that_is_half_dead_is_unknown_and_back_at_once(hostd: Service) -> None:
    os.kill(hostd.process.pid, signal.SIGSTOP)
    try:
        found = ask(socket.gethostname(), "127.0.0.1", hostd.port, seconds=0.5)
    finally:
        os.kill(hostd.process.pid, signal.SIGCONT)
    assert (found.state, found.why, found.version) == ("unknown", "no answer within 0.5 s", None)
    assert ask(socket.gethostname(), "127.0.0.1", hostd.port).state == "degraded"


def test_somebody_else_at_a_hosts_address_is_not_that_host(hostd: Service) -> None:
    found = ask("gw", "127.0.0.1", hostd.port)
    assert (found.state, found.why) == ("unknown", f"{socket.gethostname()} answers at its address")


def test_a_host_that_is_not_in_the_hall_is_refused(rig: Rig, tmp_path: Path) -> None:
    from e2e.halls import make

    (tmp_path / "hall.toml").write_text(make().text)
    argv = ["--host", "nowhere", "--hall", str(tmp_path / "hall.toml")]
    assert "nowhere is no host of hall.toml" in backline(rig, "show", *argv, code=Exit.USAGE).stderr
    argv[1] = "rhfs01"
    certificate = ["--certificate", str(tmp_path / "none.pem")]
    assert "want a certificate of scope host" in backline(rig, "show", *argv, *certificate, code=Exit.MISSING).stderr
