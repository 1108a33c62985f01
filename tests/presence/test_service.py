"""Presence as a process: logins of machines, heartbeats, restarts, and who may see who is where."""

from __future__ import annotations

import contextlib
import io
import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import pytest

from services.common import main
from services.common.users import UID_POOLS, UserGroup
from services.mdb.client import Mdb
from services.mdb.schema import MachineType
from services.presence.client import Presence
from services.presence.schema import Beat
from services.presence.work import CHECKS
from tests.common.access_rig import NOBODY
from tests.common.service_rig import Service
from tests.netboot.rig import ask, until
from tests.presence.rig import GAMES, Hall, call, serving, serving_presence, used


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hall]:
    with serving(tmp_path_factory.mktemp("presence")) as hall:
        for name in ("p1", "p2", "p3"):
            hall.machine(name)
        hall.machine("desk", MachineType.ORGA)
        for login in ("alice", "bob"):
            hall.user(login)
        hall.user("otto", UserGroup.ORGA)
        hall.user("nopw", password=None)
        hall.knows()
        yield hall


@pytest.fixture
def hall(whole: Hall) -> Iterator[Hall]:
    yield whole
    with Presence(whole.presence.unix) as client:
        for each in client.sessions().sessions:
            client.logout(each.login)
        client.heartbeats([])


def told(answer: dict[str, object]) -> tuple[object, object]:
    return answer["allowed"], answer["reason"]


def test_a_user_logs_in_and_leaves(hall: Hall) -> None:
    answer = hall.auth("p1", "alice")
    assert (told(answer), answer["group"], answer["uid"] in UID_POOLS[UserGroup.USER]) == ((True, None), "user", True)
    assert hall.where() == {}
    assert told(hall.account("p1", "alice")) == (True, None)
    assert hall.where() == {"alice": "p1"}
    hall.leaves("p2", "alice")
    assert hall.where() == {"alice": "p1"}
    hall.leaves("p1", "alice")
    assert hall.where() == {}
    hall.logs_in("p2", "alice")


@pytest.mark.parametrize("password", ["wrong", "", None, "x" * 1024, "se\0cret"])
def test_a_password_that_is_not_the_users_is_refused(hall: Hall, password: str | None) -> None:
    answer = hall.auth("p3", "alice", password)
    assert (told(answer), answer["message"]) == ((False, "password"), "The password is wrong.")
    hall.auth("p3", "alice")


def test_who_has_no_password_logs_in_nowhere(hall: Hall) -> None:
    assert told(hall.auth("p1", "nopw")) == (False, "password")


@pytest.mark.parametrize("login", ["mallory", "", "root", "a" * 256, "ALICE", "../x"])
def test_who_is_no_user_is_told_so(hall: Hall, login: str) -> None:
    answer = hall.auth("p1", login)
    if login:
        assert told(answer) == (False, "user")
    else:
        assert answer["status"] == 422


def test_nobody_is_registered_whose_password_was_not_verified_there(hall: Hall) -> None:
    assert told(hall.account("p1", "alice")) == (False, "password")
    hall.auth("p1", "alice")
    assert told(hall.account("p2", "alice")) == (False, "password")
    assert told(hall.account("p1", "alice", start=1)) == (False, "password")
    assert told(hall.account("p1", "alice")) == (True, None)


def test_each_refusal_says_why(hall: Hall) -> None:
    hall.logs_in("p1", "alice")
    elsewhere, busy, group = hall.auth("p2", "alice"), hall.auth("p1", "bob"), hall.auth("desk", "alice")
    assert (told(elsewhere), "already logged in at p1" in elsewhere["message"]) == ((False, "elsewhere"), True)
    assert (told(busy), busy["message"]) == ((False, "busy"), "p1 is in use by alice.")
    assert told(group) == (False, "group")
    assert told(hall.auth("desk", "otto")) == (True, None)
    metrics = httpx2.get(f"{hall.presence.http}/metrics").text
    for reason in ("elsewhere", "busy", "group", "password", "user"):
        assert f'backline_presence_refused_total{{reason="{reason}"}} 0.0' not in metrics


