"""mdb's pages over HTTP, without a script: what they show to whom, what forms do, what is never let through."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator

import httpx2
import pytest

from services.mdb.client import Mdb
from services.mdb.schema import Edits, Machine, MachinePatch, MachineType, NewMachine, Registration, Removal
from tests.common.pages_rig import Browser, Forms, text_of
from tests.common.service_rig import Service
from tests.mdb.rig import serving

HOSTILE = """<script>alert(1)</script>"><img src=x onerror=alert(2)>'{{7*7}}"""
PAGES = ("/machines", "/machines/new", "/pools", "/history", "/nowhere")


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """One mdb for all of these tests: starting it takes longer than they do."""
    folder = tmp_path_factory.mktemp("mdb")
    with serving(folder, f"sqlite:///{folder}/mdb.db") as started:
        yield started


@pytest.fixture
def mdb(service: Service) -> Service:
    """Without machines."""
    with Mdb(service.unix) as client:
        client.edit(Edits(delete=[Removal(id=one.id) for one in client.machines().machines]))
    return service


@pytest.fixture
def root(mdb: Service) -> Iterator[Browser]:
    with Browser(mdb) as browser:
        yield browser


@pytest.fixture
def stranger(mdb: Service) -> Iterator[Browser]:
    with Browser(mdb, root=False) as browser:
        yield browser


@pytest.fixture
def client(mdb: Service) -> Iterator[Mdb]:
    with Mdb(mdb.unix) as opened:
        yield opened


def add(client: Mdb, number: int, **given: object) -> Machine:
    values: dict[str, object] = {"type": MachineType.USER, "room": "pasteur", **given}
    mac = f"52:54:00:00:00:{number:02x}"
    return client.create(NewMachine(hostname=f"p{number}", mac=mac, **values))  # type: ignore[arg-type]


# What is shown


def test_the_list_shows_finds_and_sorts(root: Browser, client: Mdb) -> None:
    for number in (2, 10, 1):
        add(client, number, room="alt" if number == 10 else "pasteur")
    page = root.page("/machines")
    assert re.findall(r"/machines/\d+\">(p\d+)", page) == ["p1", "p2", "p10"]
    assert re.findall(r"/machines/\d+\">(p\d+)", root.page("/machines?sort=ip&down=1")) == ["p1", "p10", "p2"]
    assert 'aria-sort="descending"' in root.page("/machines?sort=ip&down=1")
    page = root.page("/machines?q=p1&room=alt")
    assert re.findall(r"/machines/\d+\">(p\d+)", page) == ["p10"]
    assert "1 of 3" in text_of(page)
    assert "backline mdb list 'p1 room:alt'" in text_of(page)


def test_a_query_that_cannot_be_read_is_explained(root: Browser) -> None:
    assert "Machines have no field 'hostnam'. Did you mean hostname" in text_of(root.page("/machines?q=hostnam:x"))
    assert "No such" not in text_of(root.page("/machines?q=%22open"))
    assert "inside of a quote" in text_of(root.page("/machines?q=%22open"))


@pytest.mark.parametrize(
    "path", ["/machines/99999999999999999999", "/machines/0/edit", "/switches/99999999999999999999"]
)
def test_an_id_that_nobody_has_is_not_found(root: Browser, path: str) -> None:
    assert "Not Found" in root.page(path, status=404)


@pytest.mark.parametrize("path", ["/machines?page=0", "/machines?sort=colour", "/machines?size=7", "/machines?what=1"])
def test_an_address_that_makes_no_sense_is_refused(root: Browser, path: str) -> None:
    assert "Bad Request" in root.page(path, status=400)


def test_a_machine_shows_its_record_and_history_and_is_found_by_any_name(root: Browser, client: Mdb) -> None:
    made = add(client, 1, aliases=["seat-one"], notes="below the window")
    client.change(made.id, MachinePatch(faulty=True, faulty_reason="no fan"))
    page = text_of(root.page("/machines/seat-one"))
    assert root.page(f"/machines/{made.mac}") == root.page(f"/machines/{made.ip}") == root.page(f"/machines/{made.id}")
    for expected in ("Faulty. no fan", "below the window", "seat-one", "What is wrong - → became no fan", "added"):
        assert expected in page


