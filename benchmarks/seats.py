"""Simulated seats: they boot, beat every 15 s as netboot tells them, and restart when they are asked to.

    python -m benchmarks.seats COUNT BOOT_SECONDS

Each asks from an address of its own over HTTP, as a seat does: its script, the boot's credentials, a report, and then
heartbeats. A line is printed when all have beaten once. Runs until it is killed.
"""

from __future__ import annotations

import http.client
import json
import random
import re
import sys
import threading
import time
from collections.abc import Sequence

GW = "192.168.1.254"
_WORDS = re.compile(r"\bbackline\.(boot|version)=(\S+)")


def hostname(number: int) -> str:
    """The name of a seat; 0 is the first one."""
    return f"pas-r{number // 10 + 1:02}p{number % 10 + 1:02}"


def mac(number: int) -> str:
    """Its MAC address."""
    return f"52:54:00:20:00:{number:02x}"


def address(number: int) -> str:
    """Its address."""
    return f"192.168.0.{number + 1}"


class Seat(threading.Thread):
    """One of them."""

    def __init__(self, number: int, boot_seconds: float) -> None:
        super().__init__(daemon=True)
        self.number = number
        self.boot_seconds = boot_seconds
        self.well = threading.Event()
        self.boot = self.token = self.version = ""

    def run(self) -> None:
        time.sleep(random.uniform(0, 5))
        self._start()
        while True:
            what = {"version": self.version, "health": {"state": "running", "failed_units": []}, "user": None}
            orders = json.loads(self._ask("PUT", "heartbeat", what))
            self.well.set()
            if orders["reboot"]:
                time.sleep(self.boot_seconds)
                self._start()
                continue
            time.sleep(orders["seconds"])

    def _start(self) -> None:
        words = dict(_WORDS.findall(self._request("GET", f"/boot/{mac(self.number)}")))
        self.boot, self.version, self.token = words["boot"], words["version"], ""
        given = json.loads(self._ask("POST", "credentials", None))["credentials"]
        self.token = given["backline.boot-token"]
        self._ask("PUT", "report", {"stage": "system", "detail": "running"})

    def _ask(self, method: str, what: str, body: object) -> str:
        return self._request(method, f"/v1/boots/{self.boot}/{what}", body)

    def _request(self, method: str, path: str, body: object = None) -> str:
        link = http.client.HTTPConnection(GW, timeout=30, source_address=(address(self.number), 0))
        headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        content = None if body is None else json.dumps(body).encode()
        headers |= {"Content-Type": "application/json"} if content else {}
        try:
            link.request(method, path, content, headers)
            answer = link.getresponse()
            text = answer.read().decode()
        finally:
            link.close()
        if answer.status >= 300:
            raise RuntimeError(f"seat {self.number}: {method} {path}: {answer.status} {text}")
        return text


def main(argv: Sequence[str]) -> int:
    """Start them, and let them be."""
    count, boot_seconds = int(argv[0]), float(argv[1])
    seats = [Seat(number, boot_seconds) for number in range(count)]
    for seat in seats:
        seat.start()
    for seat in seats:
        if not seat.well.wait(120):
            raise SystemExit(f"seat {seat.number} has not come up")
    print(f"{count} seats beat", flush=True)
    threading.Event().wait()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
