"""The overview before processes that live, are half dead, and dead: who is silent is unknown within its limit."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx2
import pytest

from netboot.client import Netboot
from services.common.errors import Exit
from services.overview.client import OverviewClient
from tests.common.service_rig import ROOT, base_environment
from tests.overview.rig import HOSTS, Whole, beating_seat, hostd, stopped, whole
from tests.rollout.rig import until

LIMIT = 5.0
"""Seconds: asked every half second here, with a second to answer, on a machine that does other things as well."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Whole]:
    with whole(tmp_path_factory.mktemp("hall"), seats=8, hosts=("gw", "rhfs2", "web")) as running:
        yield running


def overview(made: Whole, *words: str, code: int) -> str:
    argv = [sys.executable, "-m", "services.common.main", "overview", "show", "--address", made.overview.unix, *words]
    done = subprocess.run(argv, cwd=ROOT, env=base_environment(), check=False, capture_output=True, text=True)
    assert done.returncode == code, done.stderr
    return done.stdout


def test_everything_is_in_one_answer(made: Whole) -> None:
    hall = made.hall()
    assert {host.name: host.state.value for host in hall.hosts} == {"gw": "up", "rhfs2": "up", "web": "degraded"}
    assert {host.name: host.failed for host in hall.hosts if host.failed} == {"web": ["nginx.service"]}
    assert hall.seats == {"up": 8, "degraded": 0, "starting": 0, "unknown": 0, "off": 0}
    (room,) = hall.rooms
    assert (room.name, [each.seats for each in room.versions], [len(row.seats) for row in room.rows]) == (
        "pasteur",
        [8],
        [8],
    )
    assert [(each.channel.name, each.running, each.seats) for each in hall.channels] == [("stable", 8, 8)]
    told = [fault.text for fault in hall.faults]
    assert told == ["web: nginx.service failed", "rhfs2: 6 % of /var is free"]
    published = {each.role: each for each in hall.published}
    assert {one.host: one.state for one in published["nfsroot"].receivers} == {"rhfs1": "confirmed", "rhfs2": "pulling"}
    wanted = next(host for host in hall.hosts if host.name == "rhfs2").published
    assert wanted == published["rhfs"].version != HOSTS["rhfs2"][1]


def test_it_prints_it(made: Whole) -> None:
    text = overview(made, code=Exit.DIFFERENT)
    assert "! web: nginx.service failed\n" in text
    assert "  gw     up       gw           20261120" in text
    assert "seats: 8 up\n" in text


def test_a_host_that_is_half_dead_is_unknown_and_back_at_once(made: Whole) -> None:
    before = made.hall().at
    with stopped(made.hosts["gw"]):
        began = time.monotonic()
        until(lambda: made.state("gw") == "unknown", seconds=LIMIT)
        assert time.monotonic() - began < LIMIT
        host = next(host for host in made.hall().hosts if host.name == "gw")
        assert host.why == "no answer within 1 s"
        assert before - 2 < host.since < time.time()
        assert host.version == HOSTS["gw"][1]  # what it ran when it was heard last
        assert made.state("rhfs2") == "up"  # nobody waits for another one
        assert "  gw     unknown  gw           since " in overview(made, code=Exit.DIFFERENT)
    until(lambda: made.state("gw") == "up", seconds=LIMIT)


def test_a_host_that_was_killed_is_unknown_and_a_new_one_replaces_it(made: Whole) -> None:
    port = made.hosts["rhfs2"].port
    os.kill(made.hosts["rhfs2"].process.pid, signal.SIGKILL)
    until(lambda: made.state("rhfs2") == "unknown", seconds=LIMIT)
    host = next(host for host in made.hall().hosts if host.name == "rhfs2")
    assert host.why is not None
    assert "cannot be reached" in host.why
    with hostd(made.folder, "rhfs2", "rhfs", "20261127.000000000000", port=port):
        until(lambda: made.state("rhfs2") == "up", seconds=LIMIT)
        assert next(host.version for host in made.hall().hosts if host.name == "rhfs2") == "20261127.000000000000"


