"""The initrd's way to netboot: HTTP in bash alone, against a real server. The rest of it boots in the scenarios."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from services.common.process import run

PLACE = Path(__file__).parents[2] / "images/initrd/mkosi.extra/usr/lib/backline"
SCRIPTS = ("mount-root", "netboot", "root-failed", "watch-root")


class Answers(BaseHTTPRequestHandler):
    """Says what was asked, and a line more; /refused is refused."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        answer = f"{self.path} {len(body)}\nHäh {body[:10]}".encode()
        self.send_response(403 if self.path == "/refused" else 200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, format: str, *arguments: object) -> None:
        """Not on the terminal."""


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with HTTPServer(("127.0.0.1", 0), Answers) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def bash(port: int, script: str) -> str:
    """What a script prints that has read `netboot`."""
    lines = f"set -euo pipefail\nsource {PLACE}/netboot\nnetboot=http://127.0.0.1:{port}\nboot=abc\n{script}"
    return run(["bash", "-c", lines]).stdout


@pytest.mark.parametrize("name", SCRIPTS)
def test_bash_understands_the_scripts(name: str) -> None:
    run(["bash", "-n", str(PLACE / name)])


def test_an_answer_is_its_status_and_its_text(port: int) -> None:
    assert bash(port, 'within 5 ask POST /a?b "text"; printf %s "$said"') == "200 /a?b 4\nHäh text"
    assert bash(port, 'within 5 ask POST /refused; printf %s "$said"') == "403 /refused 0\nHäh "


def test_a_report_is_cut_to_what_netboot_takes(port: int) -> None:
    said = bash(port, 'within 5 report why "$(seq 99999)"; printf %s "$said"')
    assert said.splitlines() == ["200 /bootlog?boot=abc 200000", "Häh why", "1", "2", "3"]


def test_nobody_there_is_no_answer() -> None:
    assert bash(1, 'within 5 ask POST / 2> /dev/null; printf "[%s]" "$said"') == "[]"


def test_what_a_command_prints_ends_without_its_newline() -> None:
    assert bash(1, 'within 5 echo away; printf "[%s]" "$said"') == "[away]"


def test_a_server_that_says_nothing_is_left_in_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        script = 'within 0.2 ask POST / || printf "late [%s]" "$said"'
        assert bash(silent.getsockname()[1], script) == "late []"
