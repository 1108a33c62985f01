"""A seat's heartbeat: what it says, and what it makes of netboot's answer."""

from __future__ import annotations

import json
import pwd
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from services.common import process
from services.common.process import Completed
from services.seat import ended, heartbeat
from services.seat.heartbeat import LONGEST, SECONDS, Heart, Orders, orders_of, users_of
from services.seat.report import Boot, find_boot
from tests.seat.test_report import ID, Netboot, netboot, system

__all__ = ["netboot"]


class Seat:
    """A seat that beats, and notes that it was restarted."""

    def __init__(self, netboot: Netboot) -> None:
        self.restarts = 0
        self.user: str | None = None
        self.probed: list[Sequence[str]] = []
        self.users: list[str] = []
        self.ended: list[str] = []
        self.heart = Heart(
            Boot(netboot.url, ID, "t0ken"),
            look=self.look,
            user=lambda: self.user,
            restart=self.restart,
            end=self.ended.append,
        )

    def look(self, probes: Sequence[str]) -> dict[str, Any]:
        self.probed.append(probes)
        found = {"version": "1", "health": {"state": "running"}, "user": None}
        return {**found, "users": self.users} if self.users else found

    def restart(self) -> None:
        self.restarts += 1


def test_it_says_how_it_is_with_the_token_of_the_boot(netboot: Netboot) -> None:
    assert Seat(netboot).heart.once() == SECONDS
    ((method, path, token, body),) = netboot.requests
    assert (method, path, token) == ("PUT", f"/v1/boots/{ID}/heartbeat", "Bearer t0ken")
    assert body == {"version": "1", "health": {"state": "running"}, "user": None}


@pytest.mark.parametrize(
    ("answer", "user", "restarts"),
    [
        ({"reboot": False}, None, 0),
        ({"reboot": True}, None, 1),
        ({"reboot": True}, "alice", 0),
        ({"reboot": True, "even_with_user": True}, "alice", 1),
        ({"reboot": "yes"}, None, 0),
    ],
)
def test_it_restarts_when_it_is_asked_and_nobody_is_logged_in(
    netboot: Netboot, answer: dict[str, Any], user: str | None, restarts: int
) -> None:
    netboot.answer = json.dumps(answer).encode()
    seat = Seat(netboot)
    seat.user = user
    seat.heart.once()
    assert seat.restarts == restarts


def test_it_logs_out_whom_it_has_named_and_nobody_else(netboot: Netboot) -> None:
    netboot.answer = json.dumps({"end": ["alice", "root", "../x"]}).encode()
    seat = Seat(netboot)
    seat.heart.once()
    assert seat.ended == []
    seat.users = ["bob", "alice"]
    seat.heart.once()
    assert seat.ended == ["alice"]


def test_units_that_it_is_asked_for_are_in_the_next_one(netboot: Netboot) -> None:
    netboot.answer = b'{"seconds": 5, "probes": ["lightdm.service"]}'
    seat = Seat(netboot)
    assert seat.heart.once() == 5
    seat.heart.once()
    assert seat.probed == [(), ("lightdm.service",)]


@pytest.mark.parametrize("status", [500, 503, 404, 401])
def test_it_goes_on_whatever_netboot_says(netboot: Netboot, status: int) -> None:
    netboot.status = status
    seat = Seat(netboot)
    assert seat.heart.once() in (SECONDS, LONGEST / 10)
    netboot.status = 200
    assert seat.heart.once() == SECONDS


@pytest.mark.parametrize(
    "content", [b"", b"x", b"[]", b"null", b'{"seconds": "often"}', b'{"probes": 3}', b"\xff", b'{"seconds": 1e99}']
)
def test_an_answer_that_makes_no_sense_asks_for_nothing(content: bytes) -> None:
    found = orders_of(content)
    assert not found.reboot
    assert 1 <= found.seconds <= LONGEST


def test_what_a_newer_netboot_says_is_passed_over() -> None:
    assert orders_of(b'{"seconds": 15, "colour": "blue"}') == Orders()


@pytest.mark.parametrize(
    ("text", "users"),
    [
        ("", []),
        ("[]", []),
        ('[{"session":"c1","uid":100,"user":"greeter","class":"greeter"}]', []),
        ('[{"session":"1","uid":0,"user":"root","class":"manager"},{"user":"alice","class":"user"}]', ["alice"]),
        ('[{"user":"alice","class":"user-early"}]', ["alice"]),
        ('[{"user":"alice"}]', ["alice"]),
        ('[{"user":"bob"},{"user":"alice"},{"user":"bob"}]', ["bob", "alice"]),
        ("loginctl: no such option", ["somebody"]),
        ('{"no": "list"}', ["somebody"]),
    ],
)
def test_a_greeter_is_nobody_and_what_cannot_be_read_is_somebody(text: str, users: list[str]) -> None:
    assert users_of(text) == users


def test_in_a_container_the_arguments_of_its_first_process_are_the_command_line(tmp_path: Path) -> None:
    environ = system(tmp_path, "backline.netboot=http://of.the.host backline.boot=0")
    (tmp_path / "run/systemd").mkdir(parents=True)
    (tmp_path / "run/systemd/container").write_text("systemd-nspawn\n")
    (tmp_path / "proc/1").mkdir()
    (tmp_path / "proc/1/cmdline").write_bytes(f"/sbin/init\0backline.netboot=http://gw\0backline.boot={ID}\0".encode())
    assert find_boot(environ, root=tmp_path) == Boot("http://gw", ID, "t0ken")


def test_its_wish_to_restart_is_where_the_path_unit_looks() -> None:
    units = Path(__file__).parents[2] / "units"
    path = (units / "backline-seat-restart.path").read_text()
    service = (units / "backline-seat-heartbeat.service").read_text()
    assert f"PathExists={heartbeat.RESTART}" in path
    assert f"RuntimeDirectory={heartbeat.RESTART.parent.name}" in service
    assert f"DirectoryNotEmpty={heartbeat.END}" in (units / "backline-seat-end.path").read_text()
    assert f"ReadWritePaths=-{heartbeat.END.parent}" in (units / "backline-seat-end.service").read_text()


def test_its_wish_to_log_somebody_out_is_a_file_of_his_number(tmp_path: Path) -> None:
    folder = tmp_path / "end"
    heartbeat.ask_to_end("games", folder)
    heartbeat.ask_to_end("nobody-has-this-name", folder)
    assert [file.name for file in folder.iterdir()] == [str(pwd.getpwnam("games").pw_uid)]


def test_nobody_but_people_is_logged_out_and_no_file_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []
    answers = {"20001": 0, "20002": 1}

    def run(argv: list[str], **_: object) -> Completed:
        asked.append(argv)
        return Completed(tuple(argv), answers[argv[2]], "", "no such thing")

    monkeypatch.setattr(process, "run", run)
    for name in ("20001", "0", "5", "61184", "x"):
        (tmp_path / name).touch()
    assert not ended.log_out(tmp_path)
    assert asked == [["loginctl", "terminate-user", "20001"]]
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "20001").touch()
    assert ended.log_out(tmp_path)
    (tmp_path / "20002").touch()
    assert not ended.log_out(tmp_path)
