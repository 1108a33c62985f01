"""The hall at a glance in a browser: a thousand seats, keyboard, half-dead services, a rollout that moves live.

`BACKLINE_SCREENSHOTS=1 pytest tests/overview/test_browser.py -k screenshots` writes those of docs/screenshots again.
"""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Playwright, expect, sync_playwright

from services.rollout.client import RolloutClient
from services.rollout.schema import Phase, Plan, Rollout, Standing
from tests.common.browser_rig import SCREENSHOTS, STILL, Desk, assert_readable, desk_in, opened
from tests.mdb.pages_rig import forwarded, htmx
from tests.netboot.rig import ONE, TWO
from tests.overview.rig import Whole, stopped, whole
from tests.rollout.rig import until

pytestmark = pytest.mark.needs("chromium")

HALL, ROLLOUT = "http://overview.prolo", "http://rollout.prolo"
SEATS = 60
UNIT = "lightdm.service"


@contextmanager
def browsing(playwright: Playwright, made: Whole) -> Iterator[Browser]:
    """A browser that finds the services by their names, as root."""
    with ExitStack() as stack:
        rules = []
        for service, origin in ((made.overview, HALL), (made.rollout, ROLLOUT)):
            address = stack.enter_context(forwarded(service.socket)).removeprefix("http://")
            rules.append(f"MAP {origin.removeprefix('http://')}:80 {address}")
        # As over HTTPS: else the browser complains of headers that it takes from secure places only.
        secure = f"--unsafely-treat-insecure-origin-as-secure={HALL},{ROLLOUT}"
        yield stack.enter_context(opened(playwright, f"--host-resolver-rules={','.join(rules)}", secure))


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return htmx(tmp_path_factory.mktemp("htmx"))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, script: Path) -> Iterator[Whole]:
    folder = tmp_path_factory.mktemp("hall")
    with whole(folder, seats=SEATS, htmx=script, bad={TWO: UNIT}, hosts=("gw", "web")) as running:
        yield running


@pytest.fixture(scope="module")
def playwright() -> Iterator[Playwright]:
    with sync_playwright() as started:
        yield started


@pytest.fixture(scope="module")
def browser(playwright: Playwright, made: Whole) -> Iterator[Browser]:
    with browsing(playwright, made) as started:
        yield started


