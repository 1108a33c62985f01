"""mdb's pages in a real browser, before a hall of a thousand seats: htmx, keyboard, and nothing beyond the origin.

`BACKLINE_SCREENSHOTS=1 pytest tests/mdb/test_browser.py -k screenshots` writes those of docs/screenshots again.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from services.mdb.client import Mdb
from services.mdb.schema import Edits, MachinePatch, Removal
from tests.common.browser_rig import SCREENSHOTS, STILL, Desk, assert_readable, desk_in, launched
from tests.common.service_rig import Service
from tests.mdb.pages_rig import BEGIN, forwarded, hall, neighbours

pytestmark = pytest.mark.needs("chromium")

FOUND = 1027  # seats, organizers' machines and servers of the hall


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with hall(tmp_path_factory.mktemp("hall")) as running:
        yield running


@pytest.fixture(scope="module")
def origin(service: Service) -> Iterator[str]:
    with forwarded(service.socket) as address:
        yield address


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with launched() as started:
        yield started


@pytest.fixture
def desk(browser: Browser, origin: str) -> Iterator[Desk]:
    """Afterwards: nothing was asked of another origin, and the console is empty."""
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    made = desk_in(context, origin)
    yield made
    context.close()
    assert [url for url in made.asked if not url.startswith(f"{origin}/")] == []
    assert made.complaints == []


@pytest.fixture
def client(service: Service) -> Iterator[Mdb]:
    with Mdb(service.unix) as opened:
        yield opened


def test_a_thousand_machines_are_there_in_a_moment(desk: Desk) -> None:
    began = time.monotonic()
    desk.open("/machines?size=1000")
    assert len(desk.hosts()) == 1000
    assert time.monotonic() - began < 10  # 0.7 s on an idle machine
    expect(desk.page.locator("#count")).to_have_text("1,027")


def test_typing_searches_and_the_address_can_be_shared(desk: Desk) -> None:
    desk.open("/machines")
    desk.page.locator("#q").press_sequentially("pas-r03", delay=20)
    expect(desk.page.locator("#count")).to_have_text("40 of 1,027")
    assert desk.hosts()[0] == "pas-r03p01"
    assert desk.page.locator("#q").evaluate("it => it === document.activeElement")
    desk.page.locator("#pick-rfs").select_option("2")
    expect(desk.page.locator("#count")).to_have_text("20 of 1,027")
    expect(desk.page).to_have_url(re.compile(r"/machines\?q=pas-r03&rfs=2$"))
    desk.page.reload()
    expect(desk.page.locator("#count")).to_have_text("20 of 1,027")
    desk.page.locator("#q").fill("hostnam:x")
    expect(desk.page.locator("#found [role=alert]")).to_contain_text("did you mean hostname", ignore_case=True)
    expect(desk.page.locator("#pick-rfs")).to_have_value("2")


def test_a_click_on_a_head_sorts_and_back_leads_back(desk: Desk) -> None:
    desk.open("/machines?room=alt")
    first = desk.hosts()
    desk.page.get_by_role("link", name="Address", exact=True).click()
    expect(desk.page.locator("th[aria-sort=ascending]")).to_have_text("Address")
    desk.page.get_by_role("link", name="Address", exact=True).click()
    expect(desk.page.locator("th[aria-sort=descending]")).to_have_text("Address")
    assert desk.hosts() == sorted(desk.hosts(), reverse=True)
    assert desk.focused == "Address"
    desk.page.get_by_role("link", name="Next", exact=True).click()
    expect(desk.page.locator(".pager")).to_contain_text("101 to 200 of 320")
    desk.page.locator("#q").fill("p01")
    expect(desk.page.locator("th[aria-sort=descending]")).to_have_text("Address")
    desk.page.go_back()
    expect(desk.page.locator(".pager")).to_contain_text("1 to 100 of 320")
    desk.page.go_back()
    expect(desk.page.locator("th[aria-sort=ascending]")).to_have_text("Address")
    desk.page.go_back()
    expect(desk.page.locator("th[aria-sort=ascending]")).to_have_text("Host name")
    assert desk.hosts() == first


def test_many_machines_are_changed_after_a_look_at_what_would_change(desk: Desk, client: Mdb) -> None:
    desk.open("/machines?q=mas-r02")
    boxes = desk.page.locator("td.tick input")
    picked = desk.page.locator("[data-picked]")
    expect(picked).to_be_disabled()
    boxes.nth(3).click()
    boxes.nth(9).click(modifiers=["Shift"])
    expect(picked).to_have_text("Change 7 ticked")
    desk.page.get_by_label("All on this page").check()
    expect(picked).to_have_text("Change 40 ticked")
    desk.page.get_by_label("All on this page").uncheck()
    boxes.nth(0).check()
    boxes.nth(1).check()
    picked.click()
    expect(desk.page.get_by_role("heading", level=1)).to_have_text("Change 2 machines")
    desk.page.get_by_label("Room", exact=True).fill("annex")
    desk.page.get_by_label("State").select_option("faulty: boots nothing")
    desk.page.get_by_label("What is wrong").fill("no power")
    desk.page.get_by_role("button", name="Preview").click()
    expect(desk.page.locator(".groups")).to_contain_text("annex")
    assert client.machines("room:annex").total == 0
    desk.page.get_by_role("button", name="Change all 2").click()
    expect(desk.page.locator(".notice.good")).to_have_text("Done: 2 machines changed.")
    assert [one.hostname for one in client.machines("room:annex faulty:yes").machines] == ["mas-r02p01", "mas-r02p02"]


def test_all_machines_are_one_preview_and_one_edit(desk: Desk, client: Mdb) -> None:
    """A thousand machines to another channel and back."""
    for channel, before in (("exam", "stable"), ("stable", "exam")):
        desk.open(f"/machines?type=user&channel={before}")
        desk.page.get_by_role("button", name=re.compile("Change all .* found")).click()
        desk.page.get_by_label("Channel").fill(channel)
        desk.page.get_by_role("button", name="Preview").click()
        expect(desk.page.locator(".groups tbody tr")).to_have_count(1)
        expect(desk.page.locator(".each tbody tr")).to_have_count(500)
        desk.page.get_by_role("button", name=re.compile("Change all")).click()
        expect(desk.page.locator(".notice.good")).to_have_text(re.compile(r"Done: \d+ machines changed."))
        assert client.machines(f"type:user channel:{before}").total == 0


def test_an_edit_in_place_meets_somebody_elses(desk: Desk, client: Mdb) -> None:
    machine = client.machine("alt-r05p05")
    desk.open("/machines/alt-r05p05")
    desk.page.get_by_role("link", name="Edit").click()
    expect(desk.page.locator("#record form")).to_be_visible()
    client.change(machine.id, MachinePatch(room="theirs", hfs=7))
    desk.page.get_by_label("Room", exact=True).fill("mine")
    desk.page.get_by_label("Notes").fill("seen by me")
    desk.page.get_by_role("button", name="Save").click()
    conflict = desk.page.locator("#record [role=alert]")
    expect(conflict).to_contain_text("Changed meanwhile by root (local)")
    expect(desk.page.get_by_label("Home server (hfs)")).to_have_value("7")
    desk.page.get_by_label("theirs", exact=True).check()
    desk.page.get_by_role("button", name="Save").click()
    expect(desk.page.locator("#record .notice.good")).to_contain_text("Saved.")
    after = client.machine(machine.id)
    assert (after.room, after.hfs, after.notes) == ("theirs", 7, "seen by me")
    expect(desk.page.locator("#history li").first).to_contain_text("seen by me")
    # The browser says in its console that the first answer was a 409; nothing else is there.
    assert [one for one in desk.complaints if "409" not in one] == []
    desk.complaints.clear()


def test_an_import_is_looked_at_before_it_is_done(desk: Desk, client: Mdb, tmp_path: Path) -> None:
    file = tmp_path / "row.csv"
    old = "".join(f"mas-r04p{seat:02},,,masters,2\r\n" for seat in range(1, 11))
    new = "".join(f"mas-r06p{seat:02},02:00:00:00:06:{seat:02x},user,masters,2\r\n" for seat in range(1, 6))
    file.write_text(f"hostname,mac,type,room,hfs\r\n{old}{new}", newline="")
    desk.open("/import")
    desk.page.get_by_label("File").set_input_files(file)
    desk.page.get_by_role("button", name="Preview").click()
    expect(desk.page.get_by_role("heading", level=1)).to_have_text("Import 10 changes?")
    expect(desk.page.locator(".tally")).to_contain_text(re.compile(r"new\s*5\s*changed\s*5\s*as they are\s*5"))
    assert client.machines("mas-r06").total == 0
    desk.page.get_by_role("button", name="Import").click()
    expect(desk.page.locator(".notice.good")).to_have_text("Done: 10 machines changed.")
    assert client.machines("mas-r06 hfs:2").total == 5
    assert client.machines("hostname:mas-r04p0?,mas-r04p10 hfs:2").total == 10
    client.edit(Edits(delete=[Removal(id=one.id) for one in client.machines("mas-r06").machines]))


def test_everything_can_be_done_by_keyboard(desk: Desk, client: Mdb) -> None:
    desk.open("/machines")
    desk.press("Tab")
    assert desk.focused == "Skip to the content"
    desk.press("Enter", "/")
    assert desk.focused == "Search"
    desk.page.keyboard.type("orga-05")
    expect(desk.page.locator("#count")).to_have_text("1 of 1,027")
    for _ in range(40):
        desk.press("Tab")
        if desk.focused == "orga-05":
            break
    desk.press("Space")  # the tick of the row
    expect(desk.page.locator("[data-picked]")).to_have_text("Change 1 ticked")
    desk.press("Tab")
    assert desk.focused == "orga-05"
    desk.press("Enter")
    expect(desk.page.get_by_role("heading", level=1)).to_have_text("orga-05")
    for _ in range(20):
        desk.press("Tab")
        if desk.focused == "Edit":
            break
    assert desk.page.evaluate("() => getComputedStyle(document.activeElement).outlineStyle") == "solid"
    desk.press("Enter")
    expect(desk.page.locator("#record form")).to_be_visible()
    for _ in range(40):
        desk.press("Tab")
        if desk.focused == "Room":
            break
    desk.page.keyboard.type("by-hand")
    desk.press("Enter")
    expect(desk.page.locator("#record .notice.good")).to_contain_text("Saved.")
    assert client.machine("orga-05").room == "by-hand"


def test_without_a_script_it_works_as_well(browser: Browser, origin: str, client: Mdb) -> None:
    context = browser.new_context(java_script_enabled=False)
    desk = desk_in(context, origin)
    desk.open("/machines")
    desk.page.locator("#q").fill("orga-09")
    desk.page.get_by_role("button", name="Search").click()
    assert desk.hosts() == ["orga-09"]
    desk.page.get_by_role("link", name="orga-09").click()
    desk.page.get_by_role("link", name="Edit").click()
    desk.page.get_by_label("Room", exact=True).fill("plain")
    desk.page.get_by_role("button", name="Save").click()
    expect(desk.page.locator("#record .notice.good")).to_contain_text("Saved.")
    assert client.machine("orga-09").room == "plain"
    context.close()


@pytest.mark.parametrize(
    "path", ["/machines", "/machines/pas-r01p14", "/switches", "/pools", "/settings", "/import", "/history"]
)
def test_a_phone_needs_no_scrolling_to_the_side(browser: Browser, origin: str, path: str) -> None:
    context = browser.new_context(viewport={"width": 375, "height": 700})
    desk = desk_in(context, origin)
    desk.open(path)
    assert desk.page.evaluate("() => document.documentElement.scrollWidth") <= 375
    context.close()


@pytest.mark.parametrize(
    "path", ["/machines", "/machines/new", "/machines/pas-r01p14", "/switches", "/settings", "/import"]
)
def test_every_field_has_a_name_and_headings_are_in_order(desk: Desk, path: str) -> None:
    desk.open(path)
    assert_readable(desk)


@pytest.mark.full
def test_the_screenshots_of_the_documents(browser: Browser, tmp_path: Path) -> None:
    """The same for the same code, fonts and browser: a hall of its own, at a time that stands still."""
    folder = SCREENSHOTS if os.environ.get("BACKLINE_SCREENSHOTS") else tmp_path / "screenshots"
    folder.mkdir(exist_ok=True)
    with hall(tmp_path) as service, forwarded(service.socket) as origin, neighbours(tmp_path):
        for name, (width, height, dark) in LOOKS.items():
            context = browser.new_context(
                viewport={"width": width, "height": height}, color_scheme="dark" if dark else "light"
            )
            desk = desk_in(context, origin)
            for shown, prepare in SCENES.items():
                if name == "" or shown in ("machines", "machine"):
                    prepare(desk)
                    desk.page.mouse.move(0, 0)
                    desk.page.evaluate(STILL)
                    desk.page.screenshot(path=folder / f"mdb-{shown}{name}.png", animations="disabled")
            context.close()
    assert len(list(folder.glob("mdb-*.png"))) == len(SCENES) + 2 * (len(LOOKS) - 1)


LOOKS = {"": (1120, 700, False), "-dark": (1120, 700, True), "-phone": (390, 780, False)}


def _list(desk: Desk) -> None:
    desk.open("/machines?room=pasteur&sort=boots")
    for number in (1, 2, 4):
        desk.page.locator("td.tick input").nth(number).check()


def _machine(desk: Desk) -> None:
    desk.open("/machines/pas-r01p14")
    expect(desk.page.locator(".facts")).to_contain_text("last boot")


def _preview(desk: Desk) -> None:
    _list(desk)
    desk.page.locator("[data-picked]").click()
    desk.page.get_by_label("Room", exact=True).fill("annex")
    desk.page.get_by_label("Root server (rfs)").fill("2")
    desk.page.get_by_role("button", name="Preview").click()
    expect(desk.page.locator(".groups")).to_be_visible()


def _conflict(desk: Desk) -> None:
    """A form that was opened before bob moved this row to another channel."""
    desk.open("/machines/alt-r03p05")
    desk.page.goto(f"{desk.page.url}/edit")
    was = desk.page.locator("[name=was]").input_value().replace('"channel":"next"', '"channel":"stable"')
    for name, value in (("was", was), ("match", "1"), ("seen", str(BEGIN + 1000.0))):
        desk.page.locator(f"[name={name}]").evaluate("(it, value) => { it.value = value }", value)
    desk.page.get_by_label("Channel").fill("exam")
    desk.page.get_by_label("Room", exact=True).fill("annex")
    desk.page.get_by_role("button", name="Save").click()
    expect(desk.page.locator(".contested")).to_be_visible()


def _import(desk: Desk) -> None:
    desk.open("/import")
    rows = [f"mas-r06p{seat:02},3c:52:82:1b:00:{seat:02x},user,masters,1,2" for seat in range(1, 9)]
    rows += [f"pas-r01p{seat:02},,,annex,2,2" for seat in range(1, 5)]
    desk.page.get_by_label("Or paste it here").fill("\n".join(["hostname,mac,type,room,rfs,hfs", *rows]))
    desk.page.get_by_role("button", name="Preview").click()
    expect(desk.page.locator(".tally")).to_be_visible()


SCENES = {
    "machines": _list,
    "machine": _machine,
    "preview": _preview,
    "conflict": _conflict,
    "pools": lambda desk: desk.open("/pools"),
    "import": _import,
}
