"""Lists of people become users: logins from names, clashes, who is meant again; all of it or nothing."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.errors import AccessError, BacklineError
from services.common.formats import Format
from services.common.users import UserGroup, login_problem
from services.udb import importing, tables
from services.udb.importing import adapted, derived, read, written
from services.udb.schema import Imported, ImportFormat, NewUser, UserPatch
from services.udb.store import Store
from tests.hall.halls import KEY
from tests.udb.rig import ME, ORGANIZER, new


def take(
    store: Store,
    text: str,
    format: ImportFormat = ImportFormat.NAMES,
    *,
    group: UserGroup = UserGroup.USER,
    generate: bool = False,
    dry: bool = False,
    person: object = ME,
) -> Imported:
    wishes = read(text.encode(), format)
    return store.take(
        person,  # type: ignore[arg-type]
        lambda users: importing.plan(wishes, users, group=group, generate=generate, foreign=lambda _: False),
        dry=dry,
    )


def table(store: Store, text: str, format: Format = Format.CSV, *, dry: bool = False) -> Imported:
    rows = tables.read(text.encode(), format)
    return store.take(ME, lambda users: importing.plan_table(rows, users, generate=False), dry=dry)


def logins(store: Store) -> list[str]:
    return [user.login for user in store.users(ME)]


def refused(store: Store, text: str, format: ImportFormat = ImportFormat.NAMES, **how: object) -> BacklineError:
    with pytest.raises(BacklineError) as caught:
        take(store, text, format, **how)  # type: ignore[arg-type]
    return caught.value


# Logins


@pytest.mark.parametrize(
    ("first", "last", "login"),
    [
        ("Jean", "Dupont", "jdupont"),
        ("Jean-Paul", "de la Tour", "jpdelatour"),
        ("Éloïse Zoé", "Müller", "ezmuller"),
        ("Łukasz", "Øster-Strauß", "losterstrau"),
        ("Anne", "O'Brien-Montgomery", "aobrienmont"),
        ("", "Madonna", "madonna"),
        ("Дмитрий", "Smirnov", "smirnov"),
        ("Дмитрий", "Смирнов", ""),
    ],
)
def test_a_login_is_made_from_a_name(first: str, last: str, login: str) -> None:
    assert derived(first, last) == login


@given(st.text(max_size=40), st.text(max_size=40))
def test_whatever_is_made_is_a_login_or_nothing(first: str, last: str) -> None:
    for made in (derived(first, last), adapted(first)):
        assert made == "" or login_problem(made) is None or "system user" in (login_problem(made) or "")


@pytest.mark.parametrize(
    ("name", "as_written"),
    [("JEAN-PAUL", "Jean-Paul"), ("o'brien", "O'Brien"), ("McDonald", "McDonald"), ("  zoé   ", "Zoé"), ("", "")],
)
def test_names_in_capitals_are_written_as_names(name: str, as_written: str) -> None:
    assert written(name) == as_written


def test_clashes_get_numbers_in_one_list_and_across_lists(store: Store) -> None:
    take(store, "Jean\tDupont\nJules\tDupont\n")
    assert logins(store) == ["jdupont", "jdupont2"]
    take(store, "Jeanne\tDupont\n")
    assert logins(store) == ["jdupont", "jdupont2", "jdupont3"]
    assert store.user(ME, "jdupont3").firstname == "Jeanne"


def test_no_name_makes_a_login_of_the_system(store: Store) -> None:
    take(store, "Robert\toot\n")
    assert logins(store) == ["root2"]


def test_the_same_list_twice_makes_nobody_twice(store: Store) -> None:
    people = "Jean\tDupont\njean\tDUPONT\nZoé\tDoe\n"
    assert take(store, people).created == 3
    again = take(store, people)
    assert (again.created, again.updated, again.unchanged) == (0, 0, 3)
    assert logins(store) == ["jdupont", "jdupont2", "zdoe"]
    assert take(store, people + "Jean\tDupont\n").created == 1, "one more of this name"


def test_a_namesake_in_another_group_is_another_person(store: Store) -> None:
    take(store, "Jean\tDupont\n", group=UserGroup.ORGA)
    take(store, "Jean\tDupont\n")
    assert [(user.login, user.group.value) for user in store.users(ME)] == [("jdupont", "orga"), ("jdupont2", "user")]


# Lists of logins


def test_logins_come_with_and_without_passwords(store: Store) -> None:
    take(store, "# the team\nteam01\n\nteam02\n", ImportFormat.LOGINS, generate=True)
    take(store, "team01:pass:word\nteam03:other\n", ImportFormat.PASSWORDS)
    ids = [user.id for user in store.users(ME)]
    shown = {each.login: each.password for each in store.show(ME, ids)}
    assert (shown["team01"], shown["team03"]) == ("pass:word", "other")
    assert len(shown["team02"] or "") == 10
    again = take(store, "team01:pass:word\n", ImportFormat.PASSWORDS)
    assert (again.updated, again.unchanged) == (0, 1)


def test_a_change_of_a_password_is_told_without_it(store: Store, clock: list[float]) -> None:
    take(store, "team01:first-one\n", ImportFormat.PASSWORDS)
    clock[0] += 1
    done = take(store, "team01:second-one\n", ImportFormat.PASSWORDS, dry=True)
    (change,) = done.changes
    assert "password_set" in (change.after or {})
    assert "second-one" not in str(done)


def test_nobody_of_another_group_is_touched(store: Store) -> None:
    chief = store.create(ME, NewUser(login="chief", group=UserGroup.ROOT, password="secret"))
    error = refused(store, "chief:known\nteam01:x\n", ImportFormat.PASSWORDS)
    assert error.code == "import.group"
    assert store.show(ME, [chief.id])[0].password == "secret"
    assert logins(store) == ["chief"]


# The website


def site(*accounts: dict[str, object]) -> str:
    return json.dumps([{"username": "x", "first_name": "", "last_name": "", **each} for each in accounts])


def test_accounts_of_the_website_are_known_by_their_ids(store: Store) -> None:
    first = site(
        {"id": 7, "username": "Jean.Dupont", "first_name": "Jean", "last_name": "Dupont", "extra": 1},
        {"id": 8, "username": "root", "first_name": "Ro", "last_name": "Ot", "password": "from the site"},
    )
    take(store, first, ImportFormat.SITE)
    assert logins(store) == ["jean-dupont", "root2"]
    assert take(store, first, ImportFormat.SITE).unchanged == 2
    renamed = site({"id": 7, "username": "somebody", "first_name": "Jeanne", "last_name": "Dupont"})
    (change,) = take(store, renamed, ImportFormat.SITE).changes
    assert (change.login, change.after) == ("jean-dupont", {"firstname": "Jeanne"})


def test_an_account_with_the_login_of_somebody_else_gets_another_login(store: Store) -> None:
    store.create(ME, new(1, firstname="Old", lastname="Hand"))
    take(store, site({"id": 9, "username": "team01", "first_name": "New", "last_name": "Face"}), ImportFormat.SITE)
    assert logins(store) == ["team01", "team012"]


def test_somebody_from_before_there_were_accounts_is_recognised(store: Store) -> None:
    made = store.create(ME, new(1, firstname="Zoé", lastname="Doe"))
    take(store, site({"id": 9, "username": "team01", "first_name": "Zoe", "last_name": "DOE"}), ImportFormat.SITE)
    assert store.users(ME)[0].site_id == 9
    assert store.users(ME)[0].id == made.id


# What is wrong


@pytest.mark.parametrize(
    ("text", "format", "code", "told"),
    [
        ("Jean Dupont\n", ImportFormat.NAMES, "import.syntax", "line 1"),
        ("a\tb\n\u0414\tЖ\n", ImportFormat.NAMES, "import.login", "line 2"),
        ("ok\nNot Ok\n", ImportFormat.LOGINS, "import.login", "line 2"),
        ("root\n", ImportFormat.LOGINS, "import.login", "system user"),
        ("team01\nteam02\nteam01\n", ImportFormat.LOGINS, "import.twice", "line 3"),
        ("team01\n", ImportFormat.PASSWORDS, "import.syntax", "line 1"),
        ("team01: x\n", ImportFormat.PASSWORDS, "password.form", "line 1"),
        ("{}", ImportFormat.SITE, "import.syntax", "array"),
        ("[{", ImportFormat.SITE, "import.syntax", "JSON"),
        ('[{"id": 1, "username": "a"}, {"id": "x"}]', ImportFormat.SITE, "import.syntax", "account 2, id"),
        ("x" * 65 + "\tb\n", ImportFormat.NAMES, "import.value", "line 1: firstname"),
        ('[{"id": -1, "username": "a"}]', ImportFormat.SITE, "import.value", "site_id"),
        ("team01:" + "x" * 101, ImportFormat.PASSWORDS, "import.value", "line 1: password"),
        ("A B\nC D\n", ImportFormat.NAMES, "import.invalid", "2 mistakes"),
    ],
)
def test_mistakes_are_told_with_their_line_and_nothing_is_kept(
    store: Store, text: str, format: ImportFormat, code: str, told: str
) -> None:
    error = refused(store, text, format)
    assert error.code == code
    assert told in f"{error.where}: {error.message}"
    assert store.users(ME) == []


def test_a_preview_keeps_nothing_and_tells_what_would_be(store: Store) -> None:
    done = take(store, "Jean\tDupont\n", generate=True, dry=True)
    assert [(each.login, each.name, each.action.value) for each in done.changes] == [
        ("jdupont", "Jean Dupont", "created")
    ]
    assert store.users(ME) == []


def test_organizers_import_nobody(store: Store) -> None:
    for dry in (False, True):
        with pytest.raises(AccessError):
            take(store, "Jean\tDupont\n", dry=dry, person=ORGANIZER)


# Tables


@pytest.mark.parametrize("format", Format)
def test_what_is_exported_is_imported_without_a_change(store: Store, format: Format) -> None:
    store.create(ME, new(1, firstname="=Zoé", lastname="O'Doe; no", keys=[KEY, f"{KEY[:-2]}AA x"][:1], site_id=3))
    store.create(ME, new(2, group=UserGroup.ROOT, password="secret"))
    text = tables.write(store.users(ME), format)
    assert "secret" not in text
    assert table(store, text, format).unchanged == 2
    for user in store.users(ME):
        store.delete(ME, user.id)
    assert table(store, text, format).created == 2
    assert [(user.login, user.firstname, user.keys, user.site_id) for user in store.users(ME)] == [
        ("team01", "=Zoé", [KEY], 3),
        ("team02", "", [], None),
    ]


def test_a_table_says_what_changes(store: Store) -> None:
    store.create(ME, new(1))
    text = "login,group,password,keys\nteam01,orga,given,\nteam02,,,\n"
    done = table(store, text)
    assert (done.created, done.updated) == (1, 1)
    user = store.user(ME, "team01")
    assert (user.group, user.uid) == (UserGroup.ORGA, 11_000)
    assert store.show(ME, [user.id])[0].password == "given"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("login,uid\nteam01,x\n", "line 2, column 2"),
        ("login,groop\n", "line 1, column 2"),
        ("login,group\nteam01,nobody\n", "line 2, column 2"),
        ("login\nteam01\nteam01\n", "line 3"),
        ("firstname\nZoé\n", "line 2"),
    ],
)
def test_mistakes_of_a_table_are_told_with_their_cell(store: Store, text: str, told: str) -> None:
    store.create(ME, new(1))
    with pytest.raises(BacklineError) as caught:
        table(store, text)
    assert told in f"{caught.value.where}"
    assert len(store.users(ME)) == 1


def test_a_change_between_plan_and_import_is_not_overwritten(store: Store) -> None:
    user = store.create(ME, new(1))
    rows = tables.read(b"login,firstname\nteam01,mine\n", Format.CSV)

    def plan(users: object) -> list[importing.Planned]:
        planned = importing.plan_table(rows, users, generate=False)  # type: ignore[arg-type]
        store.update(ME, user.id, UserPatch(firstname="theirs"))
        return planned

    with pytest.raises(BacklineError, match="changed meanwhile"):
        store.take(ME, plan)
    assert store.user(ME, user.id).firstname == "theirs"
