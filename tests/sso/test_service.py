"""Single sign-on as a process: it follows mdb and presence, and tells nobody but nginx."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path

import httpx2
import pytest

from services.common.process import run
from services.mdb.client import Mdb
from services.mdb.schema import MachinePatch
from tests.common.access_rig import NOBODY, PROXY
from tests.common.service_rig import Service, activated
from tests.netboot.rig import until
from tests.presence.rig import Hall, call, serving

SSO = [sys.executable, "-m", "services.common.main", "sso", "serve"]
CONFIGURATION = """
mdb = "{mdb}"
presence = "{presence}"
memory = "{folder}"

[overrides]
"192.168.0.77" = "otto"
"""


@dataclass
class SignOn:
    """Single sign-on beside presence and mdb."""

    sso: Service
    hall: Hall

    def whois(self, *headers: str, ids: tuple[int, int] = PROXY) -> tuple[int, str | None, str | None]:
        """Status, user and the status in words, as a process with these ids is answered."""
        argv = ["setpriv", f"--reuid={ids[0]}", f"--regid={ids[1]}", "--clear-groups", "curl", "--silent"]
        argv += ["--output", "/dev/null", "--write-out", "%{http_code}\n%header{x-sso-user}\n%header{x-sso-status}"]
        for header in headers:
            argv += ["--header", header]
        folder = os.open(self.sso.socket.parent, os.O_PATH)
        try:
            where = f"/proc/self/fd/{folder}/{self.sso.socket.name}"
            lines = run([*argv, "--unix-socket", where, "http://sso/v1/whois"], pass_fds=(folder,)).stdout.split("\n")
        finally:
            os.close(folder)
        return int(lines[0]), lines[1] or None, lines[2] or None

    def at(self, address: str) -> tuple[str | None, str | None]:
        status, user, words = self.whois(f"X-Real-IP: {address}")
        assert status == 204
        return user, words


@contextlib.contextmanager
def serving_sso(folder: Path, mdb: str, presence: str) -> Iterator[Service]:
    own = folder / "sso"
    own.mkdir(exist_ok=True)
    for left in ("service.sock", "notify"):
        (own / left).unlink(missing_ok=True)
    file = own / "sso.toml"
    file.write_text(CONFIGURATION.format(folder=own, mdb=mdb, presence=presence))
    with activated(own, [*SSO, "--config", str(file)]) as service:
        own.chmod(0o711)
        yield service


@pytest.fixture(scope="module")
def sign_on(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SignOn]:
    folder = tmp_path_factory.mktemp("sso")
    with serving(folder) as hall, serving_sso(folder, hall.mdb.unix, hall.presence.unix) as sso:
        for name in ("p1", "p2"):
            hall.machine(name)
        hall.user("alice")
        hall.knows()
        yield SignOn(sso, hall)


def test_who_logs_in_is_known_until_the_logout(sign_on: SignOn) -> None:
    until(lambda: sign_on.at("192.168.0.1") == (None, "logged-out machine p1"))
    sign_on.hall.logs_in("p1", "alice")
    until(lambda: sign_on.at("192.168.0.1") == ("alice", "authenticated"), seconds=2)
    assert sign_on.at("192.168.0.3") == (None, "unknown IP 192.168.0.3")
    sign_on.hall.leaves("p1", "alice")
    until(lambda: sign_on.at("192.168.0.1") == (None, "logged-out machine p1"), seconds=2)


def test_a_machine_that_gets_another_address_is_known_there(sign_on: SignOn) -> None:
    sign_on.hall.logs_in("p1", "alice")
    with Mdb(sign_on.hall.mdb.unix) as mdb:
        machine = sign_on.hall.machines["p1"]
        mdb.change(machine.id, MachinePatch(ip=IPv4Address("192.168.0.99")))
        until(lambda: sign_on.at("192.168.0.99") == ("alice", "authenticated"), seconds=2)
        assert sign_on.at("192.168.0.1") == (None, "unknown IP 192.168.0.1")
        mdb.change(machine.id, MachinePatch(ip=IPv4Address("192.168.0.1")))
    until(lambda: sign_on.at("192.168.0.1")[0] == "alice")
    sign_on.hall.leaves("p1", "alice")


def test_an_override_counts(sign_on: SignOn) -> None:
    assert sign_on.at("192.168.0.77") == ("otto", "authenticated")


def test_without_an_address_it_says_so_and_nobody_is_kept_out(sign_on: SignOn) -> None:
    assert sign_on.whois() == (204, None, "missing header X-Real-IP")


@pytest.mark.parametrize("ids", [NOBODY, (0, 0)])
def test_nobody_but_nginx_is_told(sign_on: SignOn, ids: tuple[int, int]) -> None:
    assert sign_on.whois("X-Real-IP: 192.168.0.77", ids=ids) == (403, None, None)
    code, text = call(sign_on.sso, "/v1/whois", ids=ids)
    assert (code, "auth.denied" in text, "otto" in text) == (403, True, False)
    answer = httpx2.get(f"{sign_on.sso.http}/v1/whois", headers={"X-Real-IP": "192.168.0.77"})
    assert (answer.status_code, "x-sso-user" in answer.headers) == (403, False)


def test_what_it_knew_it_knows_after_a_restart_while_the_others_are_away(sign_on: SignOn, tmp_path: Path) -> None:
    sign_on.hall.logs_in("p2", "alice")
    with serving_sso(tmp_path, sign_on.hall.mdb.unix, sign_on.hall.presence.unix) as sso:
        first = SignOn(sso, sign_on.hall)
        until(lambda: first.at("192.168.0.2") == ("alice", "authenticated"))
        until(lambda: len(list((tmp_path / "sso").glob("*.json"))) == 2)
    with serving_sso(tmp_path, f"unix:{tmp_path}/nobody.sock", f"unix:{tmp_path}/nobody.sock") as sso:
        again = SignOn(sso, sign_on.hall)
        assert again.at("192.168.0.2") == ("alice", "authenticated")
        assert httpx2.get(f"{sso.http}/healthz").status_code == 503
    sign_on.hall.leaves("p2", "alice")


def raw(sign_on: SignOn, *requests: bytes, pieces: int = 1) -> bytes:
    """What nginx's user is answered on one connection, whose requests leave in so many pieces."""
    code = """
import os, socket, sys, time
folder, name, pieces, wanted = int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
os.setgroups([]); os.setgid(33); os.setuid(33)
data = sys.stdin.buffer.read()
with socket.socket(socket.AF_UNIX) as link:
    link.settimeout(5)
    link.connect(f"/proc/self/fd/{folder}/{name}")
    size = -(-len(data) // pieces)
    for begin in range(0, len(data), size):
        link.sendall(data[begin:begin + size])
        time.sleep(0.02)
    got = b""
    while got.count(b"HTTP/1.1 ") < wanted or not got.endswith(b"\\r\\n\\r\\n"):
        got += link.recv(65536)
sys.stdout.buffer.write(got)
"""
    folder = os.open(sign_on.sso.socket.parent, os.O_PATH)
    try:
        argv = [sys.executable, "-c", code, str(folder), sign_on.sso.socket.name, str(pieces), str(len(requests))]
        return run(argv, stdin=b"".join(requests), pass_fds=(folder,)).stdout.encode()
    finally:
        os.close(folder)


