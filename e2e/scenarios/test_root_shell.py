"""Somebody has become root on a seat: nothing that is there works anywhere else, or for anything else.

The seats are containers that boot what netboot says (`e2e.netbooted`), with alice logged in on the first one. The shell
is on that one, and what it has is tried from there and from the second. Root has the seat itself, of course.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from e2e import topology
from e2e.lab import Lab
from e2e.node import Node
from e2e.pool import Labs
from e2e.scenarios import publishing
from e2e.scenarios.logging_in import Hall
from services.common.process import run
from services.common.users import UserGroup
from services.firewall.client import FirewallClient

pytestmark = [pytest.mark.needs("libnfs"), pytest.mark.images, pytest.mark.full]
GW, RHFS = "192.168.1.254", "192.168.1.10"
ALICE, RITA = "correct horse", "root password"
TOKEN, HELD = "/run/credstore/backline.boot-token", "/var/lib/backline/roots"


@pytest.fixture(scope="module")
def hall(labs: Labs, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hall]:
    labs.close()
    with Lab(topology.hall(seats=2), settings=labs.settings, netboot=True, name="shell") as lab:
        publishing.begin(lab, tmp_path_factory.mktemp("administrator"))
        found = Hall(lab)
        found.add("alice", ALICE)
        found.add("olga", "password of olga", UserGroup.ORGA)
        found.add("rita", RITA, UserGroup.ROOT)
        seat = found.seat(1)
        seat.wait_until("her name", lambda: found.knows(seat, "alice"))
        seat.wait_until(
            "presence decides", lambda: found.pam("alice", seat, ALICE, "authenticate").returncode == 0, seconds=90
        )
        console = found.at_console("alice", seat, ALICE)
        try:
            seat.wait_until("alice is in", lambda: found.where() == {"alice": seat.name})
            yield found
            assert found.where() == {"alice": seat.name}
        finally:
            console.kill()
            console.wait()


@pytest.fixture
def shell(hall: Hall) -> Node:
    """Where the shell is."""
    return hall.seat(1)


def token(node: Node) -> str:
    return node.get(TOKEN).decode().strip()


def boot(node: Node) -> str:
    """The id of a seat's boot."""
    found = re.search(r"backline\.boot=([0-9a-f]+)", node.succeeds("cat", "/proc/1/cmdline"))
    assert found
    return found[1]


def asks(hall: Hall, node: Node, method: str, name: str, path: str, *, token: str, **how: Any) -> httpx2.Response:
    """What a seat is answered by a service of gw."""
    context = ssl.create_default_context(cadata=hall.lab.hall.data.trust.ca)
    headers = {"host": f"{name}.prolo", "authorization": f"Bearer {token}"}
    return node.http(method, f"https://{GW}{path}", verify=context, headers=headers, **how)


def test_it_finds_one_token_and_no_password_or_key_and_the_hash_of_who_sits_there(hall: Hall, shell: Node) -> None:
    """The hash opens alice's locked screen while gw is away. The seat has made it: udb's own does not come here."""
    credentials = shell.succeeds("find", "/run/credstore", "/run/credentials", "-type", "f", "-printf", "%f\n").split()
    assert "backline.boot-token" in credentials
    public = {
        "backline.hall",
        "backline.role",
        "backline.version",
        "journal.forward_to_socket",
    }  # the last is the lab's
    assert set(credentials) - public == {"backline.boot-token"}
    everywhere = ["/etc", "/run", "/var", "/tmp", "/home", "/root"]
    keys = shell.run(["grep", "-rlsI", "--", "-----BEGIN .*PRIVATE KEY-----", *everywhere], check=False).stdout.split()
    assert [path for path in keys if not re.search(r"/ssh_host_\w+_key$", path)] == []
    lock = f"/run/backline-seat-home/{shell.succeeds('id', '-u', 'alice')}.hash"
    for what, where in (("[$]y[$]", [lock]), ("[$]6[$]", []), (RITA, []), (ALICE, [])):
        found = shell.run(["grep", "-rlsI", "--", what, *everywhere], check=False).stdout.split()
        assert found == where, what
        found = shell.run(["sh", "-c", f"grep -laE -- '{what}' /proc/[0-9]*/environ"], check=False).stdout.split()
        assert found == [], what


def test_its_token_is_good_for_nothing_but_its_own_logins_and_heartbeats(hall: Hall, shell: Node) -> None:
    own = token(shell)
    users, alice = "/v1/users", "/v1/users/alice"
    doors: list[tuple[str, str, str, object]] = [
        ("udb", "GET", users, None),
        ("udb", "GET", alice, None),
        ("udb", "GET", "/v1/audit", None),
        ("udb", "GET", "/v1/export", None),
        ("udb", "GET", "/v1/feed/private", None),
        ("udb", "POST", users, {"login": "mallory"}),
        ("udb", "POST", "/v1/users/1/password", None),
        ("udb", "POST", "/v1/sheet", {}),
        ("presence", "GET", "/v1/sessions", None),
        ("presence", "GET", "/v1/feed", None),
        ("presence", "POST", "/v1/heartbeats", {"beats": []}),
        ("mdb", "POST", "/v1/machines", {"hostname": "mallory"}),
        ("netboot", "GET", "/v1/boots", None),
        ("netboot", "GET", "/v1/leases", None),
        ("netboot", "GET", "/v1/feed", None),
        ("netboot", "POST", "/v1/orders", {"version": "1", "machines": [1]}),
        ("netboot", "POST", "/v1/channels/stable/switch", {"version": "1"}),
        ("rollout", "POST", "/v1/rollouts", {"version": "1"}),
    ]
    for name, method, path, body in doors:
        answer = asks(hall, shell, method, name, path, token=own, **({"json": body} if body is not None else {}))
        assert answer.status_code in (401, 403), f"{method} {name}{path}: {answer.status_code} {answer.text}"
    answer = asks(hall, shell, "GET", "map", "/v1/map", token=own)
    assert "alice" not in answer.text


