"""The firewall's pages in a browser: who turns the switch sees what follows, and finds why a seat does not get out.

`BACKLINE_SCREENSHOTS=1 pytest tests/firewall/test_browser.py` writes docs/screenshots/firewall.png again.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import expect

from services.common.users import UserGroup
from services.firewall.client import FirewallClient
from services.firewall.schema import Reason
from tests.common.browser_rig import SCREENSHOTS, STILL, Desk, assert_readable, desk_in, launched
from tests.common.service_rig import reachable
from tests.firewall.rig import Place, placed, sits, until
from tests.mdb.pages_rig import forwarded
from tests.mdb.pages_rig import htmx as htmx_of

pytestmark = pytest.mark.needs("root", "cgroup2", "namespaces", "chromium")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("firewall")
    reachable(folder)
    with placed(folder) as made:
        made.htmx = htmx_of(folder / "htmx")
        made.feeds["presence"].tell(sits("alice", 1) | sits("olga", 2))
        yield made


@pytest.fixture(scope="module")
def client(place: Place) -> Iterator[FirewallClient]:
    with place.serving() as client:
        until(lambda: client.status().problem is None and client.why("seat1").standing.reason is Reason.GROUP)
        yield client


@pytest.fixture(scope="module")
def desk(client: FirewallClient, place: Place) -> Iterator[Desk]:
    with launched() as browser, forwarded(Path(place.address.removeprefix("unix:"))) as origin:
        context = browser.new_context(viewport={"width": 1280, "height": 560})
        yield desk_in(context, origin)
        context.close()


def test_who_turns_the_switch_sees_what_follows(desk: Desk, client: FirewallClient, tmp_path: Path) -> None:
    desk.open("/")
    assert_readable(desk)
    row = desk.page.get_by_role("row", name="user")
    expect(row).to_contain_text("get out")
    desk.page.get_by_role("button", name="Keep user in").click()
    expect(row).to_contain_text("do not get out")
    expect(desk.page.locator(".timeline")).to_contain_text("kept user in")
    states = {each.group: each for each in client.groups().groups}
    assert (states[UserGroup.USER].allowed, states[UserGroup.USER].decided) == (False, True)
    until(lambda: client.why("seat1").standing.in_force)
    expect(desk.page.get_by_label("Machines now")).to_contain_text("somebody is there whose group may not")
    assert_readable(desk)
    desk.page.mouse.move(0, 0)
    desk.page.evaluate(STILL)
    folder = SCREENSHOTS if os.environ.get("BACKLINE_SCREENSHOTS") else tmp_path
    desk.page.screenshot(path=folder / "firewall.png", animations="disabled")
    desk.page.get_by_role("button", name="Leave user to hall.toml").click()
    expect(row).to_contain_text("hall.toml")
    desk.page.get_by_role("button", name="Keep user in").click()
    desk.page.get_by_role("button", name="Let user out").click()
    until(lambda: client.why("seat1").standing.allowed)
    assert desk.complaints == []


def test_a_seat_is_found_by_who_sits_there_and_says_why(desk: Desk, client: FirewallClient, tmp_path: Path) -> None:
    client.decide(UserGroup.USER, allowed=False)
    until(lambda: client.why("seat1").standing.in_force and not client.why("seat1").standing.allowed)
    desk.open("/machines")
    assert desk.page.locator("tbody tr").count() == 4
    desk.page.get_by_label("Search", exact=True).fill("alice")
    desk.page.get_by_role("button", name="Search").click()
    expect(desk.page.locator("tbody tr")).to_have_count(1)
    assert_readable(desk)
    desk.page.set_viewport_size({"width": 390, "height": 700})
    assert desk.page.evaluate("document.documentElement.scrollWidth") == 390
    desk.page.screenshot(path=tmp_path / "phone.png")
    desk.page.get_by_role("link", name="seat1").click()
    expect(desk.page.get_by_label("Why")).to_contain_text("alice is in group user, which may not")
    assert_readable(desk)
    desk.open("/machines?out=yes")
    assert desk.page.locator("tbody th").all_inner_texts() == ["orga1", "rhfs", "seat2"]
    assert desk.complaints == []


def test_what_is_asked_for_wrongly_is_answered_by_a_page(desk: Desk) -> None:
    for path, words in (("/machines/nobody", "nobody"), ("/machines?out=perhaps", "out")):
        desk.open(path)
        expect(desk.page.locator("main")).to_contain_text(words)
        assert_readable(desk)
    refused = desk.page.request.post(f"{desk.origin}/groups/user", form={"say": "perhaps"})
    assert (refused.status, "'perhaps' is nothing to say about a group" in refused.text()) == (400, True)
    foreign = desk.page.request.post(
        f"{desk.origin}/groups/user", form={"say": "allow"}, headers={"origin": "https://elsewhere.example"}
    )
    assert foreign.status in (401, 403)