@pytest.fixture
def desk(browser: Browser) -> Iterator[Desk]:
    """Afterwards: nothing was asked of another origin, and the console is empty."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    found = desk_in(context, HALL)
    yield found
    context.close()
    assert [url for url in found.asked if not url.startswith((f"{HALL}/", f"{ROLLOUT}/"))] == []
    assert found.complaints == []


def test_a_unit_that_fails_is_seen_without_a_reload(desk: Desk, made: Whole) -> None:
    desk.open("/")
    expect(desk.page.locator("#figure-up strong")).to_have_text(str(SEATS))
    expect(desk.page.locator("#host-gw ~ .host-state")).to_have_text("up")
    made.seats.seats[6].failed = (UNIT,)
    expect(desk.page.locator("#figure-degraded strong")).to_have_text("1")
    expect(desk.page.locator("#s7")).to_have_class("mark warn")
    expect(desk.page.locator(".faults")).to_contain_text(f"Degraded: pas-r01p07 ({UNIT})")
    made.seats.seats[6].failed = ()
    expect(desk.page.locator("#figure-up strong")).to_have_text(str(SEATS))
    assert len([url for url in desk.asked if url == f"{HALL}/"]) == 1


def test_seats_are_one_stop_of_the_keyboard_and_arrows_move(desk: Desk, made: Whole) -> None:
    desk.open("/")
    desk.page.locator("#room-pasteur").focus()
    desk.press("Tab")
    active = "() => document.activeElement.id"
    assert desk.page.evaluate(active) == "s1"
    desk.press("ArrowRight", "ArrowRight", "ArrowDown")
    assert desk.page.evaluate(active) == "s43"
    expect(desk.page.locator(".readout").first).to_contain_text("pas-r02p03: up")
    made.seats.seats[50].failed = (UNIT,)
    expect(desk.page.locator("#figure-degraded strong")).to_have_text("1")  # the part was exchanged
    assert desk.page.evaluate(active) == "s43"
    made.seats.seats[50].failed = ()
    desk.press("End", "ArrowUp", "Home", "Tab")
    assert desk.page.evaluate(active) == "v-pasteur-1"
    desk.press("Shift+Tab")
    assert desk.page.evaluate(active) == "s1"
    desk.press("Enter")
    expect(desk.page.get_by_role("heading", level=1)).to_have_text("pas-r01p01")
    expect(desk.page.locator("#seat")).to_contain_text("s ago")


def test_a_page_whose_service_is_half_dead_does_not_look_alive(desk: Desk, made: Whole) -> None:
    desk.open("/")
    expect(desk.page.locator("[data-stale]")).to_be_hidden()
    with stopped(made.overview):
        expect(desk.page.locator("[data-stale]")).to_be_visible(timeout=15_000)
        assert "is-old" in str(desk.page.evaluate("() => document.body.className"))
        assert float(desk.page.evaluate("() => getComputedStyle(document.querySelector('#hall')).opacity")) < 0.9
    expect(desk.page.locator("[data-stale]")).to_be_hidden(timeout=15_000)
    desk.complaints.clear()  # the request that was cut


def test_a_host_that_is_half_dead_turns_unknown_before_ones_eyes(desk: Desk, made: Whole) -> None:
    desk.open("/hosts/web")
    expect(desk.page.locator("tbody tr").first).to_contain_text("nginx.service")
    expect(desk.page.locator("tbody tr").first).to_contain_text("backline host journal nginx.service --host web")
    with stopped(made.hosts["web"]):
        expect(desk.page.locator(".head .standing")).to_have_text("unknown")
        expect(desk.page.locator(".notice.bad").last).to_contain_text("no answer within 1 s")
        desk.open("/")
        expect(desk.page.locator("#host-web ~ .host-state")).to_have_text("unknown")
        expect(desk.page.locator(".faults")).to_contain_text("web is silent: no answer within 1 s")
    expect(desk.page.locator("#host-web ~ .host-state")).to_have_text("degraded")


def test_a_bad_version_is_stopped_before_ones_eyes(desk: Desk, made: Whole) -> None:
    desk.open("/")
    desk.page.get_by_role("link", name="Rollouts", exact=True).click()
    expect(desk.page).to_have_url(f"{ROLLOUT}/")
    expect(desk.page.locator("#rollouts")).to_contain_text("There has been no rollout yet")
    with RolloutClient(made.rollout.unix) as client:
        id = client.start(Plan(version=TWO, why="new compilers", within=120, settle=2)).id
    desk.page.locator(f"#open-{id}, #r{id}").first.click()  # it was not there when the page was opened
    expect(desk.page.locator(".head .tag")).to_have_text("reverted", timeout=60_000)
    expect(desk.page.locator(".notice[role=status]")).to_have_text(f"ring 1 (seat): pas-r01p01: {UNIT} failed")
    expect(desk.page.locator(".ring").first).to_contain_text("bad")
    expect(desk.page.locator(".plain-list")).to_contain_text(f"pas-r01p01: {UNIT} failed")
    assert len([url for url in desk.asked if url == f"{ROLLOUT}/rollouts/{id}"]) == 1
    desk.page.get_by_role("link", name="Hall", exact=True).click()
    expect(desk.page.locator(".rollout-card")).to_contain_text("reverted")
    expect(desk.page.locator(".glance-side .plain-list")).to_contain_text(TWO)  # in quarantine


def test_a_root_pauses_resumes_and_aborts_it(desk: Desk, made: Whole) -> None:
    with RolloutClient(made.rollout.unix) as client:
        until(lambda: all(each.version == ONE for each in made.seats.seats))
        id = client.start(Plan(version=TWO, lift_quarantine=True, within=600, settle=600, first="pas-r02p01")).id
    desk.page.goto(f"{ROLLOUT}/rollouts/{id}")
    desk.page.get_by_role("button", name="Pause").click()
    expect(desk.page.locator(".notice.warn")).to_have_text("Paused: root paused it")
    desk.page.get_by_role("button", name="Resume").click()
    expect(desk.page.locator(".head .tag")).not_to_have_text("paused")
    if desk.page.get_by_role("button", name="Abort").is_visible():
        desk.page.get_by_role("button", name="Abort").click()
    expect(desk.page.locator(".head .tag")).to_have_text(re.compile("aborted|reverted"), timeout=60_000)
    expect(desk.page.get_by_role("button", name="Abort")).to_have_count(0)


@pytest.mark.parametrize("path", ["/", "/hosts/web", "/seats", "/seats/pas-r01p01"])
def test_it_fits_a_phone_and_everything_has_a_name(browser: Browser, path: str) -> None:
    context = browser.new_context(viewport={"width": 375, "height": 700})
    desk = desk_in(context, HALL)
    desk.open(path)
    assert desk.page.evaluate("() => document.documentElement.scrollWidth") <= 375
    assert_readable(desk)
    context.close()


@pytest.fixture
def crowd(tmp_path: Path, script: Path) -> Iterator[Whole]:
    """A thousand seats, and the troubles of a day."""
    with whole(tmp_path, seats=1000, htmx=script, crowd=True) as running:
        failed = {number: [UNIT if number % 2 else "chrony.service"] for number in range(13, 1000, 167)}
        running.troubles(failed=failed, silent=list(range(30, 1000, 143)))
        until(lambda: (running.hall().seats["unknown"], running.hall().seats["degraded"]) == (7, 6), seconds=60)
        yield running


def good(rollout: Rollout) -> int:
    """Seats of the room's ring that are good."""
    return sum(seat.standing is Standing.GOOD for seat in rollout.rings[2].seats)