def test_pools_say_what_is_left(root: Browser, client: Mdb) -> None:
    before = re.findall(r'"(\d+) used, (\d+) resting, (\d+) free of 200"', root.page("/pools"))[0]
    add(client, 1)
    page = root.page("/pools")
    after = re.findall(r'"(\d+) used, (\d+) resting, (\d+) free of 200"', page)[0]
    assert (before[0], after[0], int(after[2])) == ("0", "1", int(before[2]) - 1)
    assert '<rect class="used" width="1"' in page


def test_the_history_goes_back_in_parts(root: Browser, client: Mdb) -> None:
    for number in range(1, 8):
        add(client, number)
    page = root.page("/history?limit=5")
    assert re.findall(r">(p\d)<", page) == ["p7", "p6", "p5", "p4", "p3"]
    older = html.unescape(re.findall(r'href="(/history\?[^"]*before[^"]*)"', page)[0])
    assert re.findall(r">(p\d)<", root.page(older))[:2] == ["p2", "p1"]


# Who sees and does what


def test_a_stranger_sees_what_everybody_saw_and_no_more(stranger: Browser, client: Mdb) -> None:
    made = add(client, 1, notes="the key is under the mat")
    page = stranger.page(f"/machines/{made.id}")
    assert str(made.mac) in page
    assert "History" not in page
    for path in ("/machines", f"/machines/{made.id}", "/machines?q=mat", "/machines?q=p1"):
        page = stranger.page(path)
        assert "under the mat" not in page
        assert "/edit" not in page
    assert "No machine is like that" in stranger.page("/machines?q=under")
    page = stranger.page("/history", status=401)
    assert "This is not for everybody." in page


@pytest.mark.parametrize(
    "path",
    ["/machines/new", "/machines/{id}/edit", "/machines/{id}/remove", "/machines/edit", "/machines/edit/preview"],
)
def test_a_stranger_changes_nothing(stranger: Browser, client: Mdb, path: str) -> None:
    made = add(client, 1)
    values = {"hostname": "evil", "mac": "525400000099", "match": str(made.revision), "machines": f"{made.id}:1"}
    assert stranger.post(path.format(id=made.id), data=values).status_code in (401, 403)
    assert stranger.post("/machines/edit/apply", data=values).status_code in (401, 403)
    assert client.machines().machines == [made]


@pytest.mark.parametrize(
    "headers",
    [
        {"sec-fetch-site": "cross-site", "origin": "http://mdb"},
        {"sec-fetch-site": "same-site"},
        {"sec-fetch-site": "", "origin": "http://evil.example"},
        {"sec-fetch-site": "", "origin": "null"},
    ],
)
def test_a_form_of_another_page_changes_nothing(root: Browser, client: Mdb, headers: dict[str, str]) -> None:
    made = add(client, 1)
    given = {name: value for name, value in headers.items() if value}
    if "sec-fetch-site" not in given:
        del root.headers["sec-fetch-site"]
    answer = root.post(f"/machines/{made.id}/remove", data={"match": str(made.revision)}, headers=given)
    assert answer.status_code == 403
    assert "somebody else" in answer.text
    assert client.machines().total == 1


# What is let through


@pytest.mark.parametrize("path", PAGES)
def test_every_page_allows_no_inline_script_and_no_other_address(root: Browser, client: Mdb, path: str) -> None:
    add(client, 1)
    answer = root.get(path)
    policy = dict(part.strip().partition(" ")[::2] for part in answer.headers["content-security-policy"].split(";"))
    assert policy["default-src"] == "'none'"
    assert {policy[name] for name in ("script-src", "style-src", "connect-src", "form-action")} == {"'self'"}
    assert policy["frame-ancestors"] == policy["base-uri"] == "'none'"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["x-frame-options"] == "DENY"
    assert "no-cache" in answer.headers["cache-control"]
    assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\sstyle=|\son[a-z]+=|hx-on|javascript:", answer.text)
    # The header leads to the other services of the same hall; nothing is loaded from there.
    own, elsewhere = re.subn(r"""<a href="//(?:overview|map|mdb|udb|rollout|firewall)[:/]""", "<a ", answer.text)
    assert elsewhere == 6
    assert not re.search(r"""(?:src|href|action)=["']?(?:[a-z]+:)?//""", own)


