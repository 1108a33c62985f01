"""The stages of a login, with a small server that answers as presence does: who gets in, and what those see who do not.

Real PAM, presence and udb: `e2e/scenarios/test_login.py`.
"""

from __future__ import annotations

import io
import pwd
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from services.common.errors import HostError, InputError, MissingError
from services.seat import login as seat_login
from services.seat.home import Coming
from services.seat.lock import Kept
from services.seat.login import Login
from services.seat.presence import Presence, find_presence
from tests.seat.presence_server import PASSWORD, PresenceServer


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[PresenceServer]:
    """At gw.prolo, as that is the name in its certificate."""
    real = socket.getaddrinfo

    def found(host: Any, *more: Any, **how: Any) -> Any:
        return real("127.0.0.1" if host == "gw.prolo" else host, *more, **how)

    monkeypatch.setattr(socket, "getaddrinfo", found)
    running = PresenceServer(tmp_path)
    yield running
    running.close()


class Screen:
    """What is shown to who logs in, and what administrators read; time does not pass."""

    def __init__(
        self,
        presence: Presence,
        *,
        patience: float = 60.0,
        state: Path = Path("/nonexistent"),
        settings: Path = Path("/nonexistent"),
    ) -> None:
        self.shown: list[str] = []
        self.logged: list[str] = []
        self.waits = 0
        self.looked: list[int] = []
        self.login = Login(
            "alice",
            tell=self.shown.append,
            log=self.logged.append,
            presence=lambda: presence,
            wait=self._wait,
            patience=patience,
            state=state,
            settings=settings,
            look_later=self.looked.append,
        )

    def _wait(self, seconds: float) -> None:
        del seconds
        self.waits += 1


def test_the_right_password_is_enough_and_nothing_is_said(server: PresenceServer) -> None:
    screen = Screen(server.presence())
    assert screen.login.auth(PASSWORD)
    assert (screen.shown, screen.logged) == ([], [])
    assert server.requests == [("/v1/login", {"login": "alice", "password": PASSWORD, "stage": "auth"})]


@pytest.mark.parametrize(("group", "kept"), [("user", True), ("orga", False), ("root", False), (None, False)])
def test_a_hash_stays_for_the_lock_of_a_screen_where_it_may(
    server: PresenceServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, group: str | None, *, kept: bool
) -> None:
    (tmp_path / "seat.toml").write_text('keeps = ["user", "root"]\n')
    screen = Screen(server.presence(), state=tmp_path / "state", settings=tmp_path / "seat.toml")
    monkeypatch.setattr(server, "answer", lambda *_: (200, {"allowed": True, "group": group}))
    assert screen.login.auth(PASSWORD)
    assert Kept(10_001, state=tmp_path / "state").verify(PASSWORD) is (True if kept else None)
    assert screen.looked == ([10_001] if kept else []), "who opens no session is looked for"


def test_nothing_is_kept_of_a_password_that_is_refused(server: PresenceServer, tmp_path: Path) -> None:
    (tmp_path / "seat.toml").write_text('keeps = ["user"]\n')
    screen = Screen(server.presence(), state=tmp_path / "state", settings=tmp_path / "seat.toml")
    assert not screen.login.auth("wrong")
    assert Kept(10_001, state=tmp_path / "state").verify("wrong") is None


def test_a_wrong_password_is_refused_in_presence_s_words(server: PresenceServer) -> None:
    screen = Screen(server.presence())
    assert not screen.login.auth("wrong")
    assert screen.shown == ["the password is wrong"]
    assert "wrong" not in screen.logged[0].replace("the password is wrong", "")


@pytest.fixture(autouse=True)
def _alice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """She is somebody here, and nobody's /run is touched."""
    entry = pwd.struct_passwd(("alice", "x", 10_001, 10_000, "Alice", "/home/alice", "/bin/bash"))
    monkeypatch.setattr("services.seat.login.pwd.getpwnam", lambda name: {"alice": entry}[name])
    monkeypatch.setattr(Coming.__init__, "__kwdefaults__", {"state": tmp_path / "state"})


@pytest.mark.parametrize("reason", ["elsewhere", "busy", "machine", "user", "group", "early", "unavailable"])
def test_each_refusal_is_shown_as_it_came_and_logged_with_its_code(server: PresenceServer, reason: str) -> None:
    server.refusal = {"reason": reason, "message": f"because of {reason}"}
    screen = Screen(server.presence())
    assert not screen.login.account()
    assert screen.shown == [f"because of {reason}"]
    assert f"refused: {reason}" in screen.logged[0]


def test_a_refusal_without_words_is_one_too(server: PresenceServer) -> None:
    server.refusal = {"reason": "busy", "message": ""}
    screen = Screen(server.presence())
    assert not screen.login.account()
    assert screen.shown == ["You cannot log in here: busy."]


