"""Who gets out of the hall through gw: servers do, a seat does while somebody sits there who may.

udb, presence, mdb and the firewall are gw's own; whom a seat's heartbeat names is told presence as netboot tells it.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from e2e.lab import Lab
from e2e.node import Node
from services.common.errors import BacklineError
from services.common.process import running, spawn
from services.common.users import UserGroup
from services.firewall.client import FirewallClient
from services.firewall.schema import Reason
from services.presence.client import Presence
from services.presence.schema import Beat
from services.udb.client import Udb
from services.udb.schema import NewUser
from services.usermap.client import UsermapClient
from services.usermap.schema import State
from services.usermap.view import by_name

pytestmark = [pytest.mark.lan(topology="hall", seats=2), pytest.mark.images]
OVERRIDE = "/run/backline/hall/override.toml"
UPSTREAM, PORT = "198.51.100.1", 8080
# The world: echoes what it gets, and says whom it sees.
ECHO = f"""
import socket, threading
server = socket.create_server(("{UPSTREAM}", {PORT}))
print("ready", flush=True)
def one(held):
    while data := held.recv(100):
        held.send(data)
while True:
    held, address = server.accept()
    print(*address, sep=":", flush=True)
    threading.Thread(target=one, args=(held,), daemon=True).start()
"""
REACH = f"""
import socket
held = socket.create_connection(("{UPSTREAM}", {PORT}), 5)
held.send(b"x")
assert held.recv(1) == b"x"
"""
# Keeps one connection, and says each half second whether it is still good.
STAY = f"""
import socket, time
held = socket.create_connection(("{UPSTREAM}", {PORT}), 5)
held.settimeout(5)
while True:
    try:
        held.send(b"x")
        said = "good" if held.recv(1) == b"x" else "ended"
    except OSError as error:
        said = type(error).__name__
    with open("/run/stay", "w") as file:
        file.write(said)
    if said != "good":
        break
    time.sleep(0.5)
"""


@dataclass
class Gate:
    """gw's services, a seat, and the world."""

    lab: Lab
    firewall: FirewallClient
    presence: Presence
    udb: Udb
    world: subprocess.Popen[bytes]

    @property
    def seat(self) -> Node:
        return self.lab[next(iter(self.lab.machines))]

    def sits(self, *logins: str) -> None:
        """What a heartbeat of the seat says."""
        machine = self.lab.machines[self.seat.name]
        beat = Beat(machine=machine.id, hostname=machine.hostname, boot="0" * 32, users=list(logins))
        self.presence.heartbeats([beat])

    def is_so(self, reason: Reason) -> bool:
        try:
            standing = self.firewall.why(self.seat.name).standing
        except BacklineError:  # it is being started again
            return False
        return standing.reason is reason and standing.in_force


@pytest.fixture
def gate(lab: Lab) -> Iterator[Gate]:
    """Nobody sits on the seat; alice, a contestant, and olga, an organizer, are in udb."""
    gw = lab["gw"]
    with (
        spawn(
            # Not by the sandbox: nsenter would fork for its process namespace, and signals would reach it alone.
            ["nsenter", f"--target={lab.sandbox.pid}", "-n", "--", sys.executable, "-c", ECHO],
            stdout=subprocess.PIPE,
        ) as world,
        running(world),
        FirewallClient(gw.service("firewall")) as firewall,
        Presence(gw.service("presence")) as presence,
        Udb(gw.service("udb")) as udb,
    ):
        assert world.stdout is not None
        assert world.stdout.readline() == b"ready\n"
        there = {user.login for user in udb.users().users}
        for login, group in (("alice", UserGroup.USER), ("olga", UserGroup.ORGA)):
            if login not in there:
                udb.create(NewUser(login=login, group=group, password="correct horse"))
        made = Gate(lab, firewall, presence, udb, world)
        until(lambda: firewall.status().problem is None)
        made.sits()
        until(lambda: made.is_so(Reason.NOBODY))
        yield made
        made.sits()


