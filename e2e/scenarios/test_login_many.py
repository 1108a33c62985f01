"""150 users log in within a minute, each at a machine of its own, over real PAM: what a contest's first minute is.

A few seats in containers are 50 machines each. A machine is one of mdb's, with a card (macvlan), an address and a boot
of its own: netboot decides that boot, and its token was claimed from its address. PAM, presence's TLS and the home are
the image's. Not real: the processors, of which such a hall has 150 and this machine has few, and logind's sessions.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import pytest

from e2e import netbooted, topology
from e2e.lab import Lab
from e2e.node import Node
from e2e.pool import Labs
from e2e.scenarios.logging_in import Hall, put_pamtester
from services.mdb.client import Mdb
from services.mdb.schema import Edits as Machines
from services.mdb.schema import MachineType, NewMachine
from services.udb.schema import Edits as Users
from services.udb.schema import NewUser

pytestmark = [pytest.mark.images, pytest.mark.full]
SEATS, EACH = 3, 50
SPREAD, MINUTE = 40.0, 60.0
PASSWORD = "correct horse"
MACHINES = r"""
import concurrent.futures, json, os, pathlib, re, subprocess, sys, time, urllib.request
what, gateway, start, spread = sys.argv[1], sys.argv[2], float(sys.argv[3]), float(sys.argv[4])
machines = json.load(open("/opt/machines.json"))
STORE = pathlib.Path("/opt/machines")
LOGIN = 'mount --bind "$1" /run/credstore && exec /opt/pamtester login "$2" authenticate acct_mgmt'

def prepare(machine):
    name = machine["name"]
    lines = [f"link add link host0 name {name} address {machine['mac']} type macvlan mode bridge",
             f"link set {name} netns {name}"]
    subprocess.run(["ip", "netns", "add", name], check=True)
    subprocess.run(["ip", "-batch", "-"], input="\n".join(lines) + "\n", text=True, check=True)
    lines = [f"address add {machine['address']} dev {name}", f"link set {name} up", f"route add default via {gateway}"]
    subprocess.run(["ip", "-netns", name, "-batch", "-"], input="\n".join(lines) + "\n", text=True, check=True)
    place = os.open(f"/run/netns/{name}", os.O_RDONLY)
    os.setns(place, os.CLONE_NEWNET)
    os.close(place)
    for attempt in range(30):
        script = urllib.request.urlopen(f"http://{gateway}/boot/{machine['mac']}", timeout=20).read().decode()
        if boot := re.search(r"\bbackline\.boot=(\w+)", script):
            break
        time.sleep(1)
    claim = urllib.request.Request(f"http://{gateway}/v1/boots/{boot[1]}/credentials", method="POST")
    found = json.load(urllib.request.urlopen(claim, timeout=20))["credentials"]
    (STORE / name).mkdir(parents=True)
    (STORE / name / "backline.boot-token").write_text(found["backline.boot-token"])

def login(number, machine):
    time.sleep(max(0.0, start + spread * number / len(machines) - time.time()))
    name, began = machine["name"], time.time()
    argv = ["nsenter", f"--net=/run/netns/{name}", "unshare", "--mount", "--propagation=private",
            "sh", "-c", LOGIN, "sh", STORE / name, machine["login"]]
    done = subprocess.run(argv, input=machine["password"] + "\n", text=True, capture_output=True)
    return {"login": machine["login"], "code": done.returncode, "began": began, "ended": time.time(),
            "said": (done.stdout + done.stderr)[-300:]}

if what == "prepare":
    home = os.open("/proc/self/ns/net", os.O_RDONLY)
    for machine in machines:
        os.setns(home, os.CLONE_NEWNET)
        prepare(machine)
    found = []
else:
    with concurrent.futures.ThreadPoolExecutor(len(machines)) as pool:
        found = list(pool.map(login, range(len(machines)), machines))