def test_hostile_values_are_text_everywhere(root: Browser, client: Mdb) -> None:
    made = add(client, 1, notes=HOSTILE, faulty=True, faulty_reason=HOSTILE, pinned=HOSTILE[:80])
    client.change(made.id, MachinePatch(notes=HOSTILE + "."))
    values = {"machines": f"{made.id}:{made.revision}", "faulty": "yes", "faulty_reason": HOSTILE + "!"}
    conflict = {**values, "match": "1", "was": "{}", "hostname": HOSTILE, "seen": "0", "room": HOSTILE}
    pages = [
        root.page("/machines"),
        root.page(f"/machines/{made.id}"),
        root.page(f"/machines/{made.id}/edit"),
        root.page("/history"),
        root.page("/machines?" + str(httpx2.QueryParams({"q": HOSTILE}))),
        root.page("/machines?" + str(httpx2.QueryParams({"room": HOSTILE[:80]}))),
        root.page("/machines/" + "%3Cscript%3Ealert(1)%3C%2Fscript%3E", status=404),
        root.fill("/machines/edit", {"machine": str(made.id)}),
        root.fill("/machines/edit/preview", values),
        root.fill(f"/machines/{made.id}/edit", conflict, status=409),
        root.fill("/machines/new", {"hostname": HOSTILE, "mac": HOSTILE}, status=422),
    ]
    for page in pages:
        assert "<script>alert" not in page
        assert "<img" not in page
        assert "49" not in re.findall(r"alert\(2\)[^<]*", page)


def test_a_file_of_the_pages_is_kept_by_browsers_until_it_changes(root: Browser) -> None:
    address = re.findall(r'href="(/static/pages.css\?v=\w+)"', root.page("/machines"))[0]
    answer = root.get(address)
    assert (answer.headers["content-type"].partition(";")[0], answer.status_code) == ("text/css", 200)
    assert "immutable" in answer.headers["cache-control"]
    assert root.get("/static/pages.css?v=other").headers["cache-control"] == "no-cache"
    assert root.get("/static/pages.css", headers={"if-none-match": answer.headers["etag"]}).status_code == 304
    assert root.get("/static/..%2f__init__.py").status_code == 404


def test_programs_get_problem_documents_and_people_pages(root: Browser) -> None:
    for path, headers in (("/v1/machines/gone", {}), ("/machines/gone", {"accept": "*/*"})):
        answer = root.get(path, headers=headers)
        assert (answer.status_code, answer.headers["content-type"]) == (404, "application/problem+json")
    page = root.page("/machines/gone", status=404)
    assert "There is no machine gone." in text_of(page)
    answer = root.get("/machines/gone", headers={"accept": "*/*", "hx-request": "true"})
    assert answer.headers["hx-retarget"] == "#main"
    assert "Method Not Allowed" in root.post("/pools").text
    answer = root.post("/machines/new", content=b"x" * (17 << 20))
    assert (answer.status_code, "Content Too Large" in answer.text) == (413, True)


# What forms do


def test_a_machine_is_added_and_mistakes_stand_beside_their_fields(root: Browser, client: Mdb) -> None:
    values = Forms(root.page("/machines/new")).found["/machines/new"]
    page = root.fill("/machines/new", {**values, "hostname": "a_b", "mac": "nonsense", "rfs": "x"}, status=422)
    assert 'id="e-rfs"' in page
    page = root.fill("/machines/new", {**values, "hostname": "a_b", "mac": "525400000001"}, status=422)
    assert "underscore" in re.findall(r'id="e-hostname">([^<]*)', page)[0]
    assert 'value="525400000001"' in page
    page = root.fill("/machines/new", {**values, "hostname": "seat", "mac": "525400000001", "type": "user"})
    assert "Added." in page
    assert client.machine("seat").mac == "52:54:00:00:00:01"
    page = root.fill(
        "/machines/new", {**values, "hostname": "other", "mac": "525400000001", "type": "user"}, status=409
    )
    assert "belongs to seat" in text_of(page)


