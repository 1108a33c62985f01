"""udb's pages over HTTP, without a script: what they show to whom, what forms do, what is never let through."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from services.common.users import UserGroup
from services.udb.client import Udb
from services.udb.schema import Edits, NewUser, Removal, User, UserPatch
from tests.common.access_rig import PROXY, Guarded
from tests.common.pages_rig import Browser, Forms, text_of
from tests.common.service_rig import Service
from tests.hall.halls import KEY
from tests.udb.rig import hall, new, serving, session_of

HOSTILE = """<script>alert(1)</script>"><img src=x onerror=alert(2)>'{{7*7}}"""
PAGES = ("/users", "/users/new", "/import", "/pools", "/message", "/history", "/nowhere")


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """One udb for all of these tests: starting it takes longer than they do."""
    with serving(tmp_path_factory.mktemp("udb")) as started:
        yield started


@pytest.fixture
def client(service: Service) -> Iterator[Udb]:
    """A udb without users."""
    with Udb(service.unix) as opened:
        opened.edit(Edits(delete=[Removal(id=one.id) for one in opened.users().users]))
        yield opened


@pytest.fixture
def root(service: Service, client: Udb) -> Iterator[Browser]:
    with Browser(service, name="udb") as browser:
        yield browser


def add(client: Udb, number: int, **given: object) -> User:
    return client.create(new(number, **given))


# What is shown


def test_the_list_shows_finds_and_sorts(root: Browser, client: Udb) -> None:
    for number in (2, 10, 1):
        add(client, number, lastname="Müller" if number == 10 else "Doe", generate=number == 1)
    assert re.findall(r"/users/\d+\">(team\d+)", root.page("/users")) == ["team01", "team02", "team10"]
    assert re.findall(r"/users/\d+\">(team\d+)", root.page("/users?q=muller")) == ["team10"]
    assert re.findall(r"/users/\d+\">(team\d+)", root.page("/users?password=yes")) == ["team01"]
    assert re.findall(r"/users/\d+\">(team\d+)", root.page("/users?sort=uid&down=1")) == ["team01", "team10", "team02"]
    page = root.page("/users?q=groop:x")
    assert "did you mean group" in page.lower()
    assert "No user is like that" in root.page("/users?q=nobody-here")


def test_a_users_page_shows_all_but_the_password(root: Browser, client: Udb) -> None:
    user = add(client, 1, firstname="Zoé", lastname="Doe", password="clé de voûte", keys=[KEY], group=UserGroup.ORGA)
    page = root.page(f"/users/{user.id}")
    said = text_of(page)
    assert "Zoé Doe" in said
    assert "orga 10001 , user 10000" in said or "orga 10001, user 10000" in said
    assert "SHA256:" in said
    assert "clé de voûte" not in page
    assert root.page("/users/team01") == page


def test_the_password_is_shown_when_it_is_asked_for_and_the_history_says_so(root: Browser, client: Udb) -> None:
    user = add(client, 1, password="clé de voûte")
    answer = root.post(f"/users/{user.id}/password")
    assert "clé de voûte" in answer.text
    assert answer.headers["cache-control"] == "no-store"
    assert "password shown" in text_of(root.page(f"/users/{user.id}"))
    assert "password shown" in text_of(root.page("/history?topic=showings"))
    assert "clé de voûte" not in root.page("/history")


# Changing