json.dump(found, sys.stdout)
"""


@pytest.fixture(scope="module")
def hall(labs: Labs) -> Iterator[Hall]:
    labs.close()
    with Lab(topology.hall(seats=SEATS), settings=labs.settings, netboot=True, name="many") as lab:
        netbooted.follow(lab)
        lab.start(seconds=300)
        yield Hall(lab)


def on_seats(hall: Hall, what: str, start: float, *, seconds: float) -> list[dict[str, Any]]:
    """Run the part `what` of every seat's machines, all seats at once."""
    gateway = str(hall.lab.hall.data.gateway_address({"hall"}))
    argv = ["python3", "/opt/machines.py", what, gateway, f"{start:.3f}", f"{SPREAD}"]

    def run(seat: Node) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(seat.succeeds(*argv, seconds=seconds))
        return found

    with ThreadPoolExecutor(SEATS) as pool:
        seats = [hall.seat(number + 1) for number in range(SEATS)]
        return [each for found in pool.map(run, seats) for each in found]


def admitted(hall: Hall) -> int:
    transport = httpx2.HTTPTransport(uds=hall.gw.service("presence").removeprefix("unix:"))
    with httpx2.Client(transport=transport) as client:
        text = client.get("http://presence/metrics").text
    return int(float(text.partition("\nbackline_presence_admitted_total ")[2].split()[0]))


def test_150_users_log_in_within_a_minute_each_at_a_machine_of_its_own(
    hall: Hall, capsys: pytest.CaptureFixture[str]
) -> None:
    total = SEATS * EACH
    new = [
        NewMachine(
            hostname=f"m{number}", mac=f"52:54:00:ee:{number // 256:02x}:{number % 256:02x}", type=MachineType.USER
        )
        for number in range(total)
    ]
    with Mdb(hall.gw.service("mdb"), seconds=60) as mdb:
        machines = mdb.edit(Machines(create=new)).machines
    with hall.udb() as udb:
        for at in range(0, total, 25):  # a hash takes its time
            udb.edit(Users(create=[NewUser(login=f"u{number}", password=PASSWORD) for number in range(at, at + 25)]))
    (network,) = [each.cidr for each in hall.lab.hall.data.networks.values() if machines[0].ip in each.cidr]
    for number in range(SEATS):
        seat, its = hall.seat(number + 1), range(number * EACH, (number + 1) * EACH)
        put_pamtester(seat)
        seat.put("/opt/machines.py", MACHINES)
        documents = [
            {
                "name": machines[each].hostname,
                "mac": machines[each].mac,
                "address": f"{machines[each].ip}/{network.prefixlen}",
                "login": f"u{each}",
                "password": PASSWORD,
            }
            for each in its
        ]
        seat.put("/opt/machines.json", json.dumps(documents), mode=0o600)
        seat.wait_until("its users", lambda seat=seat: hall.knows(seat, f"u{total - 1}"), seconds=60)  # type: ignore[misc]
    on_seats(hall, "prepare", 0, seconds=300)
    hall.gw.wait_until("a warm database", lambda: warm(hall), seconds=60)
    before = admitted(hall)

    found = on_seats(hall, "login", time.time() + 1, seconds=300)
    refused = [each for each in found if each["code"] != 0]
    assert refused == []
    assert len({each["login"] for each in found}) == total
    assert admitted(hall) - before == total
    took = sorted(each["ended"] - each["began"] for each in found)
    whole = max(each["ended"] for each in found) - min(each["began"] for each in found)
    with capsys.disabled():
        print(
            f"\n{total} PAM logins, begun within {SPREAD:.0f} s: the last one was in after {whole:.1f} s; one took"
            f" {took[total // 2]:.2f} s (median), {took[int(total * 0.95)]:.2f} s (p95), {took[-1]:.2f} s (most)"
        )
    assert whole < MINUTE


def warm(hall: Hall) -> bool:
    """Whether presence, which begins with an empty database, lets anybody in."""
    done = hall.pam("u0", hall.seat(1), PASSWORD, "authenticate")
    return done.returncode == 0