def test_an_edit_changes_only_what_was_touched(root: Browser, client: Mdb) -> None:
    made = add(client, 1, notes="\n  line one\r\nline two\u2028\n", aliases=["x", "y"])
    path = f"/machines/{made.id}/edit"
    values = Forms(root.page(path)).found[path]
    assert "Saved." in root.fill(path, values)
    assert client.machine(made.id) == made
    root.fill(path, {**values, "room": "alt", "faulty": "yes"})
    after = client.machine(made.id)
    assert (after.room, after.faulty, after.notes, after.aliases) == ("alt", True, made.notes, ["x", "y"])


def test_two_people_at_once_see_each_others_values(root: Browser, client: Mdb) -> None:
    made = add(client, 1)
    path = f"/machines/{made.id}/edit"
    values = Forms(root.page(path)).found[path]
    client.change(made.id, MachinePatch(room="theirs", channel="next"))
    page = root.fill(path, {**values, "room": "mine", "notes": "also mine"}, status=409)
    shown = text_of(page)
    assert "Changed meanwhile by root (local)" in shown
    assert "Room pasteur theirs mine" in shown
    assert "Channel stable next not changed: theirs stays" in shown
    assert client.machine(made.id).room == "theirs"
    again = Forms(page).found[path]
    assert (again["room"], again["channel"], again["notes"]) == ("mine", "next", "also mine")
    root.fill(path, {**again, "take.room": "theirs"})
    after = client.machine(made.id)
    assert (after.room, after.channel, after.notes) == ("theirs", "next", "also mine")
    root.fill(path, {**again, "match": str(after.revision), "take.room": "mine"})
    assert client.machine(made.id).room == "mine"


def test_a_machine_is_removed_only_as_it_was_shown(root: Browser, client: Mdb) -> None:
    made = add(client, 1)
    path = f"/machines/{made.id}/remove"
    values = Forms(root.page(path)).found[path]
    client.change(made.id, MachinePatch(room="alt"))
    assert "changed meanwhile" in root.fill(path, values, status=409)
    values = Forms(root.page(path)).found[path]
    root.fill(path, values)
    assert client.machines().total == 0
    root.page(f"/machines/{made.id}", status=404)


def test_many_are_changed_after_a_preview(root: Browser, client: Mdb) -> None:
    made = [add(client, number, room="alt" if number == 3 else "pasteur") for number in range(1, 6)]
    page = root.fill("/machines/edit", {"which": "picked", "machine": [str(one.id) for one in made[:3]]})
    assert "Change 3 machines" in text_of(page)
    chosen = {**Forms(page).found["/machines/edit/preview"], "what": "change", "room": "alt", "faulty": "yes"}
    page = root.fill("/machines/edit/preview", {**chosen, "faulty_reason": "flood"})
    shown = text_of(page)
    assert "Room pasteur → became alt 2" in shown
    assert "What is wrong - → became flood 3" in shown
    assert client.machines("room:alt").total == 1
    page = root.fill("/machines/edit/apply", Forms(page).found["/machines/edit/apply"])
    assert "Done: 3 machines changed." in text_of(page)
    assert client.machines("room:alt faulty:yes").total == 3
    assert client.machine(made[0].id).faulty_reason == "flood"


def test_all_that_a_query_finds_can_be_taken(root: Browser, client: Mdb) -> None:
    for number in range(1, 8):
        add(client, number, room="alt" if number % 2 else "pasteur")
    page = root.fill("/machines/edit", {"which": "all", "q": "-p7", "room": "alt"})
    assert "Change 3 machines" in text_of(page)
    page = root.fill("/machines/edit", {"which": "picked"})
    assert "No machine is picked" in text_of(page)


def test_a_change_between_preview_and_apply_leads_to_a_new_preview(root: Browser, client: Mdb) -> None:
    made = [add(client, number) for number in (1, 2)]
    chosen = {"machines": " ".join(f"{one.id}:{one.revision}" for one in made), "what": "change", "room": "alt"}
    ready = Forms(root.fill("/machines/edit/preview", chosen)).found["/machines/edit/apply"]
    client.change(made[0].id, MachinePatch(room="b"))
    page = root.fill("/machines/edit/apply", ready, status=409)
    assert "Changed meanwhile: p1 . This is what it would do" in text_of(page)
    assert "Room b → became alt 1" in text_of(page)
    assert client.machines("room:alt").total == 0
    root.fill("/machines/edit/apply", Forms(page).found["/machines/edit/apply"])
    assert client.machines("room:alt").total == 2