def test_its_token_is_no_good_at_another_seat(hall: Hall, shell: Node) -> None:
    other, own = hall.seat(2), token(shell)
    login = {"login": "alice", "password": ALICE, "stage": "auth"}
    answer = asks(hall, other, "POST", "presence", "/v1/login", token=own, json=login)
    assert answer.json()["reason"] == "machine"
    answer = asks(hall, other, "POST", "presence", "/v1/logout", token=own, json={"login": "alice"})
    assert (answer.status_code, answer.json()["code"]) == (403, "auth.denied")
    beat = {"version": "1", "health": {"state": "running"}, "users": []}
    heartbeat = f"/v1/boots/{boot(shell)}/heartbeat"
    answer = asks(hall, other, "PUT", "netboot", heartbeat, token=own, json=beat)
    assert (answer.status_code, answer.json()["code"]) == (403, "auth.denied")
    for seat in (shell, other):
        claim = asks(hall, seat, "POST", "netboot", f"/v1/boots/{boot(other)}/credentials", token=own)
        assert claim.status_code in (403, 409), claim.text
        answer = asks(hall, seat, "PUT", "netboot", f"/v1/boots/{boot(other)}/heartbeat", token=own, json=beat)
        assert answer.status_code == 403
    assert hall.where() == {"alice": shell.name}


def test_a_claim_to_be_somebody_else_opens_nothing(hall: Hall) -> None:
    other = hall.seat(2)
    beat = {"version": "1", "health": {"state": "running"}, "users": ["rita", "olga", "alice"]}

    def claims() -> bool:
        """Again and again: its own heartbeat, which names nobody, may be the newer one when presence is told."""
        path = f"/v1/boots/{boot(other)}/heartbeat"
        assert asks(hall, other, "PUT", "netboot", path, token=token(other), json=beat).status_code == 200
        return unproven(hall) > 0

    hall.gw.wait_until("presence has heard it", claims, seconds=10)
    assert hall.where() == {"alice": hall.seat(1).name}
    with FirewallClient(hall.gw.service("firewall")) as firewall:
        assert not firewall.why(other.name).standing.allowed
    forged = {"host": "mdb", "x-sso-user": "rita", "x-real-ip": hall.seat(1).address, "x-sso-status": "authenticated"}
    page = other.http("GET", f"http://{GW}/machines", headers=forged)
    assert (page.headers.get("x-sso-user"), page.headers["x-sso-status"]) == (None, f"logged-out machine {other.name}")


def unproven(hall: Hall) -> float:
    """Claims that presence did not believe."""
    transport = httpx2.HTTPTransport(uds=hall.gw.service("presence").removeprefix("unix:"))
    with httpx2.Client(transport=transport) as client:
        text = client.get("http://presence/metrics").text
    return sum(
        float(line.split()[1]) for line in text.splitlines() if line.startswith("backline_presence_unbelieved_total")
    )


def test_it_opens_no_other_machine_and_no_other_home(hall: Hall, shell: Node) -> None:
    """Not even with agents, keys and known hosts of its own making."""
    other = hall.seat(2)
    shell.succeeds(
        "sh", "-c", "test -e /root/.ssh/id_ed25519 || ssh-keygen -q -t ed25519 -N '' -f /root/.ssh/id_ed25519"
    )
    quiet = ["-oBatchMode=yes", "-oStrictHostKeyChecking=no", "-oUserKnownHostsFile=/dev/null", "-oConnectTimeout=5"]
    for address in (GW, RHFS, other.address):
        for login in ("root", "alice", "rita"):
            done = shell.run(["ssh", *quiet, f"{login}@{address}", "true"], check=False)
            assert done.returncode == 255, (login, address)
            assert "Permission denied" in done.stderr, done.stderr
    shell.succeeds("test", "-d", "/home/alice")
    other.fails("test", "-e", "/home/alice")


def test_it_writes_nothing_to_the_root_file_server(hall: Hall, shell: Node) -> None:
    lab = hall.lab
    assert lab.netboot is not None
    folder, before = lab.netboot.path, held(lab)

    def nfs(program: str, *words: str) -> int:
        return run(lab.sandbox.inside([program, *words], netns=shell.netns), check=False).returncode

    for version in ("3", "4"):
        who = f"?version={version}&uid=0&gid=0"
        for name in ("vmlinuz", "mallory"):
            assert nfs("nfs-cp", "/etc/hostname", f"nfs://{RHFS}{folder}/{name}{who}") != 0
    assert nfs("nfs-cat", f"nfs://{RHFS}{folder}/vmlinuz?version=4") == 0
    assert held(lab) == before


def held(lab: Lab) -> list[str]:
    """What the root file server has: every file with size, time and mode."""
    return sorted(lab["rhfs01"].succeeds("find", HELD, "-printf", "%p %s %T@ %m\\n").splitlines())