def test_a_token_is_good_from_its_machines_address_alone(hall: Hall) -> None:
    answer = hall.auth("p1", "alice", origin="192.168.0.66")
    assert (told(answer), "192.168.0.66" in answer["message"]) == ((False, "machine"), True)


def test_a_token_that_was_carried_elsewhere_ends_no_session(hall: Hall) -> None:
    hall.logs_in("p1", "alice")
    answer = hall.asks("p1", "/v1/logout", {"login": "alice"}, origin=str(hall.machines["p2"].ip))
    assert (answer["status"], answer["code"]) == (403, "auth.denied")
    assert hall.where() == {"alice": "p1"}


def test_a_machine_that_mdb_does_not_know_lets_nobody_in(hall: Hall) -> None:
    extra = hall.machine("extra")
    with Mdb(hall.mdb.unix) as mdb:
        until(lambda: hall.auth("extra", "alice")["reason"] is None)
        hall.account("extra", "alice")
        assert hall.where() == {"alice": "extra"}
        mdb.delete(extra.id)
    until(lambda: hall.where() == {})
    assert told(hall.auth("extra", "alice")) == (False, "machine")


def test_a_password_does_not_travel_in_the_clear(hall: Hall) -> None:
    answer = hall.auth("p1", "alice", secure=False)
    assert (answer["status"], answer["code"]) == (403, "auth.insecure")


def test_too_many_wrong_passwords_of_a_machine_are_not_even_looked_at(hall: Hall) -> None:
    hall.machine("guesser")
    until(lambda: hall.auth("guesser", "alice", "wrong")["reason"] == "password")
    found = [hall.auth("guesser", "alice", f"guess{number}")["message"] for number in range(6)]
    assert found[-1] == "Too many passwords were tried here. Wait a minute."
    assert told(hall.auth("guesser", "alice")) == (False, "password")
    assert told(hall.auth("p1", "alice")) == (True, None)


def test_who_guesses_over_ssh_does_not_lock_the_console_of_the_machine(hall: Hall) -> None:
    hall.machine("victim")
    until(lambda: hall.auth("victim", "alice", "wrong")["reason"] == "password")
    found = [hall.auth("victim", "alice", "wrong", remote=True)["message"] for _ in range(6)]
    assert found[-1] == "Too many passwords were tried here. Wait a minute."
    assert told(hall.auth("victim", "alice")) == (True, None)


def test_who_knows_a_password_does_not_keep_gw_busy_with_it(hall: Hall) -> None:
    hall.machine("busy")
    until(lambda: hall.auth("busy", "alice")["allowed"])
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: hall.auth("busy", "alice")["message"], range(CHECKS + 20)))
    assert "Too many passwords were tried here. Wait a minute." in found
    assert told(hall.auth("p1", "alice")) == (True, None)


def test_a_password_that_was_changed_since_it_was_verified_begins_no_session(hall: Hall) -> None:
    hall.auth("p1", "bob")
    hall.user("bob", password="new")
    until(lambda: hall.auth("p2", "bob", "new")["allowed"], seconds=2)
    assert told(hall.account("p1", "bob")) == (False, "password")
    assert hall.where() == {}
    hall.user("bob")
    until(lambda: hall.auth("p1", "bob")["allowed"], seconds=2)


def test_a_changed_password_counts_within_two_seconds(hall: Hall) -> None:
    hall.user("alice", password="new")
    until(lambda: hall.auth("p1", "alice", "new")["allowed"], seconds=2)
    assert told(hall.auth("p1", "alice")) == (False, "password")
    hall.user("alice")
    until(lambda: hall.auth("p1", "alice")["allowed"], seconds=2)


