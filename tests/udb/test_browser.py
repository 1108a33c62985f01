"""udb's pages in a browser: search, tick, show, import, print; and the pictures of them in docs/.

`BACKLINE_SCREENSHOTS=1 pytest tests/udb/test_browser.py -k screenshots` writes those of docs/screenshots again.
"""

from __future__ import annotations

import os
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from services.common.database import Database
from services.common.users import UserGroup
from services.udb.client import Udb
from services.udb.eyes import Person
from services.udb.schema import NewUser, UserPatch
from services.udb.sealing import KEY_BYTES, Seal
from services.udb.store import Create, Store
from tests.common.browser_rig import SCREENSHOTS, STILL, Desk, assert_readable, desk_in, launched
from tests.common.service_rig import Service
from tests.hall.halls import KEY
from tests.mdb.pages_rig import BEGIN, forwarded
from tests.mdb.pages_rig import htmx as htmx_of
from tests.udb.rig import serving

pytestmark = pytest.mark.needs("chromium")

FIRST = ("Ada", "Blaise", "Camille", "Dorothée", "Évariste", "Françoise", "Grâce", "Hedy", "Inès", "Jean-Paul")
LAST = ("Arnaud", "Bézout", "Cauchy", "Duflot", "Ferrand", "Germain", "Huygens", "Müller", "O'Brien", "Poincaré")
PEOPLE = len(FIRST) * len(LAST)
CAROL, DAN = Person.root("carol", "192.168.16.3"), Person.root("dan", "192.168.16.7")


def fill(database: str) -> None:
    """Contestants, a few organizers and roots; names, times and passwords follow from numbers."""
    ticking = [BEGIN]
    with Database(database) as opened:
        store = Store(opened, Seal(bytes(range(KEY_BYTES))), clock=lambda: ticking[0])
        store.prepare()
        staff = [("carol", "root"), ("dan", "root"), ("erin", "orga"), ("frank", "orga"), ("grace", "orga")]
        store.edit(
            CAROL,
            [
                Create(NewUser(login=name, firstname=name.title(), group=UserGroup(group), keys=[f"{KEY} {name}@desk"]))
                for name, group in staff
            ],
        )
        ticking[0] += 600
        contestants = [
            NewUser(
                login=f"team{number:03}",
                firstname=first,
                lastname=last,
                site_id=4000 + number,
                password=None if number % 33 == 7 else f"Ka{number:03}tzeXq",
            )
            for number, (first, last) in enumerate((first, last) for last in LAST for first in FIRST)
        ]
        store.edit(CAROL, [Create(one) for one in contestants])
        ticking[0] += 5000
        user = store.user(DAN, "team012")
        store.update(DAN, user.id, UserPatch(password="Ka012tzeXr"))
        ticking[0] += 300
        store.show(Person.organizer("erin", "192.168.16.9"), [user.id])
        ticking[0] += 40
        store.update(DAN, user.id, UserPatch(keys=[f"{KEY} camille@home"]))


@contextmanager
def people(folder: Path) -> Iterator[Service]:
    """A udb that is always the same, with htmx as the gw image has it."""
    database = f"sqlite:///{folder}/udb.db"
    fill(database)
    with serving(folder, database, htmx=htmx_of(folder / "htmx")) as running:
        yield running


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with people(tmp_path_factory.mktemp("udb")) as running:
        yield running


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with launched() as started:
        yield started


@pytest.fixture(scope="module")
def origin(service: Service) -> Iterator[str]:
    with forwarded(service.socket) as address:
        yield address


@pytest.fixture
def desk(browser: Browser, origin: str) -> Iterator[Desk]:
    """Afterwards: nothing was asked of another origin, and the console is empty."""
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    made = desk_in(context, origin)
    yield made
    context.close()
    assert [url for url in made.asked if not url.startswith(f"{origin}/")] == []
    assert made.complaints == []