@pytest.mark.full
def test_the_screenshots_of_the_documents(playwright: Playwright, crowd: Whole, tmp_path: Path) -> None:
    """A thousand seats on a wall and on a phone, while a version goes from ring to ring."""
    folder = SCREENSHOTS if os.environ.get("BACKLINE_SCREENSHOTS") else tmp_path / "screenshots"
    folder.mkdir(exist_ok=True)
    with RolloutClient(crowd.rollout.unix) as client:
        bad = client.start(Plan(version=TWO, why="new compilers", within=600, settle=2, first="pas-r05p20")).id
        until(lambda: client.rollout(bad).phase is Phase.REVERTED, seconds=90)
        plan = Plan(version=TWO, why="it was the network", within=600, settle=3, need=90, lift_quarantine=True)
        id = client.start(plan).id
        until(lambda: client.rollout(id).ring == 2 and 60 < good(client.rollout(id)) < 250, seconds=120)
        client.pause(id, "the contest begins")
        os.kill(crowd.hosts["monitoring"].process.pid, signal.SIGKILL)
        until(lambda: crowd.state("monitoring") == "unknown")
        with browsing(playwright, crowd) as browser:
            for name, (address, width, height, dark) in SHOTS.items():
                context = browser.new_context(
                    viewport={"width": width, "height": height}, color_scheme="dark" if dark else "light"
                )
                desk = desk_in(context, HALL)
                desk.page.goto(address.format(bad=bad))
                desk.page.mouse.move(0, 0)
                desk.page.evaluate(STILL)
                desk.page.screenshot(path=folder / f"{name}.png", animations="disabled", full_page=True)
                assert desk.page.evaluate("() => document.documentElement.scrollWidth") <= width
                context.close()
    assert {path.stem for path in folder.glob("*.png")} >= set(SHOTS)


@pytest.mark.full
def test_a_thousand_seats_are_there_in_a_moment(playwright: Playwright, crowd: Whole) -> None:
    with browsing(playwright, crowd) as browser:
        desk = desk_in(browser.new_context(viewport={"width": 1920, "height": 1080}), HALL)
        began = time.monotonic()
        desk.open("/")
        assert desk.page.locator(".seats a.mark").count() == 1000
        assert time.monotonic() - began < 10
        expect(desk.page.locator("#figure-up strong")).to_have_text("987")
        assert desk.page.locator(".room").count() == 3
        assert desk.page.evaluate("() => document.documentElement.scrollWidth") <= 1920
        assert desk.complaints == []


SHOTS = {
    "overview-hall": (f"{HALL}/", 1920, 1080, False),
    "overview-hall-dark": (f"{HALL}/", 1920, 1080, True),
    "overview-hall-phone": (f"{HALL}/", 390, 844, False),
    "overview-host": (f"{HALL}/hosts/web", 1120, 700, False),
    "overview-seat": (f"{HALL}/seats/pas-r01p13", 1120, 600, False),
    "rollout-reverted": (f"{ROLLOUT}/rollouts/{{bad}}", 1120, 600, False),
    "rollouts": (f"{ROLLOUT}/", 1120, 500, False),
}
"""By name: the page, width, height, and whether it is dark."""