def test_many_are_removed_after_one_more_question(root: Browser, client: Mdb) -> None:
    made = [add(client, number) for number in (1, 2, 3)]
    ready = {"machines": " ".join(f"{one.id}:{one.revision}" for one in made[:2]), "what": "remove"}
    page = root.fill("/machines/edit/preview", ready)
    assert "Remove 2 machines?" in text_of(page)
    assert client.machines().total == 3
    root.fill("/machines/edit/apply", Forms(page).found["/machines/edit/apply"])
    assert [one.hostname for one in client.machines().machines] == ["p3"]


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({}, "Nothing would change"),
        ({"room": "pasteur"}, "Nothing would change"),
        ({"rfs": "many"}, "Root server (rfs): expected"),
        ({"pin": "pin"}, "which one?"),
        ({"room": "a_b"}, "underscore"),
        ({"type": "toaster"}, "Type: invalid enum value"),
    ],
)
def test_a_bulk_edit_that_makes_no_sense_says_so(root: Browser, client: Mdb, values: dict[str, str], why: str) -> None:
    made = add(client, 1)
    page = root.fill(
        "/machines/edit/preview", {"machines": f"{made.id}:{made.revision}", "what": "change", **values}, status=422
    )
    assert why.lower() in text_of(page).lower()
    assert f"{made.id}:{made.revision}" in page


def csv(*machines: Machine, **cells: str) -> str:
    """A table with the names and MAC addresses of machines, and the same cells for each."""
    lines = [["hostname", "mac", *cells], *([each.hostname, str(each.mac), *cells.values()] for each in machines)]
    return "".join(",".join(line) + "\n" for line in lines)


def test_an_import_is_shown_then_done(root: Browser, client: Mdb) -> None:
    one, two = add(client, 1), add(client, 2, room="alt")
    table = csv(one, two, type="user", room="alt") + "p3,525400000003,user,alt\n"
    page = root.fill("/import", {"table": table})
    shown = text_of(page)
    assert "Import 2 changes?" in shown
    assert "new 1 changed 1 as they are 1" in shown
    assert "2 p1 Room pasteur → became alt" in shown
    assert client.machines("room:alt").total == 1
    page = root.fill("/import/apply", Forms(page).found["/import/apply"])
    assert "Done: 2 machines changed." in text_of(page)
    assert client.machines("room:alt").total == 3
    assert "Nothing would change" in root.fill("/import", {"table": table})


@pytest.mark.parametrize("format", ["csv", "json", "yaml"])
def test_a_file_is_taken_whatever_it_looks_like(root: Browser, client: Mdb, format: str) -> None:
    made = add(client, 1, aliases=["x"], notes="=1+1\nsecond line")
    exported = root.get(f"/v1/export?format={format}").content
    answer = root.post("/import", data={"table": "", "format": ""}, files={"file": (f"m.{format}", exported)})
    assert "Nothing would change" in answer.text
    changed = exported.replace(b"pasteur", b"other")
    answer = root.post("/import", data={"format": format}, files={"file": ("m", changed)})
    root.fill("/import/apply", Forms(answer.text).found["/import/apply"])
    after = client.machine(made.id)
    assert (after.room, after.notes, after.aliases) == ("other", made.notes, ["x"])


def test_an_import_is_not_done_when_it_would_do_something_else_by_now(root: Browser, client: Mdb) -> None:
    made = add(client, 1)
    ready = Forms(root.fill("/import", {"table": csv(made, room="alt")})).found["/import/apply"]
    client.change(made.id, MachinePatch(room="b"))
    page = root.fill("/import/apply", ready, status=409)
    assert "Something was changed meanwhile" in page
    assert "Room b → became alt" in text_of(page)
    assert client.machine(made.id).room == "b"
    root.fill("/import/apply", Forms(page).found["/import/apply"])
    assert client.machine(made.id).room == "alt"