def logins(desk: Desk) -> list[str]:
    return desk.page.locator(".users tbody th a").all_inner_texts()


def test_typing_searches_and_the_address_can_be_shared(desk: Desk) -> None:
    desk.open("/users")
    expect(desk.page.locator("#count")).to_have_text(str(PEOPLE + 5))
    desk.page.locator("#q").press_sequentially("poincare", delay=20)
    expect(desk.page.locator("#count")).to_have_text(f"10 of {PEOPLE + 5}")
    expect(desk.page).to_have_url(re.compile(r"/users\?q=poincare$"))  # the last letter has been looked for
    desk.page.locator("#pick-password").select_option("yes")
    expect(desk.page).to_have_url(re.compile(r"/users\?q=poincare&password=yes$"))
    desk.page.get_by_role("link", name="Name", exact=True).click()
    expect(desk.page.locator("th[aria-sort=ascending]")).to_have_text("Name")
    assert logins(desk)[0] == "team090"
    assert_readable(desk)


def test_a_password_is_shown_on_request_and_hidden_again(desk: Desk, service: Service) -> None:
    desk.open("/users/team031")
    expect(desk.page.locator("body")).not_to_contain_text("Ka031tzeXq")
    desk.page.get_by_role("button", name="Show password").click()
    expect(desk.page.locator("output")).to_have_text("Ka031tzeXq")
    expect(desk.page.locator(".timeline li").first).to_contain_text("password shown")
    assert_readable(desk)
    desk.page.get_by_role("link", name="Hide it").click()
    expect(desk.page.locator("body")).not_to_contain_text("Ka031tzeXq")
    with Udb(service.unix) as client:
        assert len(client.audit(client.user("team031").id, topic="showings").entries) == 1


def test_a_user_is_edited_in_place(desk: Desk, service: Service) -> None:
    desk.open("/users/team040")
    desk.page.get_by_role("link", name="Edit").click()
    desk.page.get_by_label("Group", exact=True).select_option("orga")
    desk.page.get_by_label("What becomes of it").select_option("a new one is made")
    expect(desk.page.get_by_label("Login", exact=True)).to_have_value("team040")
    assert_readable(desk)
    desk.page.get_by_label("Uid", exact=True).fill("")
    desk.page.get_by_role("button", name="Save").click()
    expect(desk.page.locator(".notice.good")).to_contain_text("Saved.")
    with Udb(service.unix) as client:
        user = client.user("team040")
        assert user.group is UserGroup.ORGA
        client.change(user.id, UserPatch(group=UserGroup.USER))


def test_ticked_passwords_are_printed_on_a4(desk: Desk) -> None:
    desk.open("/users?q=team02")
    boxes = desk.page.locator("td.tick input")
    boxes.nth(0).click()
    boxes.nth(4).click(modifiers=["Shift"])
    expect(desk.page.locator("[data-picked]")).to_have_text("Print passwords of 5 ticked")
    desk.page.get_by_label("on a sheet").select_option("4")
    desk.page.locator("[data-picked]").click()
    expect(desk.page.locator(".slip")).to_have_count(5)
    expect(desk.page.locator(".page")).to_have_count(2)
    desk.page.emulate_media(media="print")
    expect(desk.page.locator(".note")).to_be_hidden()
    millimetre = 96 / 25.4
    for page in desk.page.locator(".page").all():
        box = page.bounding_box()
        assert box is not None
        assert (box["width"], box["height"]) == pytest.approx((210 * millimetre, 297 * millimetre), abs=1)
    assert desk.page.pdf(prefer_css_page_size=True).count(b"/Type /Page\n") == 2