def test_presence_that_restarts_is_waited_for_and_that_is_said_once(server: PresenceServer) -> None:
    server.failures = 3
    screen = Screen(server.presence())
    assert screen.login.auth(PASSWORD)
    assert screen.shown == ["Waiting for the hall's login service..."]
    assert screen.waits == 3


def test_presence_that_stays_away_lets_nobody_in(server: PresenceServer) -> None:
    server.status = 503
    screen = Screen(server.presence(), patience=0.0)
    assert not screen.login.auth(PASSWORD)
    assert screen.shown == ["The hall's login service does not answer. Please tell an organizer."]


def test_a_password_never_goes_to_who_is_not_the_hall_s(server: PresenceServer, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = PresenceServer(tmp_path / "other")
    try:
        presence = Presence(server.presence().address, "t0ken", other.ca)
        screen = Screen(presence, patience=0.0)
        assert not screen.login.auth(PASSWORD)
        assert server.requests == []
    finally:
        other.close()
    with pytest.raises(InputError, match="https"):
        Presence("http://gw.prolo", "t0ken", server.ca).login("alice", PASSWORD, "auth")


def test_a_seat_that_the_hall_does_not_know_any_more_says_so(server: PresenceServer) -> None:
    with pytest.raises(InputError, match="this token is not from this hall"):
        server.presence(token="old").login("alice", PASSWORD, "auth")


@pytest.mark.parametrize("answer", [{}, {"allowed": "yes"}, {"allowed": 1}, [], None])
def test_an_answer_that_makes_no_sense_lets_nobody_in(
    server: PresenceServer, monkeypatch: pytest.MonkeyPatch, answer: Any
) -> None:
    monkeypatch.setattr(server, "answer", lambda *_: (200, answer))
    with pytest.raises(MissingError, match="makes no sense"):
        server.presence().login("alice", PASSWORD, "auth")


# What PAM runs


def ran(
    capsys: pytest.CaptureFixture[str],
    presence: Presence | BaseException,
    environ: dict[str, str],
    stdin: bytes = b"",
) -> tuple[int, str]:
    def find() -> Presence:
        if isinstance(presence, BaseException):
            raise presence
        return presence

    code = seat_login.run(environ, io.BytesIO(stdin), presence=find)
    return code, capsys.readouterr().out


def test_the_password_comes_on_standard_input_as_pam_exec_gives_it(
    server: PresenceServer, capsys: pytest.CaptureFixture[str]
) -> None:
    environ = {"PAM_USER": "alice", "PAM_TYPE": "auth"}
    assert ran(capsys, server.presence(), environ, PASSWORD.encode() + b"\0") == (0, "")
    code, shown = ran(capsys, server.presence(), environ, b"\xff\0")
    assert (code, shown) == (1, "the password is wrong\n")


@pytest.mark.parametrize(("host", "said"), [("192.168.0.66", {"remote": True}), ("", {}), (None, {})])
def test_presence_is_told_of_who_comes_over_the_network(
    server: PresenceServer, capsys: pytest.CaptureFixture[str], host: str | None, said: dict[str, bool]
) -> None:
    environ = {"PAM_USER": "alice", "PAM_TYPE": "auth", **({} if host is None else {"PAM_RHOST": host})}
    assert ran(capsys, server.presence(), environ, PASSWORD.encode()) == (0, "")
    assert server.requests[-1][1] == {"login": "alice", "password": PASSWORD, "stage": "auth", **said}


@pytest.mark.parametrize("bug", [HostError("seat.credential", "no token is here"), RuntimeError("a bug")])
def test_a_failure_of_any_kind_lets_nobody_in_and_shows_no_traceback(
    capsys: pytest.CaptureFixture[str], bug: BaseException
) -> None:
    for stage in ("auth", "account"):
        code, shown = ran(capsys, bug, {"PAM_USER": "alice", "PAM_TYPE": stage})
        assert code == 1
        assert shown.startswith("This seat cannot log you in")
        assert "Traceback" not in shown


@pytest.mark.parametrize(("stage", "code"), [("close_session", 0), ("password", 1), ("", 1)])
def test_other_stages(capsys: pytest.CaptureFixture[str], stage: str, code: int) -> None:
    found = ran(capsys, RuntimeError("nobody is asked"), {"PAM_USER": "alice", "PAM_TYPE": stage})
    assert found == (code, "")


def test_a_machine_that_netboot_did_not_start_has_no_token(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not say where presence is"):
        find_presence({}, root=tmp_path)
    (tmp_path / "run/backline").mkdir(parents=True)
    (tmp_path / "run/backline/seat.toml").write_text('presence = "https://presence.prolo"\n')
    with pytest.raises(HostError, match="netboot has not started this system"):
        find_presence({}, root=tmp_path)