def test_who_is_deleted_is_locked_and_logged_out(hall: Hall) -> None:
    hall.user("carol")
    until(lambda: hall.auth("p1", "carol")["allowed"])
    hall.logs_in("p1", "carol")
    hall.no_user("carol")
    until(lambda: hall.where() == {}, seconds=2)
    assert told(hall.auth("p1", "carol")) == (False, "user")


def test_a_session_is_kept_by_heartbeats_and_ends_with_the_first_that_does_not_name_it(hall: Hall) -> None:
    hall.logs_in("p1", "alice")
    hall.beats(("p1", ["alice", "root"]), ("p2", ["bob"]))
    assert hall.where() == {"alice": "p1"}
    hall.beats(("p1", []))
    assert hall.where() == {}


def test_a_restart_loses_nobody_and_refuses_nobody(hall: Hall, tmp_path: Path) -> None:
    used(tmp_path)

    def beside(presence: Service) -> Hall:
        return Hall(tmp_path, presence, hall.mdb, hall.udb, hall.machines, hall.ids)

    with serving_presence(tmp_path, hall.mdb.unix, hall.udb.unix) as presence:
        before = beside(presence)
        before.knows()
        before.logs_in("p1", "alice")
        before.logs_in("p2", "bob")
        before.leaves("p2", "bob")
        presence.process.kill()
        presence.process.wait()
    with serving_presence(tmp_path, hall.mdb.unix, hall.udb.unix) as presence:
        after = beside(presence)
        assert after.where() == {"alice": "p1"}
        assert told(after.auth("p2", "alice")) == (False, "elsewhere")
        after.logs_in("p2", "bob")


def test_who_is_where_is_not_for_machines_nor_for_the_network(hall: Hall) -> None:
    for path in ("/v1/sessions", "/v1/feed"):
        token = hall.token("p1")
        assert ask(hall.presence, path, token=token, secure=True).code in ("auth.denied", "auth.scope")
        assert ask(hall.presence, path, secure=True).code == "auth.anonymous"
        assert httpx2.get(f"{hall.presence.http}{path}").status_code == 401
    assert call(hall.presence, "/v1/sessions", ids=NOBODY)[0] == 200


def test_heartbeats_are_netboots_to_bring(hall: Hall) -> None:
    body: dict[str, list[object]] = {"beats": []}
    assert call(hall.presence, "/v1/heartbeats", body, ids=NOBODY)[0] == 403
    assert call(hall.presence, "/v1/heartbeats", body, ids=GAMES) == (200, '{"ends":[]}')
    token = hall.token("p1")
    assert ask(hall.presence, "/v1/heartbeats", method="POST", body=body, token=token, secure=True).status == 403
    assert call(hall.presence, "/v1/logout", {"login": "alice"}, ids=GAMES)[0] == 403


def test_a_machine_that_claims_somebody_is_not_believed_but_a_developer_is(hall: Hall) -> None:
    hall.beats(("p1", ["otto"]))
    assert hall.where() == {}
    with Presence(hall.presence.unix) as client:
        client.heartbeats([Beat(machine=hall.machines["p1"].id, hostname="p1", boot="f", users=["otto"])])
    assert hall.where() == {"otto": "p1"}


def test_whom_an_administrator_logs_out_has_to_leave_the_machine_as_well(hall: Hall) -> None:
    hall.logs_in("p1", "alice")
    assert hall.beats(("p1", ["alice"])) == []
    with Presence(hall.presence.unix) as client:
        client.logout("alice")
    assert hall.beats(("p1", ["alice"])) == [("alice", hall.machines["p1"].id)]
    assert hall.beats(("p1", [])) == []
    hall.logs_in("p1", "alice")
    assert hall.beats(("p1", ["alice"])) == []


