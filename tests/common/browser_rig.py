"""A real browser in front of pages of ours, and what it asked for and complained of."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from playwright.sync_api import Browser, BrowserContext, Page, Playwright, sync_playwright

CHROMIUM = "/usr/bin/chromium"
ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
SCREENSHOTS = Path(__file__).parents[2] / "docs/screenshots"
# No focus, and two frames for what changes when the pointer leaves.
STILL = """() => {
  document.activeElement.blur();
  return new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(done, 300))));
}"""


@dataclass
class Desk:
    """A browser in front of the hall, as root, with everything that it asked for and complained of."""

    page: Page
    origin: str
    asked: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    def open(self, path: str) -> None:
        self.page.goto(self.origin + path)

    def hosts(self) -> list[str]:
        """Names in mdb's list of machines."""
        return self.page.locator(".machines tbody th a").all_inner_texts()

    def all(self, selector: str, attribute: str) -> list[str]:
        """An attribute of every element that matches."""
        return list(self.page.eval_on_selector_all(selector, f"them => them.map(it => it.{attribute})"))

    def press(self, *keys: str) -> None:
        for key in keys:
            self.page.keyboard.press(key)

    @property
    def focused(self) -> str:
        """What has the focus, as people would call it."""
        found = self.page.evaluate(
            "() => { const it = document.activeElement;"
            " return it.ariaLabel || it.labels?.[0]?.innerText || it.innerText || it.id || it.tagName }"
        )
        return " ".join(str(found).split())


@contextlib.contextmanager
def launched(*arguments: str) -> Iterator[Browser]:
    """Chromium without a window."""
    with sync_playwright() as playwright, opened(playwright, *arguments) as started:
        yield started


@contextlib.contextmanager
def opened(playwright: Playwright, *arguments: str) -> Iterator[Browser]:
    """Chromium once more: there is one playwright at a time."""
    started = playwright.chromium.launch(executable_path=CHROMIUM, args=[*ARGUMENTS, *arguments])
    yield started
    started.close()


def assert_readable(desk: Desk) -> None:
    """Whatever one can use on the page has a name, headings are in order, and an id is given once."""
    nameless = desk.page.evaluate(
        "() => [...document.querySelectorAll('input:not([type=hidden]), select, textarea, button, a')]"
        ".filter(it => !(it.ariaLabel || it.title || it.labels?.length || it.innerText?.trim()))"
        ".filter(it => !it.closest('.brand'))"
        ".map(it => it.outerHTML)"
    )
    assert nameless == []
    levels = [int(tag[1]) for tag in desk.all("h1, h2, h3", "tagName")]
    assert levels[0] == 1
    assert levels.count(1) == 1
    ids = desk.all("[id]", "id")
    assert len(ids) == len(set(ids))


def desk_in(context: BrowserContext, origin: str) -> Desk:
    desk = Desk(context.new_page(), origin)
    desk.page.set_default_timeout(20_000)
    desk.page.on("request", lambda request: desk.asked.append(request.url))
    desk.page.on("console", lambda message: desk.complaints.append(f"{message.type}: {message.text}"))
    desk.page.on("pageerror", lambda error: desk.complaints.append(str(error)))
    return desk