def until(what: Callable[[], bool], *, seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def reaches(node: Node) -> bool:
    """Does a machine reach the world?"""
    return node.run(["python3", "-c", REACH], check=False).returncode == 0


def test_servers_reach_the_world_and_an_empty_seat_does_not(gate: Gate) -> None:
    assert gate.firewall.why("web").standing.reason is Reason.TYPE
    assert reaches(gate.lab["web"])
    assert not reaches(gate.seat)
    assert gate.lab["gw"].succeeds("sysctl", "--values", "net.ipv4.ip_forward") == "1"


def test_a_seat_reaches_it_while_somebody_sits_there_who_may_and_what_is_open_ends_with_that(gate: Gate) -> None:
    gate.sits("alice")
    until(lambda: gate.is_so(Reason.GROUP))
    assert reaches(gate.seat)
    with gate.seat.run_in_background(["python3", "-c", STAY]) as process, running(process):
        until(lambda: gate.seat.run(["cat", "/run/stay"], check=False).stdout == "good")
        gate.sits()
        began = time.monotonic()
        until(lambda: gate.seat.run(["cat", "/run/stay"], check=False).stdout == "ConnectionResetError")
        assert time.monotonic() - began < 5
    assert not reaches(gate.seat)
    assert (
        "nobody has a session"
        in gate.lab["gw"].run(["backline", "firewall", "why", gate.seat.name], check=False).stdout
    )


def test_the_journal_says_who_opened_what_and_as_whom_the_world_saw_it(gate: Gate) -> None:
    gate.sits("alice")
    until(lambda: gate.is_so(Reason.GROUP))
    assert reaches(gate.seat)
    assert gate.world.stdout is not None
    outside = gate.world.stdout.readline().decode().strip()
    gw = gate.lab["gw"]
    asked = ["journalctl", "--unit=backline-firewall", "--output=cat", "FLOW_USER=alice", f"FLOW_SEAT={gate.seat.name}"]
    line = rf"alice at {gate.seat.name}: tcp {gate.seat.address}:\d+ to {UPSTREAM}:{PORT} as {re.escape(outside)}"
    until(lambda: re.search(line, gw.succeeds(*asked)) is not None)


def test_a_user_whose_group_changes_in_udb_or_who_is_deleted_keeps_nothing(gate: Gate) -> None:
    made = gate.udb.create(NewUser(login="zoe", password="correct horse"))

    def is_in() -> bool:
        gate.sits("zoe")  # again and again, as heartbeats are: presence has to hear of her first
        return gate.is_so(Reason.GROUP)

    until(is_in)
    gate.udb.delete(made.id)
    until(lambda: not gate.is_so(Reason.GROUP))
    assert not reaches(gate.seat)


def test_a_group_that_is_taken_out_of_hall_toml_loses_what_it_has_open(gate: Gate) -> None:
    gw = gate.lab["gw"]
    gate.sits("alice")
    until(lambda: gate.is_so(Reason.GROUP))
    before = 'allowed_groups = ["user", "orga", "root"]'
    assert before in gate.lab.hall.text
    with gate.seat.run_in_background(["python3", "-c", STAY]) as process, running(process):
        until(lambda: gate.seat.run(["cat", "/run/stay"], check=False).stdout == "good")
        try:
            gw.put(OVERRIDE, gate.lab.hall.text.replace(before, 'allowed_groups = ["orga", "root"]'))
            gw.succeeds("systemctl", "reload", "backline-hall.service")
            until(lambda: gate.seat.run(["cat", "/run/stay"], check=False).stdout == "ConnectionResetError")
            gate.sits("alice")
            until(lambda: gate.is_so(Reason.REFUSED))
        finally:
            gw.succeeds("rm", "-f", OVERRIDE)
            gw.succeeds("systemctl", "reload", "backline-hall.service")
    gate.sits("alice")
    until(lambda: gate.is_so(Reason.GROUP))
    assert reaches(gate.seat)


def test_a_group_that_is_denied_while_the_hall_runs_loses_what_it_has_open_and_stays_in(gate: Gate) -> None:
    gw = gate.lab["gw"]
    gate.sits("alice")
    until(lambda: gate.is_so(Reason.GROUP))
    with gate.seat.run_in_background(["python3", "-c", STAY]) as process, running(process):
        until(lambda: gate.seat.run(["cat", "/run/stay"], check=False).stdout == "good")
        try:
            assert "user   no" in gw.succeeds("backline", "firewall", "deny", "user")
            began = time.monotonic()
            until(lambda: gate.seat.run(["cat", "/run/stay"], check=False).stdout == "ConnectionResetError")
            assert time.monotonic() - began < 3  # the seat says so each half second, and podman has to start `cat`
            gw.succeeds("systemctl", "restart", "backline-firewall")
            gw.succeeds("systemctl", "reload", "backline-hall.service")
            gate.sits("alice")
            until(lambda: gate.is_so(Reason.REFUSED))
            assert not reaches(gate.seat)
            gw.succeeds("backline", "state", "save")
            newest = json.loads(gw.succeeds("backline", "state", "list", "--json"))["saves"][0]["name"]
            assert "firewall" in gw.succeeds("backline", "state", "show", newest)
        finally:
            gw.succeeds("backline", "firewall", "default", "user")
    gate.sits("alice")
    until(lambda: gate.is_so(Reason.GROUP))
    assert reaches(gate.seat)
    assert "root (local) user: denied" in gw.succeeds("backline", "firewall", "history")
    # Over the network it is for who has logged in.
    for method in ("GET", "PUT"):
        seen = gate.seat.http(method, "http://192.168.1.254/v1/groups/user", headers={"host": "firewall"})
        assert seen.status_code in (401, 405)


def test_rules_outlive_every_part_and_no_connection_is_missed(gate: Gate) -> None:
    gate.sits("olga")
    until(lambda: gate.is_so(Reason.GROUP))
    gw, opened = gate.lab["gw"], 0
    for unit in ("backline-firewall", "backline-udb", "backline-mdb"):
        gw.succeeds("systemctl", "kill", "--signal=KILL", unit)
        assert reaches(gate.seat)
        opened += 1
        until(lambda: gw.run(["systemctl", "is-active", unit], check=False).returncode == 0)  # noqa: B023
        gate.sits("olga")
        assert reaches(gate.seat)
        opened += 1
    asked = ["journalctl", "--unit=backline-firewall", "--output=cat", "FLOW_USER=olga"]
    until(lambda: len(gw.succeeds(*asked).splitlines()) >= opened)
    assert gw.succeeds(*asked, "FLOW_LATE=1")


def test_the_map_shows_who_sits_there_to_root_and_to_nobody_else(gate: Gate) -> None:
    gate.sits("alice")
    gw = gate.lab["gw"]
    with UsermapClient(gw.service("usermap")) as client:
        until(lambda: by_name(client.map())[gate.seat.name].state is State.USER)
        assert [each.login for each in by_name(client.map())[gate.seat.name].people] == ["alice"]
        gate.sits()
        until(lambda: by_name(client.map())[gate.seat.name].state is not State.USER)
    gate.sits("alice")
    seen = gate.lab["web"].http("GET", "http://192.168.1.254/v1/map", headers={"host": "map"})
    assert seen.status_code == 200
    assert "alice" not in seen.text
    page = gate.lab["web"].http("GET", "http://192.168.1.254/", headers={"host": "map", "accept": "text/html"})
    assert gate.seat.name in page.text
    assert "alice" not in page.text


def test_both_are_well(gate: Gate) -> None:
    for name in ("firewall", "usermap"):
        argv = ["python3", "-c", HEALTH, f"/run/backline/{name}.sock"]
        assert '"ok"' in gate.lab["gw"].succeeds(*argv)


HEALTH = """
import socket, sys
held = socket.socket(socket.AF_UNIX)
held.connect(sys.argv[1])
held.send(b"GET /healthz HTTP/1.0\\r\\nhost: x\\r\\n\\r\\n")
print(held.recv(9999).decode())
"""