def quickly(sign_on: SignOn) -> int:
    """How many questions took the quick way so far."""
    text = httpx2.get(f"{sign_on.sso.http}/metrics").text
    return int(float(text.partition("\nbackline_sso_quick_total ")[2].split()[0]))


def question(address: str, *more: str) -> bytes:
    """As our nginx asks, with further headers."""
    lines = ["GET /v1/whois HTTP/1.1", "Host: sso", f"X-Real-IP: {address}", *more]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def told(answer: bytes) -> list[bytes]:
    """Headers of single sign-on in answers, in their order."""
    return [line for line in answer.lower().split(b"\r\n") if line.startswith((b"x-sso-", b"http/1.1"))]


@pytest.mark.parametrize("address", ["192.168.0.77", "192.168.0.1", "10.1.2.3", "::1"])
def test_the_quick_way_gives_the_answer_of_the_usual_one(sign_on: SignOn, address: str) -> None:
    before = quickly(sign_on)
    quick = told(raw(sign_on, question(address)))
    assert quickly(sign_on) == before + 1
    usual = told(raw(sign_on, question(address, "Accept: */*")))
    assert quickly(sign_on) == before + 1
    assert sorted(quick) == sorted(usual)
    assert quick[0].startswith(b"http/1.1 204")


@pytest.mark.parametrize("pieces", [1, 2, 7])
def test_requests_of_a_connection_are_answered_in_their_order(sign_on: SignOn, pieces: int) -> None:
    asked = [question("192.168.0.77"), question("10.1.2.3", "Accept: */*"), question("10.9.9.9")]
    found = [line for line in told(raw(sign_on, *asked, pieces=pieces)) if b"status" in line]
    assert found == [
        b"x-sso-status: authenticated",
        b"x-sso-status: unknown ip 10.1.2.3",
        b"x-sso-status: unknown ip 10.9.9.9",
    ]


def test_a_connection_that_took_the_quick_way_takes_the_usual_one_as_well(sign_on: SignOn) -> None:
    assert sign_on.at("192.168.0.77")[0] == "otto"
    code = """
import os, socket, sys
folder, name = int(sys.argv[1]), sys.argv[2]
os.setgroups([]); os.setgid(33); os.setuid(33)
quick = b"GET /v1/whois HTTP/1.1\\r\\nHost: sso\\r\\nX-Real-IP: 192.168.0.77\\r\\n\\r\\n"
usual = quick[:-2] + b"Accept: */*\\r\\n\\r\\n"
with socket.socket(socket.AF_UNIX) as link:
    link.settimeout(5)
    link.connect(f"/proc/self/fd/{folder}/{name}")
    for request in (quick, usual, quick, usual, usual, quick):
        link.sendall(request)
        got = b""
        while not got.endswith(b"\\r\\n\\r\\n"):
            got += link.recv(65536)
        print(b"x-sso-user: otto" in got)
"""
    folder = os.open(sign_on.sso.socket.parent, os.O_PATH)
    try:
        argv = [sys.executable, "-c", code, str(folder), sign_on.sso.socket.name]
        assert run(argv, pass_fds=(folder,)).stdout.split() == ["True"] * 6
    finally:
        os.close(folder)
