"""The map in a browser: seats change before one's eyes, on a desk, a phone and a wall; strangers read no name.

`BACKLINE_SCREENSHOTS=1 pytest tests/usermap/test_browser.py -k screenshots` writes those of docs/screenshots again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Playwright, expect, sync_playwright

from tests.common.browser_rig import SCREENSHOTS, STILL, Desk, assert_readable, desk_in, opened
from tests.mdb.pages_rig import forwarded
from tests.overview.rig import stopped
from tests.rollout.rig import until
from tests.usermap.rig import Rooms, machines, rooms

pytestmark = pytest.mark.needs("chromium")

MAP, STRANGER = "http://map.prolo", "http://map"
SEATS = 60


@contextmanager
def browsing(playwright: Playwright, made: Rooms) -> Iterator[Browser]:
    """A browser that finds the map by its whole name as root, and by its short name as whoever is in the hall."""
    with ExitStack() as stack:
        address = stack.enter_context(forwarded(made.service.socket)).removeprefix("http://")
        rules = f"MAP map.prolo:80 {address},MAP map:80 127.0.0.1:{made.service.port}"
        secure = f"--unsafely-treat-insecure-origin-as-secure={MAP},{STRANGER}"
        yield stack.enter_context(opened(playwright, f"--host-resolver-rules={rules}", secure))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rooms]:
    with rooms(tmp_path_factory.mktemp("rooms"), seats=SEATS) as running:
        yield running


@pytest.fixture(scope="module")
def playwright() -> Iterator[Playwright]:
    with sync_playwright() as started:
        yield started


@pytest.fixture(scope="module")
def browser(playwright: Playwright, made: Rooms) -> Iterator[Browser]:
    with browsing(playwright, made) as started:
        yield started


@pytest.fixture
def desk(browser: Browser, made: Rooms) -> Iterator[Desk]:
    """Afterwards: nothing was asked of another origin, and the console is empty."""
    for login in ("alice", "olga"):
        made.sits(login, None)
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    found = desk_in(context, MAP)
    yield found
    context.close()
    assert [url for url in found.asked if not url.startswith((f"{MAP}/", f"{STRANGER}/"))] == []
    assert found.complaints == []


def test_who_logs_in_appears_without_a_reload_and_goes_again(desk: Desk, made: Rooms) -> None:
    desk.open("/")
    expect(desk.page.locator("#s7")).to_have_class("seat free")
    expect(desk.page.locator(".legend .free strong")).to_have_text(str(SEATS))
    made.sits("alice", 7)
    made.sits("olga", 8)
    expect(desk.page.locator("#s7")).to_have_class("seat user")
    expect(desk.page.locator("#s7 .line")).to_have_text("alice")
    expect(desk.page.locator("#s8 .line")).to_have_text("olga")
    expect(desk.page.locator(".legend .orga strong")).to_have_text("1")
    made.sits("alice", None)
    expect(desk.page.locator("#s7")).to_have_class("seat free")
    assert len([url for url in desk.asked if url == f"{MAP}/"]) == 1


def test_a_stranger_sees_that_a_seat_is_taken_and_not_by_whom(desk: Desk, made: Rooms) -> None:
    desk.page.goto(f"{STRANGER}/")
    made.sits("alice", 7)
    expect(desk.page.locator("#s7 .line")).to_have_text("taken")
    assert "alice" not in desk.page.content()
    desk.page.locator("#s7 a").click()
    expect(desk.page.get_by_role("heading", level=1)).to_have_text("pas-r01p07")
    assert "alice" not in desk.page.content()


def test_a_seat_keeps_the_focus_while_it_changes_and_opens_with_enter(desk: Desk, made: Rooms) -> None:
    desk.open("/")
    desk.page.locator("#s7 a").focus()
    made.sits("alice", 7)
    expect(desk.page.locator("#s7 .line")).to_have_text("alice")
    assert desk.page.evaluate("() => document.activeElement.closest('.seat').id") == "s7"
    desk.press("Enter")
    expect(desk.page.get_by_role("heading", level=1)).to_have_text("pas-r01p07")
    expect(desk.page.locator(".record")).to_contain_text("alice (user, since")


def test_a_new_seat_is_there_by_itself(desk: Desk, made: Rooms) -> None:
    desk.open("/")
    expect(desk.page.locator(".seat-row > .seat")).to_have_count(SEATS)
    made.feeds["mdb"].tell({"61": machines(61)["61"]})
    try:
        expect(desk.page.locator("#s61")).to_have_count(1)
    finally:
        made.feeds["mdb"].tell({"61": None})
    expect(desk.page.locator("#s61")).to_have_count(0)


def test_a_map_whose_service_is_half_dead_does_not_look_alive(desk: Desk, made: Rooms) -> None:
    """The page's own clock is put forward."""
    desk.page.clock.install()
    desk.open("/")
    expect(desk.page.locator("#s1")).to_be_visible()
    expect(desk.page.locator(".legend .free strong")).to_have_text(str(SEATS))
    with stopped(made.service):
        desk.page.wait_for_timeout(500)  # what it has sent before is read
        desk.page.clock.fast_forward(20_000)
        expect(desk.page.locator("[data-stale]")).to_be_hidden()
        desk.page.clock.fast_forward(6_000)
        expect(desk.page.locator("[data-stale]")).to_be_visible()
    expect(desk.page.locator("[data-stale]")).to_be_hidden(timeout=15_000)


