"""A seat's report: what it says, whom, and what it makes of the answer."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from services.common.errors import HostError, InputError, MissingError
from services.seat import report
from services.seat.report import Boot, System

ID = "0123456789abcdef0123456789abcdef"


class Netboot:
    """A server that keeps what it is sent, and answers with `status`."""

    def __init__(self) -> None:
        self.status = 200
        self.answer = b"{}"
        self.requests: list[tuple[str, str, str, dict[str, str]]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_PUT(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                outer.requests.append((self.command, self.path, self.headers["Authorization"], json.loads(body)))
                self.send_response(outer.status)
                self.send_header("Content-Length", str(len(outer.answer)))
                self.end_headers()
                self.wfile.write(outer.answer)

            def log_message(self, format: str, *arguments: object) -> None:
                """Not on the terminal."""

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever)
        self.thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.fixture
def netboot() -> Iterator[Netboot]:
    running = Netboot()
    yield running
    running.close()


def system(tmp_path: Path, words: str, token: str | None = "t0ken") -> dict[str, str]:
    """A root with a kernel command line, and the environment of a unit with that credential."""
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cmdline").write_text(f"initrd=initrd.magic {words} quiet\n")
    (tmp_path / "credentials").mkdir()
    if token is not None:
        (tmp_path / "credentials" / report.TOKEN).write_text(token)
    return {"CREDENTIALS_DIRECTORY": str(tmp_path / "credentials")}


def test_the_command_line_names_the_boot_and_a_credential_proves_it(tmp_path: Path) -> None:
    environ = system(tmp_path, f"backline.netboot=http://192.168.1.254 backline.boot={ID}")
    assert report.find_boot(environ, root=tmp_path) == Boot("http://192.168.1.254", ID, "t0ken")


def test_a_start_that_netboot_did_not_make_has_nobody_to_tell(tmp_path: Path) -> None:
    assert report.find_boot(system(tmp_path, "backline.root=dev:/dev/vda"), root=tmp_path) is None


@pytest.mark.parametrize("environ", [{}, None])
def test_a_token_that_got_lost_on_the_way_is_an_error(tmp_path: Path, environ: dict[str, str] | None) -> None:
    found = system(tmp_path, f"backline.netboot=http://192.168.1.254 backline.boot={ID}", token=None)
    with pytest.raises(HostError, match=r"backline\.boot-token"):
        report.find_boot(found if environ is None else environ, root=tmp_path)


def test_the_host_key_is_told_without_the_comment(tmp_path: Path) -> None:
    key = tmp_path / "key.pub"
    key.write_text("ssh-ed25519 AAAAC3Nz root@pas-r01p01\n")
    assert report.document(System("running"), key) == {
        "stage": "system",
        "detail": "running",
        "ssh_host_key": "ssh-ed25519 AAAAC3Nz",
    }


def test_a_seat_without_a_host_key_reports_all_the_same(tmp_path: Path) -> None:
    found = report.document(System("degraded", ("a.service", "b.service")), tmp_path / "none")
    assert found == {"stage": "system", "detail": "degraded: a.service, b.service failed"}


def test_a_report_is_put_with_the_token(netboot: Netboot) -> None:
    report.send(Boot(netboot.url, ID, "t0ken"), {"stage": "system"})
    assert netboot.requests == [("PUT", f"/v1/boots/{ID}/report", "Bearer t0ken", {"stage": "system"})]


@pytest.mark.parametrize("status", [429, 500, 503])
def test_what_may_pass_is_tried_again(netboot: Netboot, status: int) -> None:
    netboot.status = status
    with pytest.raises(MissingError, match=str(status)):
        report.send(Boot(netboot.url, ID, "t0ken"), {"stage": "system"})


@pytest.mark.parametrize("status", [401, 403, 404, 422])
def test_what_is_refused_is_not(netboot: Netboot, status: int) -> None:
    netboot.status = status
    with pytest.raises(InputError, match=str(status)):
        report.send(Boot(netboot.url, ID, "t0ken"), {"stage": "system"})


def test_nobody_there_may_be_somebody_later() -> None:
    with pytest.raises(MissingError, match="does not answer"):
        report.send(Boot("http://127.0.0.1:1", ID, "t0ken"), {"stage": "system"})


def test_the_unit_does_not_try_again_what_was_refused() -> None:
    unit = (Path(__file__).parents[2] / "units/backline-seat-report.service").read_text()
    assert f"RestartPreventExitStatus={int(InputError.exit)}" in unit