def test_a_user_is_added_changed_and_removed(root: Browser, client: Udb) -> None:
    page = root.fill("/users/new", {"login": "zoe", "firstname": "Zoé", "group": "orga", "secret": "make"})
    assert "Added." in page
    user = client.user("zoe")
    assert (user.group, user.uid // 1000, user.password_set is not None) == (UserGroup.ORGA, 11, True)
    form = Forms(root.page(f"/users/{user.id}/edit")).found[f"/users/{user.id}/edit"]
    page = root.fill(f"/users/{user.id}/edit", {**form, "keys": KEY, "secret": "write", "password": "new one"})
    assert "Saved." in page
    assert client.user("zoe").keys == [KEY]
    assert client.password(user.id).password == "new one"
    form = Forms(root.page(f"/users/{user.id}/edit")).found[f"/users/{user.id}/edit"]
    root.fill(f"/users/{user.id}/edit", {**form, "secret": "none"})
    assert client.user("zoe").password_set is None
    form = Forms(root.page(f"/users/{user.id}/remove")).found[f"/users/{user.id}/remove"]
    assert "Done: 1 user" in root.fill(f"/users/{user.id}/remove", form)
    assert client.users().total == 0


@pytest.mark.parametrize(
    ("values", "told", "status"),
    [
        ({"login": ""}, "Login is needed", 422),
        ({"login": "root"}, "system user", 422),
        ({"login": "zoe", "uid": "11000"}, "not one of group user", 422),
        ({"login": "zoe", "uid": "many"}, "Uid: expected", 422),
        ({"login": "zoe", "keys": "ssh-ed25519"}, "nothing after", 422),
        ({"login": "zoe", "secret": "write"}, "which one?", 422),
        ({"login": "team01"}, "belongs to team01", 409),
    ],
)
def test_what_is_wrong_stands_beside_its_field(
    root: Browser, client: Udb, values: dict[str, str], told: str, status: int
) -> None:
    add(client, 1)
    assert told in text_of(root.fill("/users/new", {"firstname": "kept", **values}, status=status))
    assert client.users().total == 1


def test_two_people_change_a_user_and_both_changes_stay(root: Browser, client: Udb) -> None:
    user = add(client, 1, firstname="Old", lastname="Old")
    form = Forms(root.page(f"/users/{user.id}/edit")).found[f"/users/{user.id}/edit"]
    client.change(user.id, UserPatch(lastname="Theirs"))
    page = root.fill(f"/users/{user.id}/edit", {**form, "firstname": "Mine"}, status=409)
    assert "Changed meanwhile by root" in text_of(page)
    assert client.user(user.id).firstname == "Old"
    again = Forms(page).found[f"/users/{user.id}/edit"]
    assert (again["firstname"], again["lastname"]) == ("Mine", "Theirs")
    root.fill(f"/users/{user.id}/edit", again)
    assert (client.user(user.id).firstname, client.user(user.id).lastname) == ("Mine", "Theirs")


# Imports


def test_a_list_is_previewed_and_imported(root: Browser, client: Udb) -> None:
    add(client, 1, firstname="Jean", lastname="Dupont")
    people = "Jean\tDupont\nJules\tDupont\nZoé\tMüller\n"
    page = root.fill("/import", {"people": people, "format": "names", "generate": "yes"})
    assert "Import 2 changes?" in text_of(page)
    assert client.users().total == 1
    form = Forms(page).found["/import/apply"]
    assert "Done: 2 users" in root.fill("/import/apply", form)
    assert {user.login for user in client.users("password:yes").users} == {"jdupont", "zmuller"}


def test_what_was_shown_is_what_is_imported(root: Browser, client: Udb) -> None:
    page = root.fill("/import", {"people": "Jean\tDupont\n", "format": "names"})
    client.create(NewUser(login="jdupont"))
    moved = root.fill("/import/apply", Forms(page).found["/import/apply"], status=409)
    assert "Something was changed meanwhile" in moved
    assert "jdupont2" in moved
    assert client.users().total == 1


def test_a_preview_of_passwords_shows_none(root: Browser, client: Udb) -> None:
    add(client, 1, password="old-secret")
    page = root.fill("/import", {"people": "team01:new-secret\n", "format": "passwords"})
    table = page[page.index('<table class="each">') :]
    assert "another one" in table
    assert "secret" not in table


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"people": ""}, "nothing to import"),
        ({"people": "no tab\n"}, "line 1"),
        ({"people": "a b\nc d\n"}, "2 mistakes"),
        ({"people": "root\n", "format": "logins"}, "system user"),
        ({"people": "a", "format": "nonsense"}, "not one of ours"),
    ],
)
def test_a_list_that_is_wrong_is_explained(root: Browser, values: dict[str, str], told: str) -> None:
    answer = root.post("/import", data=values)
    assert answer.status_code in (400, 422)
    assert told in text_of(answer.text)


# Sheets


def test_a_sheet_has_the_passwords_of_who_was_ticked(root: Browser, client: Udb) -> None:
    one, two, three = (add(client, number, password=f"secret{number}") for number in (1, 2, 3))
    add(client, 4)
    answer = root.post("/sheet", data={"user": [str(three.id), str(one.id)], "which": "picked", "per_page": "2"})
    assert re.findall(r"secret\d", answer.text) == ["secret1", "secret3"]
    assert "Finals" in answer.text
    assert answer.text.count('class="page per-2"') == 1
    assert answer.headers["cache-control"] == "no-store"
    everybody = root.post("/sheet", data={"which": "all", "q": "login:team*", "per_page": "2"})
    assert everybody.text.count('class="page per-2"') == 2
    assert "team04" in everybody.text[: everybody.text.index("<main>")]
    assert len(client.audit(two.id, topic="showings").entries) == 1
    assert root.post("/sheet", data={"which": "picked"}).status_code == 400
    assert root.post("/sheet", data={"which": "all", "per_page": "7"}).status_code == 400


# Who sees what


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    with hall(tmp_path_factory.mktemp("hall")) as made:
        yield made


def page_of(made: Guarded, name: str, path: str, **how: object) -> tuple[int, str]:
    answer = made.ask(path, ids=PROXY, headers={**session_of(made, name), "Accept": "text/html"}, **how)  # type: ignore[arg-type]
    return answer.status, answer.text


