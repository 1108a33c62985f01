"""Presence and single sign-on in the hall: users of udb, seats that beat, and gw's services that come and go.

The seats are containers that boot what netboot says and send their own heartbeats. Logging in is asked as a seat's PAM
asks it: with the boot's token, from the seat's own address, over TLS.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from e2e import netbooted, topology
from e2e.lab import Lab
from e2e.pool import Labs
from services.common.users import UserGroup
from services.presence.client import Presence
from services.presence.rules import EXPIRY_SECONDS
from services.udb.client import Udb
from services.udb.schema import NewUser, UserPatch

SECRET = "correct horse battery"
SERVICES = ("mdb", "udb", "presence", "sso", "netboot")
SEATS = 2

pytestmark = [pytest.mark.full, pytest.mark.images]


@pytest.fixture(scope="module")
def lab(labs: Labs) -> Iterator[Lab]:
    labs.close()
    with Lab(topology.hall(seats=SEATS), settings=labs.settings, netboot=True, name="presence") as made:
        netbooted.follow(made)
        made.start(seconds=300)
        gw = made["gw"]
        for name in SERVICES:
            gw.wait_for_unit(f"backline-{name}.service")
        with Udb(gw.service("udb")) as udb:
            for name, group in (("alice", UserGroup.USER), ("bob", UserGroup.USER), ("otto", UserGroup.ORGA)):
                udb.create(NewUser(login=name, group=group, password=SECRET))
        for number in range(1, SEATS + 1):
            made[seat(number)].wait_until("a heartbeat", lambda: heard(made) >= SEATS, seconds=60)
        gw.wait_until("a warm database", lambda: login(made, 1, "alice")["reason"] != "early", seconds=60)
        yield made
        made.check()


def seat(number: int) -> str:
    return topology.seat_name(number - 1)


def heard(lab: Lab) -> int:
    """Heartbeats that presence has taken since its start."""
    transport = httpx2.HTTPTransport(uds=lab["gw"].service("presence").removeprefix("unix:"))
    with httpx2.Client(transport=transport) as client:
        text = client.get("http://presence/metrics").text
    return int(float(text.partition("\nbackline_presence_heartbeats_total ")[2].split()[0]))


def asks(lab: Lab, number: int, path: str, body: dict[str, Any], *, token_of: int | None = None) -> httpx2.Response:
    """What a seat is answered by presence, with its own token unless told."""
    token = lab[seat(token_of or number)].get("/run/credstore/backline.boot-token").decode().strip()
    context = ssl.create_default_context(cadata=lab.hall.data.trust.ca)
    headers = {"host": "presence.prolo", "authorization": f"Bearer {token}"}
    url = f"https://192.168.1.254{path}"
    return lab[seat(number)].http("POST", url, verify=context, headers=headers, json=body)


def login(lab: Lab, number: int, name: str, *, stage: str = "auth", **how: Any) -> dict[str, Any]:
    body = {"login": name, "password": SECRET if stage == "auth" else None, "stage": stage}
    return dict(asks(lab, number, "/v1/login", body, **how).json())


def logs_in(lab: Lab, number: int, name: str) -> None:
    for stage in ("auth", "account"):
        answer = login(lab, number, name, stage=stage)
        assert answer["allowed"], answer


def leaves(lab: Lab, number: int, name: str) -> None:
    assert asks(lab, number, "/v1/logout", {"login": name}).status_code == 204


def where(lab: Lab) -> dict[str, str]:
    with Presence(lab["gw"].service("presence")) as client:
        return {each.login: each.hostname for each in client.sessions().sessions}


def page(lab: Lab, number: int, **headers: str) -> tuple[int, str | None, str | None]:
    """Status of mdb's first page for a seat, and whom it knows there."""
    answer = lab[seat(number)].http("GET", "http://192.168.1.254/machines", headers={"host": "mdb", **headers})
    return answer.status_code, answer.headers.get("x-sso-user"), answer.headers.get("x-sso-status")


def test_every_service_is_well(lab: Lab) -> None:
    for name in SERVICES:
        transport = httpx2.HTTPTransport(uds=lab["gw"].service(name).removeprefix("unix:"))
        with httpx2.Client(transport=transport) as client:
            assert client.get(f"http://{name}/healthz").json()["status"] == "ok"


def test_a_user_of_udb_logs_in_on_a_seat_and_is_known_to_pages_until_the_logout(lab: Lab) -> None:
    logs_in(lab, 1, "alice")
    assert where(lab) == {"alice": seat(1)}
    lab["gw"].wait_until("alice", lambda: page(lab, 1) == (200, "alice", "authenticated"), seconds=2)
    assert page(lab, 1, **{"X-SSO-User": "otto"}) == (200, "alice", "authenticated")
    assert page(lab, 2, **{"X-SSO-User": "otto"}) == (200, None, f"logged-out machine {seat(2)}")
    assert login(lab, 2, "alice")["reason"] == "elsewhere"
    assert login(lab, 1, "bob")["reason"] == "busy"
    leaves(lab, 1, "alice")
    lab["gw"].wait_until("nobody", lambda: page(lab, 1)[1] is None, seconds=2)
    logs_in(lab, 2, "alice")
    leaves(lab, 2, "alice")