def test_a_list_is_imported_after_a_look(desk: Desk, service: Service) -> None:
    desk.open("/import")
    desk.page.get_by_label("Or paste it here").fill("Marie\tAgnesi\nMarc\tAgnesi\nCamille\tArnaud\n")
    assert_readable(desk)
    desk.page.get_by_role("button", name="Preview").click()
    expect(desk.page.get_by_role("heading", level=1)).to_have_text("Import 2 changes?")
    assert_readable(desk)
    desk.page.get_by_role("button", name="Import").click()
    expect(desk.page.locator(".notice.good")).to_have_text("Done: 2 users changed.")
    with Udb(service.unix) as client:
        assert [user.login for user in client.users("agnesi").users] == ["magnesi", "magnesi2"]
        for user in client.users("agnesi").users:
            client.delete(user.id)


@pytest.mark.parametrize("path", ["/users", "/users/new", "/users/team001", "/import", "/pools", "/history"])
def test_pages_fit_a_phone_and_can_be_read_aloud(browser: Browser, origin: str, path: str) -> None:
    context = browser.new_context(viewport={"width": 390, "height": 780}, color_scheme="dark")
    desk = desk_in(context, origin)
    desk.open(path)
    assert desk.page.evaluate("() => document.documentElement.scrollWidth") <= 390
    assert_readable(desk)
    assert desk.complaints == []
    context.close()


def test_without_a_script_it_all_works_too(browser: Browser, origin: str) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(f"{origin}/users?q=team05")
    page.locator("td.tick input").nth(1).check()
    page.locator("[data-picked]").click()
    assert page.locator(".slip").count() == 1
    page.goto(f"{origin}/users/team050")
    page.get_by_role("button", name="Show password").click()
    assert page.locator("output").inner_text() == "Ka050tzeXq"
    context.close()


LOOKS = {"": (1120, 700, False), "-dark": (1120, 700, True), "-phone": (390, 780, False)}


def _list(desk: Desk) -> None:
    desk.open("/users?group=user&sort=name")
    for number in (1, 2, 4):
        desk.page.locator("td.tick input").nth(number).check()


def _user(desk: Desk) -> None:
    desk.open("/users/team012")


def _import(desk: Desk) -> None:
    desk.open("/import")
    people = "Marie\tAgnesi\nMarc\tAgnesi\nCamille\tArnaud\nŁukasz\tØster-Strauß\n"
    desk.page.get_by_label("Or paste it here").fill(people)
    desk.page.get_by_role("button", name="Preview").click()
    expect(desk.page.locator(".each")).to_be_visible()


def _sheet(desk: Desk) -> None:
    desk.open("/users?q=team03")
    desk.page.get_by_role("button", name=re.compile("Print passwords of all")).click()
    expect(desk.page.locator(".slip")).to_have_count(10)


SCENES = {"users": _list, "user": _user, "import": _import, "sheet": _sheet}


@pytest.mark.full
def test_the_screenshots_of_the_documents(browser: Browser, tmp_path: Path) -> None:
    """The same for the same code, fonts and browser: people of their own, at a time that stands still."""
    folder = SCREENSHOTS if os.environ.get("BACKLINE_SCREENSHOTS") else tmp_path / "screenshots"
    folder.mkdir(exist_ok=True)
    with people(tmp_path) as service, forwarded(service.socket) as origin:
        with closing(sqlite3.connect(tmp_path / "udb.db")) as database:
            assert database.execute("SELECT count(*) FROM users").fetchone() == (PEOPLE + 5,)
        for name, (width, height, dark) in LOOKS.items():
            context = browser.new_context(
                viewport={"width": width, "height": height}, color_scheme="dark" if dark else "light"
            )
            desk = desk_in(context, origin)
            for shown, prepare in SCENES.items():
                if name == "" or shown == "users":
                    prepare(desk)
                    desk.page.mouse.move(0, 0)
                    desk.page.evaluate(STILL)
                    desk.page.screenshot(path=folder / f"udb-{shown}{name}.png", animations="disabled")
            context.close()
    assert len(list(folder.glob("udb-*.png"))) == len(SCENES) + len(LOOKS) - 1
