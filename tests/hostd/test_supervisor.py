"""The supervisor over its sockets: generations, jobs, and who may."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from services.common import problem
from services.common.errors import Exit
from services.common.feed.wire import Change, Parser, Position, Snapshot
from services.common.problem import RemoteError
from services.common.process import run
from services.hostd.desired import Desired, UnitWish
from services.hostd.history import Outcome
from services.hostd.supervisor_schema import Action, Transient
from services.hostd.unit_files import MARK
from tests.common.bus_rig import SystemdOnBus
from tests.common.service_rig import reachable
from tests.hostd.supervisor_rig import Rig, around, supervisor
from tests.hostd.wishes import INSTALLED, PLAIN

OWN = Desired({"own.service": UnitWish(enabled=True, running=True, file=INSTALLED)})
NGINX_OFF = Desired({"nginx.service": UnitWish(running=False)})


@pytest.fixture
def bus(tmp_path: Path) -> Iterator[tuple[str, SystemdOnBus]]:
    with around(tmp_path) as found:
        yield found


@pytest.fixture
def rig(tmp_path: Path, bus: tuple[str, SystemdOnBus]) -> Iterator[Rig]:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("missing capability: systemd-analyze")
    with supervisor(tmp_path, *bus) as running:
        reachable(running.service.socket)
        yield running


def apply(rig: Rig, desired: Desired, *, expected: int = 0) -> Any:
    with rig.client() as client:
        return rig.ended(client.apply(desired, why="a test", expected=expected))


def refused(rig: Rig, desired: Desired) -> RemoteError:
    with rig.client() as client, pytest.raises(RemoteError) as caught:
        client.apply(desired, why="a test", expected=0)
    return caught.value


def test_a_document_comes_into_force(rig: Rig) -> None:
    job = apply(rig, OWN)
    assert (job.state, job.generation, job.done, job.total) == ("done", 1, 4, 4)
    assert (rig.units / "own.service").read_text() == MARK + INSTALLED
    with rig.client() as client:
        own = client.unit("own.service")
        assert (own.active, own.file_state) == ("active", "enabled")
        force = client.desired()
        assert (force.number, force.newest, force.desired) == (1, 1, OWN)
        assert client.observed().drift == []
        detail = client.generation(1)
    assert detail.record is not None
    assert (detail.generation.by, detail.generation.why, detail.record.outcome) == ("root", "a test", Outcome.DONE)


def test_a_plan_is_apply_without_its_last_step(rig: Rig) -> None:
    with rig.client() as client:
        planned = client.plan(OWN)
        assert [str(step) for step in planned.steps] == [
            "write the file of own.service",
            "reload systemd",
            "enable own.service",
            "start own.service",
        ]
        assert (planned.base, client.generations().generations) == (0, [])
    assert list(rig.units.iterdir()) == []
    apply(rig, OWN)
    with rig.client() as client:
        assert client.plan(OWN).steps == []


def test_two_administrators_at_once_and_only_the_first_one_wins(rig: Rig) -> None:
    apply(rig, OWN)
    error = refused(rig, NGINX_OFF)
    assert (error.code, error.problem.status, error.exit) == ("generation.stale", 412, Exit.BUSY)


def test_a_change_has_to_say_what_it_is_based_on(rig: Rig) -> None:
    for headers, code, status in (([], "generation.match", 428), (["-H", "If-Match: 7"], "request.match", 400)):
        found = ask(rig, "POST", "/v1/generations", '{"desired":{},"why":"x"}', *headers)
        assert (found.code, found.status) == (code, status)


def ask(rig: Rig, method: str, path: str, body: str | None, *words: str) -> problem.Problem:
    argv = ["curl", "--silent", "--unix-socket", str(rig.service.socket), "-X", method, *words]
    if body is not None:
        argv += ["-H", "Content-Type: application/json", "--data", body]
    return msgspec.json.decode(run([*argv, f"http://localhost{path}"]).stdout, type=problem.Problem)


def test_a_rollback_gives_back_what_was_before(rig: Rig) -> None:
    apply(rig, OWN)
    apply(rig, NGINX_OFF, expected=1)
    with rig.client() as client:
        assert client.unit("nginx.service").active == "inactive"
        assert not (rig.units / "own.service").exists()
        job = rig.ended(client.rollback(why="it was wrong"))
        assert (job.state, job.generation) == ("done", 3)
        assert (client.unit("nginx.service").active, client.unit("own.service").active) == ("active", "active")
        found = client.generations()
        assert [(each.number, each.restores) for each in found.generations] == [(3, 1), (2, None), (1, None)]
        assert rig.ended(client.rollback(why="all of it", to=0)).state == "done"
        assert client.desired().desired == Desired()


def test_without_a_generation_there_is_nothing_to_go_back_from(rig: Rig) -> None:
    with rig.client() as client, pytest.raises(RemoteError) as caught:
        client.rollback(why="x")
    assert caught.value.code == "generation.none"


def test_a_unit_that_falls_over_is_no_generation(rig: Rig) -> None:
    rig.systemd.fall_over("own.service")
    job = apply(rig, OWN)
    assert (job.state, job.action) == ("reverted", "revert")
    assert (job.failure.code, job.failure.unit) == ("apply.unsettled", "own.service")
    assert list(rig.units.iterdir()) == []
    with rig.client() as client:
        assert client.generations().in_force == 0
        assert client.generations().generations[0].outcome is Outcome.REVERTED


def test_a_job_of_systemd_that_fails_is_told_with_its_result(rig: Rig) -> None:
    rig.systemd.end_jobs_with("dependency")
    job = apply(rig, OWN)
    assert job.state == "reverted"
    assert (job.failure.code, job.failure.result, job.failure.unit) == ("unit.job", "dependency", "own.service")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (PLAIN + "Foo=1\n", ("own.service:3", "Foo")),
        ("[Service]\nExecStart=/nonexistent/program\n", ("/nonexistent/program",)),
        ("[Service]\nType=oneshot\n", ("own.service",)),
    ],
)
def test_a_unit_file_that_systemd_would_not_take_changes_nothing(rig: Rig, text: str, words: tuple[str, ...]) -> None:
    error = refused(rig, Desired({"own.service": UnitWish(file=text)}))
    assert (error.code, error.problem.status) == ("unit.invalid", 422)
    assert [word for word in words if word not in error.message] == []
    with rig.client() as client:
        assert client.generations().newest == 0


def test_a_drop_in_is_looked_at_with_its_unit(rig: Rig) -> None:
    wish = UnitWish(file=PLAIN, drop_ins={"10-x": "[Service]\n\nMemoryMaxx=1\n"})
    error = refused(rig, Desired({"own.service": wish}))
    assert error.code == "unit.invalid"
    assert "own.service.d/10-x.conf:3" in error.message


def test_a_document_of_another_shape_is_refused(rig: Rig) -> None:
    body = '{"desired":{"units":{"a.service":{"runing":true}}},"why":"x"}'
    found = ask(rig, "POST", "/v1/generations", body, "-H", 'If-Match: "0"')
    assert (found.code, "runing" in found.detail) == ("request.body", True)
    found = ask(rig, "POST", "/v1/plans", '{"desired":{"machines":["x"]}}')
    assert found.code == "request.body"


def test_a_unit_is_stopped_and_started_once(rig: Rig) -> None:
    with rig.client() as client:
        job = rig.ended(client.act("nginx.service", Action("stop")))
        assert (job.state, job.result, client.unit("nginx.service").active) == ("done", "done", "inactive")
        assert rig.ended(client.act("nginx.service", Action("start"))).state == "done"
        assert rig.ended(client.act("nginx.service", Action("restart"))).state == "done"
        assert rig.ended(client.act("nginx.service", Action("reload"))).state == "done"
        assert client.unit("nginx.service").active == "active"
        assert [each.action for each in client.jobs().jobs] == ["reload", "restart", "start", "stop"]


@pytest.mark.parametrize(
    ("name", "action", "code"),
    [
        ("none.service", "start", "unit.unknown"),
        ("*.service", "start", "unit.name"),
        ("dbus.service", "stop", "unit.protected"),
    ],
)
def test_an_action_that_makes_no_sense_is_refused(rig: Rig, name: str, action: Any, code: str) -> None:
    with rig.client() as client, pytest.raises(RemoteError) as caught:
        client.act(name, Action(action))
    assert caught.value.code == code


def test_an_action_can_be_cancelled(rig: Rig) -> None:
    rig.systemd.hang_jobs()
    with rig.client() as client:
        job = client.act("nginx.service", Action("restart"))
        time.sleep(0.2)
        assert client.job(job.id).state == "running"
        client.cancel(job.id)
        ended = rig.ended(job)
        assert (ended.state, ended.result) == ("cancelled", "canceled")
        with pytest.raises(RemoteError) as caught:
            client.cancel(job.id)
    assert caught.value.code == "job.ended"


def test_a_generation_that_is_cancelled_is_taken_back(rig: Rig) -> None:
    rig.systemd.hang_jobs()
    with rig.client() as client:
        job = client.apply(OWN, why="x", expected=0)
        until(lambda: client.job(job.id).step == "start own.service")
        with pytest.raises(RemoteError) as caught:
            client.apply(NGINX_OFF, why="x", expected=1)
        assert (caught.value.code, caught.value.exit) == ("apply.running", Exit.BUSY)
        client.cancel(job.id)
        assert rig.ended(job).state == "cancelled"
        assert client.generations().in_force == 0
    assert list(rig.units.iterdir()) == []


def until(look: Any, *, seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not look():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_transient_service_runs_once(rig: Rig) -> None:
    with rig.client() as client:
        wanted = Transient("once.service", ["/bin/true"], properties={"CPUWeight": 50})
        assert rig.ended(client.transient(wanted)).state == "done"
        job = rig.ended(client.transient(Transient("once.service", ["true"])))
    assert (job.state, job.failure.code if job.failure else "") == ("failed", "unit.properties")
    assert "StartTransientUnit" in [member for member, _ in rig.systemd.calls()]


def test_properties_are_read_and_set(rig: Rig) -> None:
    argv = ["curl", "--silent", "--unix-socket", str(rig.service.socket)]
    url = "http://localhost/v1/units/nginx.service/properties"
    properties = msgspec.json.decode(run([*argv, url]).stdout)["properties"]
    assert (properties["Id"], properties["After"]) == ("nginx.service", ["basic.target"])
    patch = ["-X", "PATCH", "-H", "Content-Type: application/json", "--data", '{"properties":{"CPUWeight":50}}']
    assert run([*argv, "-w", "%{http_code}", *patch, url]).stdout == "204"
    assert ("SetUnitProperties") in [member for member, _ in rig.systemd.calls()]
    body = '{"properties":{"NoSuch":1}}'
    assert ask(rig, "PATCH", "/v1/units/nginx.service/properties", body).code == "unit.properties"


def test_nobody_but_root_gets_anything(rig: Rig) -> None:
    if os.geteuid() != 0 or not shutil.which("setpriv"):
        pytest.skip("missing capability: root and setpriv, to be another user")
    curl = ["curl", "--silent", "--unix-socket", str(rig.service.socket)]
    for path in ("host", "units", "desired", "generations", "jobs", "events", "observed"):
        argv = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", *curl, f"http://localhost/v1/{path}"]
        assert msgspec.json.decode(run(argv).stdout, type=problem.Problem).code == "auth.denied"


def test_without_tls_the_network_gets_nothing(rig: Rig) -> None:
    done = run(["curl", "--silent", f"{rig.service.http}/v1/generations"])
    assert msgspec.json.decode(done.stdout, type=problem.Problem).code == "auth.anonymous"


def test_what_has_drifted_is_shown_and_set_right(rig: Rig) -> None:
    apply(rig, OWN)
    (rig.units / "own.service").write_text(MARK + PLAIN)
    with rig.client() as client:
        client.act("own.service", Action("stop"))
        until(lambda: client.unit("own.service").active == "inactive")
        assert [str(step) for step in client.observed().drift][-1] == "start own.service"
        assert rig.ended(client.again().jobs[0]).state == "done"
        assert client.observed().drift == []
        assert client.again().jobs == []
        assert client.desired().number == 1
    assert (rig.units / "own.service").read_text() == MARK + INSTALLED


def test_a_supervisor_that_is_killed_goes_on_when_it_is_back(tmp_path: Path, bus: tuple[str, SystemdOnBus]) -> None:
    _, systemd = bus
    with supervisor(tmp_path, *bus) as rig:
        systemd.hang_jobs()
        with rig.client() as client:
            job = client.apply(OWN, why="x", expected=0)
            until(lambda: client.job(job.id).step == "start own.service")
        rig.service.process.send_signal(signal.SIGKILL)
        rig.service.process.wait()
    systemd.hang_jobs()
    systemd.calls()
    with supervisor(tmp_path, *bus) as rig, rig.client() as client:
        until(lambda: client.job(job.id).step == "start own.service")
        client.cancel(job.id)
        assert rig.ended(job).state == "cancelled"
        assert client.job(job.id).generation == 1


def test_a_supervisor_without_anything_to_do_leaves(tmp_path: Path, bus: tuple[str, SystemdOnBus]) -> None:
    with supervisor(tmp_path, *bus, idle_seconds="0.3") as rig:
        with rig.client() as client:
            assert client.generations().newest == 0
        assert rig.service.process.wait(timeout=10) == 0


class Stream:
    """The events of a supervisor, as they come."""

    def __init__(self, rig: Rig, query: str = "", *, last: str = "") -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(10)
        self.socket.connect(str(rig.service.socket))
        resume = f"Last-Event-ID: {last}\r\n" if last else ""
        self.socket.sendall(f"GET /v1/events{query} HTTP/1.1\r\nHost: x\r\n{resume}\r\n".encode())
        self.parser = Parser()
        self.events: list[Any] = []

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *error: object) -> None:
        self.socket.close()

    def next(self) -> Any:
        while not self.events:
            # Chunked: lines with sizes are no field of an event, and are skipped by the parser.
            self.events += list(self.parser.feed(self.socket.recv(65536)))
        return self.events.pop(0)

    def change(self, topic: str) -> tuple[str, Change]:
        while True:
            event = self.next()
            if event.kind == "change":
                change = msgspec.json.decode(event.data, type=Change)
                if change.topic == topic:
                    return event.id, change


def test_events_are_a_snapshot_and_then_every_change(rig: Rig) -> None:
    with Stream(rig) as stream, rig.client() as client:
        snapshot = msgspec.json.decode(stream.next().data, type=Snapshot)
        assert {(item.topic, item.key) for item in snapshot.items} == {
            ("units", "nginx.service"),
            ("units", "bad.service"),
            ("units", "getty@tty1.service"),
        }
        rig.systemd.change("nginx.service", "failed", "failed")
        _, change = stream.change("units")
        assert change.record is not None
        assert (change.key, change.record["active"]) == ("nginx.service", "failed")
        job = client.act("getty@tty1.service", Action("restart"))
        assert stream.change("jobs")[1].key == job.id


def test_events_go_on_where_they_were(rig: Rig) -> None:
    with Stream(rig, "?topic=jobs") as stream, rig.client() as client:
        stream.next()
        first = client.act("nginx.service", Action("restart"))
        place, change = stream.change("jobs")
        assert change.key == first.id
    rig.ended(first)
    with rig.client() as client:
        second = rig.ended(client.act("nginx.service", Action("stop")))
    with Stream(rig, "?topic=jobs", last=place) as stream:
        seen = [stream.change("jobs")[1] for _ in range(3)]
    assert [change.key for change in seen] == [first.id, second.id, second.id]


def test_events_of_another_process_begin_anew(rig: Rig) -> None:
    with Stream(rig, "?topic=generations", last=str(Position("0" * 16, 0))) as stream:
        assert stream.next().kind == "snapshot"


def test_unknown_topics_are_refused(rig: Rig) -> None:
    assert ask(rig, "GET", "/v1/events?topic=x", None).code == "request.query"
