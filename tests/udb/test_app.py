"""udb over its sockets: who may do what through every door, entity tags, and feeds that follow."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx2
import pytest

from services.common.errors import BacklineError
from services.common.feed.client import Follower
from services.common.problem import RemoteError
from services.common.process import run
from services.common.users import UserGroup
from services.common.yescrypt import verify_password
from services.udb.client import Udb
from services.udb.rows import PRIVATE, PUBLIC
from services.udb.schema import Change, Edits, NewUser, Removal, UserPatch
from tests.common.access_rig import HTTPS, PROXY, Guarded
from tests.common.feed_rig import Subscriber
from tests.common.service_rig import Service
from tests.udb.rig import GAMES, NEWS, NOBODY, ask_as, hall, new, serving, session_of

FEEDS = ("/v1/feed", "/v1/feed/private")


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    """udb with a user of each group, whom no test changes."""
    with hall(tmp_path_factory.mktemp("udb")) as made:
        yield made


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """udb that tests change; each leaves nobody in it."""
    with serving(tmp_path_factory.mktemp("changed")) as service:
        yield service


def status(made: Guarded, path: str, *, ids: tuple[int, int] = (0, 0), headers: Mapping[str, str] | None = None) -> int:
    """The status of a stream: its first line, as one that is let in does not end by itself."""
    argv = ["setpriv", f"--reuid={ids[0]}", f"--regid={ids[1]}", "--clear-groups", "curl", "--silent", "--no-buffer"]
    for name, value in (headers or {}).items():
        argv += ["--header", f"{name}: {value}"]
    argv += ["--include", "--unix-socket", str(made.service.socket), f"http://udb{path}"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as curl:
        assert curl.stdout is not None
        line = curl.stdout.readline()
        curl.kill()
    return int(line.split()[1])


def test_what_is_written_is_found(full: Guarded) -> None:
    with Udb(full.service.unix) as client:
        user = client.user("one-orga")
        assert client.user(user.id) == user
        assert client.users("group:orga").users == [user]
        assert client.users("nobody").total == 0
        assert [pool.used for pool in client.pools().pools] == [1, 1, 1]
        (entry,) = client.audit(user.id).entries
        assert (entry.actor, entry.origin) == ("root", "local")


# Doors


def test_organizers_see_contestants_through_no_door_more(full: Guarded) -> None:
    with Udb(full.service.unix) as client:
        ids = {user.group: user.id for user in client.users().users}
    seen, shown = ask_as(full, "oli", "/v1/users")
    assert (seen, [user["login"] for user in json.loads(shown)["users"]]) == (200, ["one-user"])
    code, text = ask_as(full, "oli", f"/v1/users/{ids[UserGroup.USER]}/password", method="POST")
    assert (code, json.loads(text)["password"]) == (200, "secret of user")
    code, text = ask_as(full, "oli", "/v1/sheet", method="POST", body={})
    assert (code, [each["login"] for each in json.loads(text)["people"]]) == (200, ["one-user"])
    code, text = ask_as(full, "oli", "/v1/export?format=json")
    assert (code, [each["login"] for each in json.loads(text)]) == (200, ["one-user"])
    code, text = ask_as(full, "oli", "/v1/pools")
    assert (code, [each["group"] for each in json.loads(text)["pools"]]) == (200, ["user"])
    code, text = ask_as(full, "oli", "/v1/audit?limit=1000")
    assert (code, {entry["name"] for entry in json.loads(text)["entries"]}) == (200, {"one-user"})
    for group in (UserGroup.ORGA, UserGroup.ROOT):
        id = ids[group]
        for method, path, body in [
            ("GET", f"/v1/users/{id}", None),
            ("GET", f"/v1/users/one-{group.value}", None),
            ("POST", f"/v1/users/{id}/password", None),
            ("POST", "/v1/sheet", {"ids": [ids[UserGroup.USER], id]}),
            ("PATCH", f"/v1/users/{id}", {"firstname": "x"}),
            ("DELETE", f"/v1/users/{id}", None),
            ("POST", "/v1/edits", {"update": [{"id": id, "patch": {"firstname": "x"}}], "dry": True}),
        ]:
            code, text = ask_as(full, "oli", path, method=method, body=body)
            assert code in (403, 404), path
            assert "secret of" not in text
        code, text = ask_as(full, "oli", f"/v1/users?q=group:{group.value}")
        assert json.loads(text)["total"] == 0
        code, text = ask_as(full, "oli", f"/v1/audit?user={id}")
        assert (code, json.loads(text)["entries"]) == (200, [])
    for feed in FEEDS:
        assert status(full, feed, ids=PROXY, headers=session_of(full, "oli")) == 403


def test_organizers_change_nobody(full: Guarded) -> None:
    with Udb(full.service.unix) as client:
        before = client.users().users
        user = client.user("one-user")
        for method, path, body in [
            ("POST", "/v1/users", {"login": "new"}),
            ("PATCH", f"/v1/users/{user.id}", {"password": "x"}),
            ("DELETE", f"/v1/users/{user.id}", None),
            ("POST", "/v1/edits", {"delete": [{"id": user.id}]}),
        ]:
            code, _ = ask_as(full, "oli", path, method=method, body=body)
            assert code == 403, path
        assert client.users().users == before


def test_organizers_say_the_message_of_the_day_and_strangers_do_not(full: Guarded) -> None:
    code, text = ask_as(full, "oli", "/v1/message", method="PUT", body={"text": "Lunch at noon"})
    assert (code, json.loads(text)["text"]) == (200, "Lunch at noon")
    code, text = ask_as(full, "oli", "/v1/message", method="PUT", body={"text": "x" * 601})
    assert (code, json.loads(text)["code"]) == (422, "message.long")
    for ids in (NOBODY, GAMES):
        for method, body in (("GET", None), ("PUT", {"text": "mine"})):
            assert full.ask("/v1/message", method=method, ids=ids, body=body).status == 403
    token = full.tokens.for_machine("p0001", machine=1, boot="0" * 32, seconds=60)
    seat = {**HTTPS, "Host": "udb", "Authorization": f"Bearer {token}"}
    assert full.ask("/v1/message", method="PUT", ids=PROXY, headers=seat, body={"text": "mine"}).status == 403
    with Udb(full.service.unix) as client:
        assert client.message().text == "Lunch at noon"
        (entry,) = client.audit(topic="message").entries
        assert (entry.actor, entry.origin) == ("oli", "192.168.0.9")
        assert client.announce("").text == ""


def test_a_root_session_may_all(full: Guarded) -> None:
    code, text = ask_as(full, "ada", "/v1/users?q=group:root")
    assert (code, json.loads(text)["total"]) == (200, 1)
    id = json.loads(text)["users"][0]["id"]
    code, text = ask_as(full, "ada", f"/v1/users/{id}/password", method="POST")
    assert (code, json.loads(text)["password"]) == (200, "secret of root")
    with Udb(full.service.unix) as client:
        newest = client.audit(id, topic="showings", limit=1).entries[0]
    assert (newest.actor, newest.origin) == ("ada", "192.168.0.9")


@pytest.mark.parametrize("path", ["/v1/users", "/v1/users/1", "/v1/audit", "/v1/pools"])
@pytest.mark.parametrize("ids", [NOBODY, GAMES, PROXY])
def test_nobody_else_sees_anybody(full: Guarded, path: str, ids: tuple[int, int]) -> None:
    headers = {**HTTPS, "Host": "udb"} if ids == PROXY else {}
    assert full.ask(path, ids=ids, headers=headers).status == (401 if ids == PROXY else 403)
    assert httpx2.get(full.service.http + path, trust_env=False).status_code == 401


def test_members_of_the_organizers_group_on_the_host_are_organizers(full: Guarded) -> None:
    answer = full.ask("/v1/users", ids=NEWS)
    assert [user["login"] for user in answer.body["users"]] == ["one-user"]


@pytest.mark.parametrize(
    ("name", "ids", "public", "private"),
    [("root", (0, 0), 200, 200), ("a service", NOBODY, 200, 403), ("a confidant", GAMES, 200, 200)],
)
def test_feeds_on_the_host(full: Guarded, name: str, ids: tuple[int, int], public: int, private: int) -> None:
    assert [status(full, feed, ids=ids) for feed in FEEDS] == [public, private], name


@pytest.mark.parametrize(
    ("headers", "public", "private"),
    [
        ({}, 401, 401),
        ({"X-Client-Verify": "SUCCESS", "X-Client-Subject": "CN=rhfs01,OU=feed"}, 200, 403),
        ({"X-Client-Verify": "SUCCESS", "X-Client-Subject": "CN=rhfs01,OU=feed-private"}, 403, 200),
        ({"X-Client-Verify": "SUCCESS", "X-Client-Subject": "CN=rhfs01,OU=state"}, 403, 403),
    ],
)
def test_feeds_over_the_network(full: Guarded, headers: dict[str, str], public: int, private: int) -> None:
    headers = {**HTTPS, "Host": "udb", **headers}
    assert [status(full, feed, ids=PROXY, headers=headers) for feed in FEEDS] == [public, private]


def test_a_seat_follows_what_its_users_may_know(full: Guarded) -> None:
    token = full.tokens.for_machine("p0001", machine=1, boot="0" * 32, seconds=60)
    headers = {**HTTPS, "Host": "udb", "Authorization": f"Bearer {token}"}
    assert [status(full, feed, ids=PROXY, headers=headers) for feed in FEEDS] == [200, 403]
    assert full.ask("/v1/users", ids=PROXY, headers=headers).status == 403


def test_a_page_of_another_site_shows_no_password(full: Guarded) -> None:
    headers = {**HTTPS, "Host": "udb", "Cookie": f"__Host-backline={full.session(name='ada')}", "Origin": "https://x"}
    answer = full.ask("/v1/sheet", method="POST", ids=PROXY, headers=headers, body={})
    assert (answer.status, answer.code) == (403, "auth.origin")


def test_a_password_is_kept_by_nothing_on_its_way(full: Guarded) -> None:
    with httpx2.Client(transport=httpx2.HTTPTransport(uds=str(full.service.socket)), trust_env=False) as http:
        answer = http.post("http://udb/v1/users/1/password")
    assert answer.headers["cache-control"] == "no-store"


# Changes


def test_a_change_with_an_old_tag_is_refused(running: Service) -> None:
    with Udb(running.unix) as client:
        made = client.create(new(1))
        changed = client.change(made.id, UserPatch(firstname="Zoé"), match=made.revision)
        with pytest.raises(RemoteError) as caught:
            client.change(made.id, UserPatch(firstname="b"), match=made.revision)
        assert (caught.value.code, caught.value.problem.status) == ("conflict.changed", 409)
        client.delete(made.id, match=changed.revision)
        assert client.users().total == 0


def test_many_edits_are_one_and_a_dry_run_keeps_nothing(running: Service) -> None:
    with Udb(running.unix) as client:
        assert len(client.edit(Edits(create=[new(number) for number in range(50)], dry=True)).users) == 50
        assert client.users().total == 0
        one, two, *_ = client.edit(Edits(create=[new(number) for number in range(50)])).users
        client.edit(
            Edits(
                update=[Change(id=one.id, patch=UserPatch(login="first"))],
                delete=[Removal(id=two.id, match=two.revision)],
            )
        )
        assert client.users().total == 49
        assert client.user("first").id == one.id
        client.edit(Edits(delete=[Removal(id=user.id) for user in client.users().users]))


def test_without_a_key_udb_says_that_it_is_not_well_and_serves_the_rest(tmp_path: Path) -> None:
    with serving(tmp_path, key=False) as udb, Udb(udb.unix) as client:
        made = client.create(new(1))
        with pytest.raises(RemoteError) as caught:
            client.change(made.id, UserPatch(generate=True))
        assert (caught.value.code, caught.value.problem.status) == ("udb.key", 503)
        with httpx2.Client(transport=httpx2.HTTPTransport(uds=str(udb.socket)), trust_env=False) as http:
            assert http.get("http://udb/healthz").status_code == 503


def test_streams_tell_every_change_and_never_a_password(tmp_path: Path) -> None:
    with serving(tmp_path) as udb, Udb(udb.unix) as client:
        made = client.create(NewUser(login="zoe", password="in no stream", keys=[]))
        client.change(made.id, UserPatch(password="nor this one"))
        texts = {feed: _stream(udb.socket, feed) for feed in FEEDS}
        gone = client.create(new(2))
        client.delete(gone.id)
        again = {feed: _stream(udb.socket, feed, since=0) for feed in FEEDS}
    for text in (*texts.values(), *again.values()):
        assert "in no stream" not in text
        assert "nor this one" not in text
    (public,) = [item["record"] for item in _items(texts[FEEDS[0]])]
    (private,) = [item["record"] for item in _items(texts[FEEDS[1]])]
    assert set(public) == set(PUBLIC)
    assert set(private) == set(PRIVATE)
    assert verify_password("nor this one", private["hash"])
    for feed, fields in zip(FEEDS, (PUBLIC, PRIVATE), strict=True):
        changes = _changes(again[feed])
        assert [(each["kind"], each["key"]) for each in changes] == [
            ("created", "1"),
            ("updated", "1"),
            ("created", "2"),
            ("deleted", "2"),
        ]
        assert all(set(each["record"]) == set(fields) for each in changes if each["record"])


def test_a_restart_in_the_middle_of_edits_loses_nothing_that_was_answered(tmp_path: Path) -> None:
    """A subscriber's state is the database's afterwards, whatever was killed when."""

    async def follow(run: Path) -> None:
        answered: list[list[str]] = [[], []]
        follower = Follower(f"unix:{run}/service.sock", path=FEEDS[1], topics=["users"])
        subscriber = Subscriber(follower)
        try:
            for turn, names in enumerate(answered):
                with serving(tmp_path, run=run) as service:
                    edits = asyncio.create_task(asyncio.to_thread(edit, service, turn, names))
                    async with asyncio.timeout(30):
                        while len(names) < 15:
                            await asyncio.sleep(0.01)
                    service.process.kill()
                    await edits
            with serving(tmp_path, run=run) as service, Udb(service.unix) as client:
                users = {("users", str(each.id)): each.login for each in client.users().users}
                assert {name for names in answered for name in names} <= set(users.values())
                await subscriber.reaches(max(each.revision for each in client.users().users))
                assert {key: record["login"] for key, record in follower.state.records.items()} == users
        finally:
            await subscriber.stop()

    def edit(service: Service, turn: int, names: list[str]) -> None:
        with Udb(service.unix) as client, contextlib.suppress(BacklineError):  # the service is killed meanwhile
            for number in range(turn * 300, turn * 300 + 300):
                names.append(client.create(new(number)).login)

    with tempfile.TemporaryDirectory(prefix="backline-udb-") as run:
        asyncio.run(follow(Path(run)))


def _stream(socket: Path, feed: str, *, since: int | None = None) -> str:
    """What a stream says at once; with `since`, after that revision."""
    argv = ["curl", "--silent", "--no-buffer", "--max-time", "0.5", "--unix-socket", str(socket)]
    if since is not None:
        first = _stream(socket, feed)
        log = first.partition("id: ")[2].partition("-")[0]
        argv += ["--header", f"Last-Event-ID: {log}-{since}"]
    return run([*argv, f"http://udb{feed}"], check=False).stdout


def _items(text: str) -> list[dict[str, Any]]:
    events = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: ")]
    return [item for event in events for item in event.get("items", [])]


def _changes(text: str) -> list[dict[str, Any]]:
    return [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: ")]
