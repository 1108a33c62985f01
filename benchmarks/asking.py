"""Clients of presence and single sign-on in a process of their own, as nginx's user: what a hall asks at its worst.

    python -m benchmarks.asking whois SECONDS SOCKET COUNT           questions of nginx, as many as are answered
    python -m benchmarks.asking logins RATE SECONDS SOCKET KEY FIRST  logins at a fixed rate, both stages
    python -m benchmarks.asking burst COUNT SOCKET KEY FIRST          logins all at once, both stages

Machine, user and address number N belong together (`benchmarks.gateway`); KEY is the file of the hall's key for tokens.
Every line of output is JSON.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
import statistics
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.gateway import address
from benchmarks.load import say
from services.common.tokens import Tokens

WWW_DATA = 33
CONNECTIONS = 8
PASSWORD = "correct horse battery"


def login(number: int) -> str:
    """The user who sits at machine `number`."""
    return f"user{number:05}"


def boot(number: int) -> str:
    """The boot of machine `number`."""
    return f"{number:032x}"


def whois(seconds: float, path: str, count: int) -> None:
    """A question on each connection, then all answers, over and over; a time is from the question to its answer."""
    links = []
    for _ in range(CONNECTIONS):
        link = socket.socket(socket.AF_UNIX)
        link.connect(path)
        links.append(link)
    asked = [
        f"GET /v1/whois HTTP/1.1\r\nHost: sso\r\nX-Real-IP: {address(number)}\r\n\r\n".encode()
        for number in range(count)
    ]
    times: list[float] = []
    known, number = 0, 0
    began = time.monotonic()
    while (now := time.monotonic()) - began < seconds:
        sent = []
        for link in links:
            sent.append(time.monotonic())
            link.sendall(asked[number % count])
            number += 1
        for link, at in zip(links, sent, strict=True):
            answer = link.recv(4096)
            times.append(time.monotonic() - at)
            assert answer.startswith(b"HTTP/1.1 204"), answer
            known += b"x-sso-user: " in answer
    times.sort()
    say(
        answered=len(times),
        per_second=len(times) / (now - began),
        median=statistics.median(times),
        p99=times[int(len(times) * 0.99)],
        known=known,
    )


class Unix(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=60)
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(60)
        self.sock.connect(self.path)


class Login(threading.Thread):
    """A user who logs in: the stages `auth` and `account`, and how long each took."""

    def __init__(self, path: str, token: str, number: int) -> None:
        super().__init__(daemon=True)
        self.path, self.token, self.number = path, token, number
        self.times: list[float] = []
        self.wrong = ""

    def run(self) -> None:
        link = Unix(self.path)
        for stage, password in (("auth", PASSWORD), ("account", None)):
            began = time.monotonic()
            body = json.dumps({"login": login(self.number), "password": password, "stage": stage})
            headers = {
                "Authorization": f"Bearer {self.token}",
                "Content-Type": "application/json",
                "X-Real-IP": address(self.number),
                "X-Forwarded-Proto": "https",
            }
            link.request("POST", "/v1/login", body, headers)
            answer = json.loads(link.getresponse().read())
            self.times.append(time.monotonic() - began)
            if not answer.get("allowed"):
                self.wrong = str(answer)
                break
        link.close()


def logins(rate: float, count: int, path: str, key: bytes, first: int) -> None:
    """So many users, one every 1/rate s; 0 is all at once."""
    tokens = Tokens(key)
    waiting = [
        Login(path, tokens.for_machine("m", machine=number + 1, boot=boot(number), seconds=600), number)
        for number in range(first, first + count)
    ]
    began = time.monotonic()
    for index, each in enumerate(waiting):
        if rate and (wait := began + index / rate - time.monotonic()) > 0:
            time.sleep(wait)
        each.start()
    for each in waiting:
        each.join()
    took = time.monotonic() - began
    wrong = [each.wrong for each in waiting if each.wrong]
    whole = sorted(sum(each.times) for each in waiting if not each.wrong)
    stages = sorted(at for each in waiting for at in each.times)
    say(
        count=len(whole),
        wrong=len(wrong),
        example=wrong[:1],
        took=took,
        median=statistics.median(whole) if whole else 0.0,
        p95=whole[int(len(whole) * 0.95)] if whole else 0.0,
        stage_p95=stages[int(len(stages) * 0.95)],
    )


def main(argv: Sequence[str]) -> int:
    """Do what the first word says, as nginx's user."""
    key = Path(argv[-2]).read_bytes() if argv[0] != "whois" else b""
    os.setgroups([])
    os.setgid(WWW_DATA)
    os.setuid(WWW_DATA)
    if argv[0] == "whois":
        whois(float(argv[1]), argv[2], int(argv[3]))
    elif argv[0] == "logins":
        logins(float(argv[1]), int(float(argv[1]) * float(argv[2])), argv[3], key, int(argv[5]))
    else:
        logins(0, int(argv[1]), argv[2], key, int(argv[4]))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
