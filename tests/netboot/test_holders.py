"""Whose word on holdings counts, and who is told who uses a version."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from netboot.client import Netboot
from netboot.schema import NewPin, NewPointer, PinKind
from services.common.process import run
from services.mdb.client import Mdb
from services.mdb.schema import MachineType, NewMachine
from tests.common.service_rig import Service
from tests.netboot.rig import ONE, TWO, Answer, Pair, new_version, pair, until


@pytest.fixture(scope="module")
def gw(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """netboot beside an mdb that knows rhfs01 with two cards, as hall.toml's servers are."""
    with pair(tmp_path_factory.mktemp("holders")) as running:
        with Mdb(running.mdb.unix) as mdb, Netboot(running.netboot.unix) as netboot:
            for number, name in enumerate(("rhfs01", "rhfs01-1", "rhfs23")):
                mdb.create(
                    NewMachine(
                        hostname=name,
                        aliases=[f"rfs{number}"],
                        type=MachineType.SERVICE,
                        mac=f"52:54:00:01:00:0{number}",
                    )
                )
            netboot.add_version(new_version(ONE))
            netboot.add_version(new_version(TWO))
            until(lambda: len(netboot.why("rhfs23").steps) > 0)
        yield running


def call(service: Service, method: str, path: str, *, subject: str | None) -> Answer:
    """What a host with a certificate of that subject is answered through nginx."""
    argv = ["setpriv", "--reuid=33", "--regid=33", "--clear-groups", "curl", "--silent", "--request", method]
    argv += ["--write-out", "\n%{http_code}", "--header", "X-Real-IP: 192.168.1.10", "--header"]
    argv += ["X-Forwarded-Proto: https"]
    if subject is not None:
        argv += ["--header", "X-Client-Verify: SUCCESS", "--header", f"X-Client-Subject: {subject}"]
    folder = os.open(service.socket.parent, os.O_PATH)
    try:
        argv += ["--unix-socket", f"/proc/self/fd/{folder}/{service.socket.name}", f"http://netboot{path}"]
        content, _, status = run(argv, pass_fds=(folder,)).stdout.rpartition("\n")
    finally:
        os.close(folder)
    return Answer(int(status), content)


@pytest.mark.parametrize("number", [0, 1])
def test_a_root_file_server_speaks_for_each_of_its_cards(gw: Pair, number: int) -> None:
    path = f"/v1/holdings/{number}/{ONE}"
    assert call(gw.netboot, "PUT", path, subject="OU=rfs,CN=rhfs01").status == 200
    assert call(gw.netboot, "DELETE", path, subject="OU=rfs,CN=rhfs01").status == 204


@pytest.mark.parametrize("number", [2, 3])
def test_it_does_not_speak_for_another_or_for_nobody(gw: Pair, number: int) -> None:
    answer = call(gw.netboot, "PUT", f"/v1/holdings/{number}/{ONE}", subject="OU=rfs,CN=rhfs01")
    assert (answer.status, answer.code) == (403, "auth.denied")


def test_another_scope_is_not_enough(gw: Pair) -> None:
    answer = call(gw.netboot, "PUT", f"/v1/holdings/0/{ONE}", subject="OU=feed,CN=rhfs01")
    assert (answer.status, answer.code) == (403, "auth.scope")
    assert call(gw.netboot, "GET", f"/v1/versions/{ONE}/users", subject="OU=feed,CN=rhfs01").status == 403
    assert call(gw.netboot, "GET", f"/v1/versions/{ONE}/users", subject=None).status == 401


def test_a_root_file_server_moves_no_pointer(gw: Pair) -> None:
    assert call(gw.netboot, "POST", "/v1/channels/stable/rollback", subject="OU=rfs,CN=rhfs01").status == 403


def test_it_is_told_who_uses_a_version(gw: Pair) -> None:
    with Netboot(gw.netboot.unix) as netboot:
        netboot.switch_channel("stable", NewPointer(version=ONE))
        netboot.pin(PinKind.ROOM, "pasteur", NewPin(version=ONE))
        netboot.hold(2, ONE)
    answer = call(gw.netboot, "GET", f"/v1/versions/{ONE}/users", subject="OU=rfs,CN=rhfs01")
    assert (answer.status, '"channel stable"' in answer.text, '"pin of room pasteur"' in answer.text) == (
        200,
        True,
        True,
    )
    assert "rfs2" not in answer.text, "a server that holds it does not use it"
    none = call(gw.netboot, "GET", f"/v1/versions/{TWO}/users", subject="OU=rfs,CN=rhfs01")
    assert none.text == f'{{"version":"{TWO}","users":[]}}'
