"""hostd over its two sockets: what it tells whom."""

from __future__ import annotations

import asyncio
import grp
import os
import shutil
import socket

import msgspec
import pytest

from services.common import problem
from services.common.errors import Exit, MissingError
from services.common.problem import RemoteError
from services.common.process import run
from services.hostd.client import AsyncHostd, Hostd
from services.hostd.schema import Host, Unit
from tests.common.service_rig import Service

FACES = ["unix", "http"]


def address(hostd: Service, face: str) -> str:
    return hostd.unix if face == "unix" else hostd.http


@pytest.mark.parametrize("face", FACES)
def test_a_host_tells_its_role_and_version(hostd: Service, face: str) -> None:
    with Hostd(address(hostd, face)) as client:
        host = client.host()
    assert (host.role, host.version, host.state) == ("gw", "20260101.0123456789ab", "configured")
    assert host.hostname == socket.gethostname()
    (disk,) = [disk for disk in host.disks if disk.path == "/var"]
    assert 0 < disk.free < disk.total


@pytest.mark.parametrize("face", FACES)
def test_units_are_told_with_their_states(hostd: Service, face: str) -> None:
    with Hostd(address(hostd, face)) as client:
        units = client.units().units
    assert units[0] == Unit("bad.service", "A bad one", "loaded", "failed", "failed")
    assert [unit.name for unit in units] == ["bad.service", "getty@tty1.service", "nginx.service"]


def test_units_are_chosen_by_state_and_name(hostd: Service) -> None:
    with Hostd(hostd.unix) as client:
        assert [unit.name for unit in client.units(state=["failed"]).units] == ["bad.service"]
        assert [unit.name for unit in client.units(match=["nginx.service", "x"]).units] == ["nginx.service"]


@pytest.mark.parametrize(
    "query", ["state=Failed", "state=a%20b", "match=a%0Ab", "match=", "stat=failed", "match=a%2Fb"]
)
def test_a_query_that_makes_no_sense_is_refused(hostd: Service, query: str) -> None:
    answer = run(["curl", "--silent", f"{hostd.http}/v1/units?{query}"]).stdout
    assert msgspec.json.decode(answer, type=problem.Problem).code == "request.query"


def test_a_unit_is_told_closely(hostd: Service) -> None:
    with Hostd(hostd.unix) as client:
        unit = client.unit("getty@tty1.service")
    assert (unit.name, unit.main_pid, unit.active_since) == ("getty@tty1.service", 100, 1_700_000_000.5)


def test_a_unit_that_does_not_exist_is_missing(hostd: Service) -> None:
    with Hostd(hostd.unix) as client, pytest.raises(RemoteError) as caught:
        client.unit("none.service")
    assert (caught.value.code, caught.value.exit) == ("unit.unknown", Exit.MISSING)


@pytest.mark.parametrize("name", ["*.service", "-a.service", "a", "a%0A.service", "..", "a.service%00"])
def test_what_is_no_name_of_a_unit_reaches_nothing(hostd: Service, name: str) -> None:
    for path in (f"/v1/units/{name}", f"/v1/units/{name}/journal"):
        argv = ["curl", "--silent", "--path-as-is", "--unix-socket", str(hostd.socket), f"http://localhost{path}"]
        code = msgspec.json.decode(run(argv).stdout, type=problem.Problem).code
        assert code in ("unit.name", "http.not-found")


def test_nothing_can_be_changed_through_hostd(hostd: Service) -> None:
    argv = ["curl", "--silent", "--unix-socket", str(hostd.socket), "http://localhost/openapi.json"]
    paths = msgspec.json.decode(run(argv).stdout)["paths"]
    assert {method for path in paths.values() for method in path} == {"get"}


def test_journals_are_not_given_over_the_network(hostd: Service) -> None:
    with Hostd(hostd.http) as client, pytest.raises(RemoteError) as caught:
        client.journal("nginx.service")
    assert (caught.value.code, caught.value.problem.status) == ("auth.anonymous", 401)


def ask_as(hostd: Service, uid: int, groups: str) -> problem.Problem:
    """The answer to another user who asks for the journal of a unit that has none."""
    if os.geteuid() != 0 or not shutil.which("setpriv") or not shutil.which("curl") or not shutil.which("journalctl"):
        pytest.skip("missing capability: root, setpriv, curl and journalctl, to be another user")
    url = "http://localhost/v1/units/none.service/journal"
    curl = ["curl", "--silent", "--unix-socket", str(hostd.socket), url]
    done = run(["setpriv", f"--reuid={uid}", "--regid=65534", groups, *curl])
    return msgspec.json.decode(done.stdout, type=problem.Problem)


def test_journals_are_not_given_to_everybody(hostd: Service) -> None:
    assert ask_as(hostd, 65534, "--clear-groups").code == "auth.denied"


def test_journals_are_given_to_those_who_could_read_them_anyway(hostd: Service) -> None:
    gid = grp.getgrnam("systemd-journal").gr_gid
    assert ask_as(hostd, 65534, f"--groups={gid}").code == "unit.unknown"
    assert ask_as(hostd, 0, "--clear-groups").code == "unit.unknown"


@pytest.mark.parametrize("query", ["lines=0", "lines=1001", "lines=x", "line=3"])
def test_how_much_of_a_journal_is_limited(hostd: Service, query: str) -> None:
    url = f"http://localhost/v1/units/nginx.service/journal?{query}"
    answer = run(["curl", "--silent", "--unix-socket", str(hostd.socket), url]).stdout
    assert msgspec.json.decode(answer, type=problem.Problem).code == "request.query"


def test_it_is_well_when_systemd_answers(hostd: Service) -> None:
    argv = ["curl", "--silent", f"{hostd.http}/healthz"]
    assert msgspec.json.decode(run(argv).stdout) == {"status": "ok", "checks": ["bus"]}


def test_both_faces_of_the_client_say_the_same(hostd: Service) -> None:
    async def ask() -> tuple[Host, list[Unit]]:
        async with AsyncHostd(hostd.unix) as client:
            return await client.host(), (await client.units(match=["nginx.service"])).units

    host, units = asyncio.run(ask())
    with Hostd(hostd.unix) as client:
        # What is free on the disk is not the same a moment later.
        again = msgspec.structs.replace(client.host(), disks=host.disks)
        assert (again, client.units(match=["nginx.service"]).units) == (host, units)


def test_a_hostd_that_does_not_run_is_missing(hostd: Service) -> None:
    with Hostd("unix:/nonexistent/hostd.sock") as client, pytest.raises(MissingError) as caught:
        client.host()
    assert caught.value.code == "remote.unreachable"