def test_a_new_database_is_filled_by_heartbeats_before_anybody_logs_in(hall: Hall, tmp_path: Path) -> None:
    with serving_presence(tmp_path, hall.mdb.unix, hall.udb.unix) as fresh:
        cold = Hall(tmp_path, fresh, hall.mdb, hall.udb, hall.machines, hall.ids)
        cold.knows()
        answer = cold.auth("p2", "bob")
        assert (told(answer), "half a minute" in answer["message"]) == ((False, "early"), True)
        cold.beats(("p1", ["alice"]))
        assert cold.where() == {"alice": "p1"}
        assert told(cold.auth("p1", "alice")) == (True, None)


def test_before_users_are_known_nobody_is_called_unknown(hall: Hall, tmp_path: Path) -> None:
    with serving_presence(tmp_path, hall.mdb.unix, f"unix:{tmp_path}/nobody.sock") as lonely:
        cold = Hall(tmp_path, lonely, hall.mdb, hall.udb, hall.machines, hall.ids)
        assert told(cold.auth("p1", "alice")) == (False, "unavailable")
        health = httpx2.get(f"{lonely.http}/healthz")
        assert (health.status_code, "udb: nothing from" in health.text) == (503, True)


def test_it_is_well_while_heartbeats_come(hall: Hall) -> None:
    hall.beats()
    assert httpx2.get(f"{hall.presence.http}/healthz").status_code == 200
    with Presence(hall.presence.unix) as client:
        heard = client.sessions().heard
        assert heard is not None
        assert heard < 5


def test_the_feed_tells_of_each_session(hall: Hall) -> None:
    lines: list[str] = []
    began = time.time()
    transport = httpx2.HTTPTransport(uds=str(hall.presence.socket))
    with httpx2.Client(transport=transport, base_url="http://presence", timeout=5) as client:
        with client.stream("GET", "/v1/feed?topic=sessions") as stream:
            for line in stream.iter_lines():
                if line == ":":
                    hall.logs_in("p1", "alice")
                    hall.leaves("p1", "alice")
                if line.startswith("data:"):
                    lines.append(line)
                if '"deleted"' in line:
                    break
    created = next(line for line in lines if '"created"' in line)
    for part in ('"login":"alice"', '"hostname":"p1"', f'"machine":{hall.machines["p1"].id}', '"since":'):
        assert part in created
    assert float(created.partition('"since":')[2].rstrip("}")) >= began - 1


def command(hall: Hall, *words: str) -> tuple[int, str]:
    """Exit code and output of `backline presence`."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        code = main.backline(["presence", *words, "--address", hall.presence.unix])
    return code, out.getvalue()


def test_the_command_lists_and_ends_sessions(hall: Hall) -> None:
    hall.logs_in("p1", "alice")
    code, text = command(hall, "list")
    assert (code, text.split()[:5]) == (0, ["LOGIN", "MACHINE", "SINCE", "alice", "p1"])
    assert command(hall, "logout", "alice") == (0, "")
    assert json.loads(command(hall, "list", "--json")[1])["sessions"] == []
    hall.beats(("p1", ["alice"]))
    assert hall.where() == {}, "whoever was logged out by root is not believed by a heartbeat"


def test_a_developer_pretends_a_session_that_ends_with_the_command(hall: Hall) -> None:
    code, text = command(hall, "fake", "otto", "p1", "--mdb", hall.mdb.unix, "--seconds", "0.2")
    assert (code, text) == (0, "otto is logged in on p1, until Ctrl-C\n")
    assert hall.where() == {}
    code, text = command(hall, "fake", "mallory", "p1", "--mdb", hall.mdb.unix, "--seconds", "0.2")
    assert "presence does not believe it" in text


def test_no_password_is_in_the_journal_whichever_field_it_was_typed_into(hall: Hall) -> None:
    hall.auth("p1", "my-Secret-phrase", "alice")
    hall.auth("p1", "alice", "my-Secret-phrase")
    text = hall.presence.errors.read_text()
    assert "may not log in" in text
    assert "my-Secret-phrase" not in text
