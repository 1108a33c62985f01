"""A new message of the day: the greeter is started anew, unless that would cost somebody something."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from services.common.errors import BacklineError, HostError
from services.seat import home, message

GREETER = {"session": "c1", "uid": 113, "user": "lightdm", "seat": "seat0", "class": "greeter"}
SEATED = {"session": "3", "uid": 10_001, "user": "alice", "seat": "seat0", "class": "user"}
OVER_SSH = {"session": "4", "uid": 0, "user": "root", "seat": None, "class": "user"}


class Seat:
    """A seat whose loginctl and systemctl are two lines of shell; what they were asked is written down."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
        monkeypatch.setattr(message, "STATE", folder / "state")
        (folder / "state").mkdir()
        self.is_as([GREETER])

    def is_as(self, sessions: object, *, opening: str = "") -> None:
        self._program("loginctl", f"cat <<'.'\n{json.dumps(sessions)}\n.")
        self._program("systemctl", f'echo "$@" >>{self.folder}/asked\ncase $1 in list-units) echo "{opening}";; esac')

    def _program(self, name: str, text: str) -> None:
        (self.folder / name).write_text(f"#!/bin/sh\n{text}\n")
        (self.folder / name).chmod(0o755)

    def restarted(self) -> list[str]:
        file = self.folder / "asked"
        return [line for line in file.read_text().splitlines() if "restart" in line] if file.exists() else []


@pytest.fixture
def seat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Seat:
    return Seat(tmp_path, monkeypatch)


@pytest.mark.parametrize("sessions", [[], [GREETER], [GREETER, OVER_SSH]], ids=["nobody", "greeter", "over ssh"])
def test_a_greeter_with_nobody_before_it_shows_it(seat: Seat, sessions: object) -> None:
    seat.is_as(sessions)
    assert message.show()
    assert seat.restarted() == ["try-restart greetd.service", "try-restart lightdm.service"]


@pytest.mark.parametrize("sessions", [[SEATED], [GREETER, SEATED], "nonsense"], ids=["user", "both", "unclear"])
def test_who_sits_there_is_left_alone(seat: Seat, sessions: object) -> None:
    seat.is_as(sessions)
    assert not message.show()
    assert seat.restarted() == []


def test_where_nobody_can_tell_who_is_there_nothing_is_touched(seat: Seat) -> None:
    seat._program("loginctl", "exit 1")
    with pytest.raises(BacklineError):
        message.show()
    assert seat.restarted() == []


def test_a_greeter_that_cannot_be_started_anew_is_said(seat: Seat) -> None:
    seat._program("systemctl", "case $1 in try-restart) echo no >&2; exit 4;; esac")
    with pytest.raises(HostError, match=r"greetd\.service cannot be started anew: no"):
        message.show()


def test_who_is_being_let_in_is_left_alone(seat: Seat) -> None:
    seat.is_as([GREETER], opening="backline-seat-home@10001.service loaded activating start")
    assert not message.show(patience=0)
    seat.is_as([GREETER])
    coming = home.Coming(10_001, state=seat.folder / "state")
    coming.begin()
    assert not message.show(patience=0)
    waits: list[float] = []

    def wait(seconds: float) -> None:
        waits.append(seconds)
        coming.end()

    assert message.show(wait=wait), "who was let in has gone, or sits elsewhere"
    assert len(waits) == 1
    assert len(seat.restarted()) == 2