def test_organizers_see_contestants_on_every_page_and_nobody_else(full: Guarded) -> None:
    with Udb(full.service.unix) as client:
        ids = {user.group: user.id for user in client.users().users}
    status, page = page_of(full, "oli", "/users")
    assert (status, "one-user" in page, "one-orga" in page, "one-root" in page) == (200, True, False, False)
    assert "Add a user" not in page
    for path in ("/history", "/pools", "/users?q=one", "/users?group=root"):
        status, page = page_of(full, "oli", path)
        assert status == 200
        assert "one-orga" not in page
        assert "one-root" not in page
        assert "12000" not in page
    for group in (UserGroup.ORGA, UserGroup.ROOT):
        for path in (f"/users/{ids[group]}", f"/users/one-{group.value}", f"/users/{ids[group]}/edit"):
            status, page = page_of(full, "oli", path)
            assert status in (403, 404), path
            assert "12000" not in page
        form = {"user": str(ids[group]), "which": "picked"}
        status, page = page_of(full, "oli", "/sheet", method="POST", form=form)
        assert "secret of" not in page
        status, page = page_of(full, "oli", f"/users/{ids[group]}/password", method="POST", form={})
        assert "secret of" not in page
    status, page = page_of(full, "oli", "/sheet", method="POST", form={"which": "all"})
    assert "secret of user" in page
    assert "secret of orga" not in page


def test_organizers_say_the_message_of_the_day(full: Guarded, root: Browser, client: Udb) -> None:
    hostile = f"{HOSTILE[:25]}</textarea><b>x</b>"
    page = root.fill("/message", {"text": hostile})
    assert "</textarea><b>" not in page
    assert Forms(page).found["/message"] == {"text": hostile}
    assert client.message().text == hostile
    assert "<script>alert" not in root.page("/history?topic=message")
    assert "600 are shown" in root.fill("/message", {"text": "x" * 601}, status=422)
    assert Forms(root.fill("/message", {"text": ""})).found["/message"] == {"text": ""}
    assert "taken away" in root.page("/history")
    assert client.message().text == ""
    status, page = page_of(full, "oli", "/message", method="POST", form={"text": "Lunch at noon"})
    assert status == 303
    status, page = page_of(full, "oli", "/message")
    assert (status, "Lunch at noon" in page) == (200, True)


@pytest.mark.parametrize("path", ["/users/new", "/import"])
def test_organizers_get_no_form_that_changes(full: Guarded, path: str) -> None:
    assert page_of(full, "oli", path)[0] == 403
    assert page_of(full, "ada", path)[0] == 200


@pytest.mark.parametrize("path", ["/users", "/users/1", "/history", "/pools", "/import", "/users/new"])
def test_strangers_are_asked_to_log_in(full: Guarded, path: str) -> None:
    with Browser(full.service, root=False) as stranger:
        answer = stranger.get(path)
    assert answer.status_code == 401
    assert "one-user" not in answer.text
    assert "Log in first" in answer.text


@pytest.mark.parametrize("path", PAGES)
def test_every_page_allows_no_inline_script_and_no_other_address(root: Browser, client: Udb, path: str) -> None:
    add(client, 1, firstname=HOSTILE[:20], lastname="<b>x</b>")
    answer = root.get(path)
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert not re.findall(r"<script(?![^>]*\bsrc=)|\bstyle=|\son\w+=", answer.text)
    assert not re.findall(r"""(?:src|href|action)=["']https?:""", answer.text)
    assert "<b>x</b>" not in answer.text


def test_a_form_of_another_site_is_not_taken(service: Service, client: Udb) -> None:
    user = add(client, 1, password="secret")
    with Browser(service, name="udb") as other:
        other.headers["sec-fetch-site"] = "cross-site"
        for path in (f"/users/{user.id}/password", "/sheet", f"/users/{user.id}/remove", "/import/apply"):
            answer = other.post(path, data={"which": "all"})
            assert answer.status_code == 403
            assert "secret" not in answer.text
    assert [entry.topic for entry in client.audit(user.id).entries] == ["users"]


def test_static_files_are_there(root: Browser) -> None:
    page = root.page("/users")
    for path in re.findall(r'(?:src|href)="(/static/[^"]+)"', page):
        assert root.get(path).status_code == 200
    assert root.get("/static/sheet.css").headers["content-type"].startswith("text/css")


def test_a_sheet_by_hand_is_one_file_for_its_owner_alone(service: Service, client: Udb, tmp_path: Path) -> None:
    from tests.udb.rig import command

    for number in range(1, 14):
        add(client, number, firstname="<Zoé>", password=f"secret{number:02}")
    add(client, 14)
    out = tmp_path / "sheet.html"
    words = ["sheet", "team[01-14]", "--output", str(out), "--title", "Finals & co", "--address", service.unix]
    code, _, err = command(*words)
    assert (code, "team14" in err) == (0, True)
    text = out.read_text()
    assert out.stat().st_mode & 0o777 == 0o600
    assert (text.count('class="page per-10"'), text.count('class="slip"')) == (2, 13)
    assert "&lt;Zoé&gt;" in text
    assert "Finals &amp; co" in text
    assert "size: A4 portrait" in text
    assert command(*words)[0] == 2, "a file that is there is not overwritten"
    code, lines, _ = command("sheet", "team[01-02]", "--address", service.unix)
    assert lines == "<Zoé>\tteam01\tsecret01\n<Zoé>\tteam02\tsecret02\n"
    assert httpx2.get(service.http + "/sheet", trust_env=False, follow_redirects=True).status_code == 401