def test_a_seat_that_is_half_dead_is_unknown_in_every_place(made: Whole) -> None:
    with beating_seat(made, 3) as process:
        name = made.hall().rooms[0].rows[0].seats[2].hostname

        def state() -> str:
            return next(seat.state.value for seat in made.hall().rooms[0].rows[0].seats if seat.hostname == name)

        until(lambda: state() == "up")
        os.kill(process, signal.SIGSTOP)
        made.ahead(46)  # netboot's 45 s are over; the others go on beating
        until(lambda: state() == "unknown" and made.hall().seats["up"] == 7, seconds=LIMIT)
        with Netboot(made.netboot.unix) as netboot:
            leases = {each.hostname: each.state.value for each in netboot.leases().leases}
            seats = {each.hostname: each.state.value for each in netboot.seats().seats}
        assert leases[name] == seats[name] == "unknown"
        assert list(leases.values()).count("up") == 7
        argv = [sys.executable, "-m", "services.common.main", "netboot", "leases", "--address", made.netboot.unix]
        done = subprocess.run(argv, cwd=ROOT, env=base_environment(), check=True, capture_output=True, text=True)
        assert [line.split()[:2] for line in done.stdout.splitlines() if "unknown" in line] == [[name, "unknown"]]
        assert any(fault.text == f"Silent: {name}" for fault in made.hall().faults)
        os.kill(process, signal.SIGCONT)
        until(lambda: state() == "up", seconds=LIMIT)
    made.ahead(92)  # the process is gone
    until(lambda: state() == "unknown", seconds=LIMIT)
    made.seats.seats[2].silent = False
    until(lambda: state() == "up", seconds=LIMIT)


def test_while_netboot_is_half_dead_no_seat_is_up(made: Whole) -> None:
    with stopped(made.netboot):
        until(lambda: made.hall().seats["unknown"] == 8, seconds=LIMIT)
        hall = made.hall()
        assert hall.seats["up"] == 0
        assert hall.faults[0].text == "netboot is silent: no answer within 1 s"
        assert [each.running for each in hall.channels] == [0]
    until(lambda: made.hall().seats["up"] == 8, seconds=LIMIT)


def test_many_who_look_cost_one_round_of_questions(made: Whole) -> None:
    def rounds() -> float:
        with httpx2.Client(transport=httpx2.HTTPTransport(uds=str(made.overview.socket))) as client:
            text = client.get("http://x/metrics").text
        return float(next(line for line in text.splitlines() if line.startswith("backline_overview_rounds")).split()[1])

    before, began = rounds(), time.monotonic()
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda _: made.hall().revision, range(64)))
    assert len(answers) == 64
    assert rounds() - before <= 2 + (time.monotonic() - began) / 0.5


def test_nobody_sees_it_without_having_logged_in(made: Whole) -> None:
    with httpx2.Client(base_url=made.overview.http) as client:
        assert client.get("/v1/hall").status_code == 401
        assert client.get("/", headers={"accept": "text/html"}).status_code == 401
        assert client.get("/hosts/gw", headers={"accept": "text/html"}).status_code == 401


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("/", "gw"),
        ("/seats", "pas-r01p08"),
        ("/seats?state=off", "There is no such seat."),
        ("/seats/pas-r01p01", "backline why pas-r01p01"),
        ("/hosts/web", "backline host journal nginx.service --host web"),
    ],
)
def test_pages_are_whole_without_a_script(made: Whole, path: str, says: str) -> None:
    with httpx2.Client(transport=httpx2.HTTPTransport(uds=str(made.overview.socket))) as client:
        answer = client.get(f"http://overview.prolo{path}", headers={"accept": "text/html"})
    assert answer.status_code == 200, answer.text
    assert says in answer.text
    assert 'href="//mdb.prolo/"' in answer.text


def test_who_has_the_newest_is_told_that_nothing_is_new(made: Whole) -> None:
    with httpx2.Client(transport=httpx2.HTTPTransport(uds=str(made.overview.socket))) as client:
        revision = made.hall().revision
        assert client.get(f"http://x/hall?seen={revision}").status_code == 204
        assert client.get("http://x/hall?seen=0").status_code == 200
        for path in ("/hosts/nobody", "/seats/nobody"):
            assert client.get(f"http://x{path}").status_code == 404


def test_an_answer_is_never_old(made: Whole) -> None:
    with OverviewClient(made.overview.unix) as client:
        time.sleep(1.2)
        assert time.time() - client.hall().at < 1.5