def test_what_a_seat_has_is_no_good_elsewhere(lab: Lab) -> None:
    assert login(lab, 2, "alice", token_of=1)["reason"] == "machine"
    assert login(lab, 1, "otto", stage="account")["reason"] == "password"
    for path in ("/v1/sessions", "/v1/feed"):
        token = lab[seat(1)].get("/run/credstore/backline.boot-token").decode().strip()
        headers = {"host": "presence", "authorization": f"Bearer {token}"}
        assert lab[seat(1)].http("GET", f"http://192.168.1.254{path}", headers=headers).status_code == 403
    plain = {"host": "presence", "authorization": f"Bearer {token}"}
    body = {"login": "alice", "password": SECRET, "stage": "auth"}
    answer = lab[seat(1)].http("POST", "http://192.168.1.254/v1/login", headers=plain, json=body)
    assert answer.json()["code"] == "auth.insecure"


def test_a_password_change_and_a_deletion_count_within_two_seconds(lab: Lab) -> None:
    with Udb(lab["gw"].service("udb")) as udb:
        user = udb.create(NewUser(login="dave", password=SECRET))
        lab["gw"].wait_until("dave", lambda: login(lab, 1, "dave")["allowed"], seconds=2)
        udb.change(user.id, UserPatch(password="another one"))
        lab["gw"].wait_until("the change", lambda: login(lab, 1, "dave")["reason"] == "password", seconds=2)
        udb.change(user.id, UserPatch(password=SECRET))
        lab["gw"].wait_until("the change", lambda: login(lab, 1, "dave")["allowed"], seconds=2)
        logs_in(lab, 1, "dave")
        udb.delete(user.id)
    lab["gw"].wait_until("dave is out", lambda: where(lab) == {}, seconds=2)
    assert login(lab, 1, "dave")["reason"] == "user"


@pytest.mark.parametrize("name", ["udb", "mdb", "netboot", "presence", "sso"])
def test_a_service_that_is_restarted_logs_nobody_out_and_refuses_nobody(lab: Lab, name: str) -> None:
    gw = lab["gw"]
    logs_in(lab, 1, "alice")
    gw.succeeds("systemctl", "kill", "--signal=KILL", f"backline-{name}.service")
    gw.wait_for_unit(f"backline-{name}.service")
    gw.wait_until("an answer", lambda: where(lab) == {"alice": seat(1)})
    logs_in(lab, 2, "bob")
    gw.wait_until("both are known", lambda: (page(lab, 1)[1], page(lab, 2)[1]) == ("alice", "bob"), seconds=10)
    leaves(lab, 1, "alice")
    leaves(lab, 2, "bob")


def test_pages_are_there_for_anonymous_callers_while_single_sign_on_is_away(lab: Lab) -> None:
    gw = lab["gw"]
    gw.succeeds("systemctl", "stop", "backline-sso.socket", "backline-sso.service")
    try:
        assert page(lab, 1, **{"X-SSO-User": "otto"}) == (200, None, "unavailable")
    finally:
        gw.succeeds("systemctl", "start", "backline-sso.socket", "backline-sso.service")


def test_a_seat_that_crashes_lets_its_user_go_after_half_a_minute(lab: Lab) -> None:
    gw = lab["gw"]
    logs_in(lab, 2, "bob")
    lab[seat(2)].crash()
    began = time.monotonic()
    assert login(lab, 1, "bob")["reason"] == "elsewhere"
    gw.wait_until("bob is gone", lambda: where(lab) == {}, seconds=EXPIRY_SECONDS + 20)
    assert time.monotonic() - began > EXPIRY_SECONDS - 16, "since its last heartbeat"
    logs_in(lab, 1, "bob")
    leaves(lab, 1, "bob")


def test_a_new_database_is_early_until_seats_have_said_who_is_there(lab: Lab) -> None:
    gw = lab["gw"]
    gw.succeeds("systemctl", "stop", "backline-presence.socket", "backline-presence.service")
    gw.succeeds("sh", "-c", "rm /var/lib/backline-presence/presence.db*")
    gw.succeeds("systemctl", "start", "backline-presence.socket", "backline-presence.service")
    answer = login(lab, 1, "alice")
    assert (answer["reason"], "half a minute" in answer["message"]) == ("early", True)
    gw.wait_until("not early", lambda: login(lab, 1, "alice")["allowed"], seconds=EXPIRY_SECONDS + 10)