@pytest.mark.parametrize(
    ("table", "format", "why"),
    [
        ("", "", "there is nothing to import"),
        ("hostname,mac\na_b,525400000001\n", "", "line 2: 'a_b' has an underscore"),
        ("hostname,colour\nx,y\n", "", "there is no column 'colour'"),
        ("hostname,mac\nx,1\ny,2\n", "", "2"),
        ("[{]", "", "this is not JSON"),
        ("- hostname: [", "", "this is not YAML"),
        ("x", "toml", "no format 'toml'"),
    ],
)
def test_an_import_that_cannot_be_read_says_where(
    root: Browser, stranger: Browser, client: Mdb, table: str, format: str, why: str
) -> None:
    page = root.fill("/import", {"table": table, "format": format}, status=422)
    assert why in text_of(page)
    assert html.escape(table, quote=False).replace("'", "&#39;") in page
    assert stranger.post("/import", data={"table": table}).status_code == 401
    assert client.machines().total == 0


def test_switches_are_added_changed_and_removed(root: Browser, stranger: Browser, client: Mdb) -> None:
    values = Forms(root.page("/switches")).found["/switches"]
    page = root.fill("/switches", {**values, "name": "a_b", "chassis": "nonsense", "rfs": "x"}, status=422)
    assert 'id="e-rfs"' in page
    page = root.fill("/switches", {**values, "name": "a_b", "chassis": "001b213c0000"}, status=422)
    assert "underscore" in page
    page = root.fill("/switches", {**values, "name": "row1", "chassis": "001b213c0000", "room": "alt"})
    path = re.findall(r"/switches/\d+", page)[0]
    assert "00:1b:21:3c:00:00" in stranger.page("/switches")
    assert "/switches/" not in stranger.page("/switches")
    first = Forms(root.page(path)).found[path]
    root.fill(path, {**first, "rfs": "2"})
    page = root.fill(path, {**first, "rfs": "3"}, status=409)
    assert "Nearest rfs 2 3" in text_of(page)
    again = Forms(page).found[path]
    assert "00:1b:21:3c:00:00" in root.fill(path, again)
    assert "No switch is known" in root.fill(f"{path}/remove", Forms(root.page(path)).found[f"{path}/remove"])
    assert "row1" in root.page("/history?topic=switches")


def test_a_setting_is_turned_on_and_its_history_says_who_did(root: Browser, stranger: Browser) -> None:
    path = "/settings/allow_self_registration"
    page = root.fill(path, {"value": "yes"})
    assert "not as usual" in page
    assert "allow_self_registration no → became yes" in text_of(page)
    assert "root" not in text_of(stranger.page("/settings"))
    assert stranger.post(path, data={"value": "no"}).status_code == 401
    assert "not as usual" not in root.fill(path, {"value": "no"})
    assert "expected" in root.fill(path, {"value": "perhaps"}, status=422)
    assert "no setting nothing" in root.fill("/settings/nothing", {"value": "1"}, status=404)


def test_a_code_is_shown_once_and_lets_a_machine_register_again(root: Browser, stranger: Browser, client: Mdb) -> None:
    made = add(client, 1)
    assert stranger.post(f"/machines/{made.id}/code").status_code == 401
    page = root.fill(f"/machines/{made.id}/code", {})
    code = re.findall(r"<output[^>]*>([^<]*)</output>", page)[0]
    assert "a registration code was made" in page
    assert code not in root.page(f"/machines/{made.id}") + root.page("/history")
    client.register(Registration(mac="525400000077", code=code))
    assert client.machine(made.id).mac == "52:54:00:00:00:77"


@pytest.mark.parametrize(
    ("path", "content", "kind"),
    [
        ("/machines/edit/preview", b"machines=nonsense", "application/x-www-form-urlencoded"),
        ("/machines/edit/preview", b"machines=%ff", "application/x-www-form-urlencoded"),
        ("/machines/new", b"{}", "application/json"),
        ("/machines/1/edit", b"match=x", "application/x-www-form-urlencoded"),
        ("/machines/1/edit", b"match=1&was=%5B", "application/x-www-form-urlencoded"),
        ("/machines/new", b"nonsense", "multipart/form-data; boundary=x"),
    ],
)
def test_a_form_that_is_none_of_ours_is_refused(
    root: Browser, client: Mdb, path: str, content: bytes, kind: str
) -> None:
    add(client, 1)
    answer = root.post(path, content=content, headers={"content-type": kind})
    assert answer.status_code in (400, 415, 422)
    assert client.machines().total == 1
