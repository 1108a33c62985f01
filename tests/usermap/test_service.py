"""The map as a process: what follows from a login, who sees which of it, and what stays when others are away."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from services.common.errors import BacklineError
from services.usermap.client import UsermapClient
from services.usermap.schema import State
from tests.rollout.rig import until
from tests.usermap.rig import Rooms, rooms
from tests.usermap.test_template import OLD

SEATS = 24


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rooms]:
    with rooms(tmp_path_factory.mktemp("rooms"), seats=SEATS) as running:
        yield running


@pytest.fixture(autouse=True)
def _nobody(made: Rooms) -> None:
    for login in ("alice", "bob", "olga", "rita"):
        made.sits(login, None)
    made.troubles('{"failed": {}, "silent": []}')
    until(lambda: made.map().counts["free"] == SEATS)


def test_a_login_and_a_logout_are_on_it(made: Rooms) -> None:
    made.sits("alice", 3)
    made.sits("olga", 4)
    until(lambda: made.seat("pas-r01p03").state is State.USER)
    assert made.seat("pas-r01p04").state is State.ORGA
    assert made.seat("pas-r01p03").people[0].login == "alice"
    made.sits("alice", None)
    until(lambda: made.seat("pas-r01p03").state is State.FREE)


def test_a_silent_seat_and_one_whose_unit_failed_are_on_it(made: Rooms) -> None:
    made.troubles('{"failed": {"5": ["lightdm.service"]}, "silent": [6]}')
    until(lambda: made.seat("pas-r01p06").state is State.UNREACHABLE)
    assert (made.seat("pas-r01p05").degraded, made.seat("pas-r01p05").failed) == (True, ["lightdm.service"])


@pytest.mark.parametrize("path", ["/", "/wall", "/map.svg", "/v1/map", "/seats/pas-r01p03", "/events"])
def test_through_no_door_somebody_without_a_session_learns_a_login(made: Rooms, path: str) -> None:
    made.sits("alice", 3)
    until(lambda: made.seat("pas-r01p03").state is State.USER)
    layout = re.findall(r"/events\?layout=(\w+)", httpx2.get(f"{made.service.http}/", timeout=10).text)
    with httpx2.stream("GET", made.service.http + path, params={"layout": layout[0]}, timeout=10) as answer:
        assert answer.status_code == 200
        text = ""
        for piece in answer.iter_text():
            text += piece
            if path == "/events" and text.endswith("\n\n"):
                break
    assert "alice" not in text
    assert "taken" in text or "user" in text
    with UsermapClient(made.service.unix) as client:
        assert "alice" in [person.login for seat in client.map().seats() for person in seat.people]


def test_forged_headers_make_nobody_an_organizer(made: Rooms) -> None:
    made.sits("alice", 3)
    until(lambda: made.seat("pas-r01p03").state is State.USER)
    headers = {"X-Real-IP": "127.0.0.1", "X-SSO-User": "root", "X-Forwarded-Proto": "https"}
    assert "alice" not in httpx2.get(f"{made.service.http}/v1/map", headers=headers, timeout=10).text


def test_it_goes_on_while_others_are_away_and_says_who(made: Rooms) -> None:
    made.sits("alice", 3)
    until(lambda: made.seat("pas-r01p03").state is State.USER)
    made.netboot.process.send_signal(signal.SIGSTOP)
    try:
        until(lambda: any(each.name == "netboot" and each.why for each in made.map().sources))
        assert made.seat("pas-r01p03").state is State.USER
    finally:
        made.netboot.process.send_signal(signal.SIGCONT)
    until(lambda: all(each.why is None for each in made.map().sources))


def test_a_template_is_taken_as_soon_as_it_is_there_and_a_bad_one_is_none(made: Rooms) -> None:
    file = Path(made.folder / "usermap/template.svg")
    page = made.service.http + "/"
    try:
        file.write_text(OLD)
        until(lambda: 'class="drawn"' in httpx2.get(page, timeout=10).text)
        text = httpx2.get(page, timeout=10).text
        assert text.count('id="s1"') == text.count('id="s3"') == 1
        file.write_text("<svg")
        until(lambda: 'class="drawn"' not in httpx2.get(page, timeout=10).text)
    finally:
        file.unlink()


def test_an_unknown_seat_is_not_found(made: Rooms) -> None:
    assert httpx2.get(f"{made.service.http}/seats/nobody", timeout=10).status_code == 404


def test_it_is_well(made: Rooms) -> None:
    assert httpx2.get(f"{made.service.http}/healthz", timeout=10).json()["checks"] == ["mdb", "udb", "presence", "map"]
    text = httpx2.get(f"{made.service.http}/metrics", timeout=10).text
    assert f'backline_usermap_seats{{state="free"}} {SEATS}.0' in text
    with pytest.raises(BacklineError):
        UsermapClient(f"unix:{made.folder}/nobody.sock").map()