def test_a_map_whose_events_never_begin_does_not_look_alive_either(desk: Desk) -> None:
    desk.page.clock.install()
    desk.page.route("**/events*", lambda _: None)  # neither answered nor refused
    desk.open("/")
    expect(desk.page.locator("#s1")).to_be_visible()
    desk.page.clock.fast_forward(26_000)
    expect(desk.page.locator("[data-stale]")).to_be_visible()
    desk.page.unroute_all(behavior="ignoreErrors")


@pytest.mark.parametrize("path", ["/", "/wall", "/seats/pas-r01p01"])
def test_it_fits_a_phone_and_everything_has_a_name(browser: Browser, path: str) -> None:
    context = browser.new_context(viewport={"width": 375, "height": 700})
    desk = desk_in(context, MAP)
    desk.open(path)
    assert desk.page.evaluate("() => document.documentElement.scrollWidth") <= 375
    assert_readable(desk)
    context.close()


def test_without_a_script_it_is_whole(browser: Browser, made: Rooms) -> None:
    made.sits("alice", 7)
    until(lambda: made.seat("pas-r01p07").people)
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(f"{MAP}/")
    assert page.locator(".seat-row > .seat").count() == SEATS
    assert page.locator("#s7 .line").text_content() == "alice"
    context.close()


SHOTS = {
    "map": ("/", 1440, 760, False),
    "map-dark": ("/", 1440, 760, True),
    "map-phone": ("/", 390, 844, False),
    "map-wall": ("/wall", 1920, 1080, True),
    "map-seat": ("/seats/pas-r02p05", 1120, 460, False),
}
"""By name: the page, width, height, and whether it is dark."""
FIRST = (
    *("ada", "alan", "barbara", "blaise", "carl", "claude", "donald", "edsger", "emmy", "ernst", "evariste", "felix"),
    *("grace", "haskell", "hedy", "henri", "ida", "john", "joseph", "kurt", "leonhard", "lise", "margaret", "marie"),
    *("max", "niels", "noether", "paul", "pierre", "radia", "richard", "rosalind", "sofia", "tim", "tony", "vera"),
)


@pytest.mark.full
def test_the_screenshots_of_the_documents(playwright: Playwright, tmp_path: Path) -> None:
    """Two rooms in a contest, with the troubles of a day."""
    folder = SCREENSHOTS if os.environ.get("BACKLINE_SCREENSHOTS") else tmp_path / "screenshots"
    folder.mkdir(exist_ok=True)
    seats = 92
    with rooms(tmp_path, seats=seats) as made:
        made.feeds["udb"].tell(
            {login: {"id": id, "login": login, "group": "user"} for id, login in enumerate(FIRST, 100)}
        )
        for number, login in enumerate(FIRST):
            made.sits(login, 1 + number * 2 - number // 12)
        made.sits("olga", 41)
        made.sits("rita", 66)
        broken = machines(seats)["23"]
        assert broken is not None
        made.feeds["mdb"].tell({"23": {**broken, "faulty": True, "faulty_reason": "no keyboard"}})
        made.troubles(json.dumps({"failed": {"17": ["lightdm.service"], "70": ["chrony.service"]}, "silent": [34, 81]}))
        until(lambda: (made.map().counts["unreachable"], made.map().counts["faulty"]) == (2, 1))
        until(lambda: made.seat("pas-r02p05").degraded)
        with browsing(playwright, made) as browser:
            for name, (path, width, height, dark) in SHOTS.items():
                context = browser.new_context(
                    viewport={"width": width, "height": height}, color_scheme="dark" if dark else "light"
                )
                desk = desk_in(context, MAP)
                desk.open(path)
                desk.page.mouse.move(0, 0)
                desk.page.evaluate(STILL)
                desk.page.screenshot(path=folder / f"{name}.png", animations="disabled", full_page=True)
                assert desk.page.evaluate("() => document.documentElement.scrollWidth") <= width
                context.close()
    assert {path.stem for path in folder.glob("*.png")} >= set(SHOTS)
