"""What the map costs with a thousand seats that beat and people who log in, and when a browser has painted it."""

from __future__ import annotations

import gzip
import statistics
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import httpx2
from playwright.sync_api import sync_playwright

from benchmarks import gateway
from benchmarks.figures import Figures
from services.presence.client import Presence
from services.presence.schema import Beat

USERMAP = """
mdb = "unix:{where}/mdb.sock"
udb = "unix:{where}/udb.sock"
presence = "unix:{where}/presence.sock"
netboot = "unix:{where}/netboot.sock"
folder = "{where}/usermap"
"""
SECONDS = 30.0
BEAT_SECONDS = 15.0
LOGINS_A_MINUTE = 50
PAINTS = 5
CHROMIUM = "/usr/bin/chromium"
PAINTED = """() => new Promise(done => new PerformanceObserver(list => {
  const found = list.getEntries().find(each => each.name === "first-contentful-paint");
  if (found) done(found.startTime);
}).observe({type: "paint", buffered: true}))"""


def rooms(
    figures: Figures,
    where: Path,
    seats: int,
    *,
    beat: Callable[[int, int], Beat],
    cpu: Callable[[subprocess.Popen[bytes]], float],
    memory: Callable[[subprocess.Popen[bytes]], float],
) -> None:
    """Measure. `beat` makes the heartbeat of a seat, with somebody there when its number is below the second one."""
    port = gateway.free_port()
    (where / "usermap").mkdir()
    with (
        gateway.serving("netboot", gateway.NETBOOT.format(folder=where), where),
        gateway.serving("usermap", USERMAP.format(where=where), where, also=f"127.0.0.1:{port}") as usermap,
    ):
        base = f"http://127.0.0.1:{port}"
        with Presence(f"unix:{where}/presence.sock") as presence:
            presence.heartbeats([beat(number, 0) for number in range(seats)])
            _wait(base, seats)
            page = httpx2.get(base + "/", timeout=30).content
            figures.add(f"map of {seats} seats, the page", len(page) / 1000, "kB")
            figures.add(f"map of {seats} seats, as nginx sends it", len(gzip.compress(page, 1)) / 1000, "kB")
            with sync_playwright() as playwright:
                browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
                times = []
                for _ in range(PAINTS):
                    window = browser.new_context().new_page()
                    window.goto(base + "/", wait_until="domcontentloaded")
                    times.append(float(window.evaluate(PAINTED)))
                    window.context.close()
                figures.add("map, first paint in Chromium on the same CPUs, median", statistics.median(times), "ms")
                window = browser.new_context().new_page()
                window.goto(base + "/", wait_until="domcontentloaded")
                _live(figures, usermap, presence, seats, beat=beat, cpu=cpu, memory=memory)
                taken = window.locator("svg.seat.user:not(.key)").count()
                if taken < SECONDS * LOGINS_A_MINUTE / 60 - 2:
                    raise SystemExit(f"the page was told of {taken} who logged in")
                browser.close()


def _live(
    figures: Figures,
    usermap: subprocess.Popen[bytes],
    presence: Presence,
    seats: int,
    *,
    beat: Callable[[int, int], Beat],
    cpu: Callable[[subprocess.Popen[bytes]], float],
    memory: Callable[[subprocess.Popen[bytes]], float],
) -> None:
    """Seats beat, one person after the other logs in, and one page is open."""
    began, at, number, passed = cpu(usermap), time.monotonic(), 0, 0
    while (now := time.monotonic()) - at < SECONDS:
        here = int((now - at) * LOGINS_A_MINUTE / 60)
        due = int((now - at + 1) * seats / BEAT_SECONDS)
        numbers = [(number + each) % seats for each in range(due - passed)] + [here]
        presence.heartbeats([beat(each, here + 1) for each in dict.fromkeys(numbers)])
        number, passed = (number + due - passed) % seats, due
        time.sleep(max(0.0, 1.0 - (time.monotonic() - now)))
    spent = (cpu(usermap) - began) / (time.monotonic() - at) * 100
    figures.add(f"map, {seats} seats beat, {LOGINS_A_MINUTE} log in a minute, of a core", spent, "%")
    figures.add("map, memory of the service", memory(usermap), "MB")


def _wait(base: str, seats: int) -> None:
    deadline = time.monotonic() + 60
    while httpx2.get(base + "/", timeout=30).text.count('class="seat ') < seats:
        if time.monotonic() > deadline:
            raise SystemExit("the map does not come to know the seats")
        threading.Event().wait(0.2)
