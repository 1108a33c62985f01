"""The lock of a screen: presence's word, and what is kept for the time without it. The PAM around it:
`e2e/scenarios/test_login.py`.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.common.errors import MissingError
from services.seat import lock
from services.seat.lock import Kept, Verdict, decide, keeps, serve
from services.seat.presence import Decision, Presence

UNITS = Path(__file__).parents[2] / "units"
PAM = Path(__file__).parents[2] / "images/nfsroot/mkosi.extra/etc/pam.d"
RIGHT, WRONG = "correct horse", "wrong"


class Answers(Presence):
    """Presence with one answer, or with none."""

    def __init__(self, decision: Decision | None) -> None:
        object.__setattr__(self, "decision", decision)

    def login(
        self, login: str, password: str | None, stage: str, *, remote: bool = False, seconds: float = 1.0
    ) -> Decision:
        assert not remote
        assert (login, stage) == ("alice", "auth")
        decision: Decision | None = self.__dict__["decision"]
        if decision is None:
            raise MissingError("seat.presence", "presence does not answer")
        return decision


@pytest.fixture
def kept(tmp_path: Path) -> Kept:
    found = Kept(10_001, state=tmp_path / "state")
    found.keep(RIGHT)
    return found


def verdict(password: str, kept: Kept, decision: Decision | None) -> Verdict:
    waits: list[float] = []
    found = decide("alice", password, kept, presence=lambda: Answers(decision), wait=waits.append, patience=0)
    assert not found.opens or not waits, "who is right waits for nothing"
    return found


def test_what_is_kept_is_a_hash_for_root_s_eyes(kept: Kept) -> None:
    assert kept.file.read_text().startswith("$y$")
    assert kept.file.stat().st_mode & 0o777 == 0o600
    assert [each.name for each in kept.file.parent.iterdir()] == ["10001.hash"]
    assert kept.verify(RIGHT) is True
    assert kept.verify(WRONG) is False
    kept.forget()
    assert kept.verify(RIGHT) is None


@pytest.mark.parametrize("password", [RIGHT, WRONG])
def test_presence_s_word_counts_whatever_is_kept(kept: Kept, password: str) -> None:
    assert verdict(password, kept, Decision(allowed=True)) == Verdict(opens=True)
    for reason in ("password", "elsewhere", "busy", "machine", "group", "user"):
        assert verdict(password, kept, Decision(allowed=False, reason=reason, message="no")) == Verdict(False, "no")


@pytest.mark.parametrize("decision", [None, Decision(False, "unavailable"), Decision(False, "early")])
def test_without_it_what_is_kept_counts(kept: Kept, decision: Decision | None) -> None:
    assert verdict(RIGHT, kept, decision).opens
    assert verdict(WRONG, kept, decision) == Verdict(opens=False, words="The password is wrong.")
    kept.forget()
    assert not verdict(RIGHT, kept, decision).opens


@pytest.mark.parametrize(
    ("text", "group", "expected"),
    [
        ('keeps = ["user"]', "user", True),
        ('keeps = ["user"]', "orga", False),
        ('keeps = ["user", "orga"]', "orga", True),
        ('keeps = ["user", "orga", "root"]', "root", False),
        ('presence = "https://presence.prolo"', "user", False),
        ("keeps = 1", "user", False),
        ("nonsense", "user", False),
    ],
)
def test_of_whom_a_hash_is_kept_is_said_by_the_hall_but_for_roots(
    tmp_path: Path, text: str, group: str, *, expected: bool
) -> None:
    (tmp_path / "seat.toml").write_text(text)
    assert keeps(group, settings=tmp_path / "seat.toml") is expected
    assert keeps(group, settings=tmp_path / "none") is False


@pytest.fixture
def address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Root's side behind a socket, which opens for `RIGHT`; alice is who runs this, bob somebody else."""
    uid = os.getuid() or 10_001
    entries = {
        name: pwd.struct_passwd((name, "x", number, 10_000, "", f"/home/{name}", "/bin/bash"))
        for name, number in (("alice", uid), ("bob", uid + 1))
    }
    monkeypatch.setattr("services.seat.lock.pwd.getpwnam", lambda name: entries[name])
    path = f"\0{tmp_path}"  # of no folder, which another user could not enter (unix(7), abstract)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        listening.listen()
        listening.settimeout(30)

        def answer() -> None:
            with contextlib.suppress(OSError):
                asked, _ = listening.accept()
                with asked:
                    serve(asked, decide=lambda login, password, kept: Verdict(password == RIGHT, f"no, {login}"))

        thread = threading.Thread(target=answer)
        thread.start()
        yield path
        listening.close()
        thread.join(1)


def unlocks(address: str, login: str, password: bytes, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    code = lock.unlock({"PAM_TYPE": "auth", "PAM_USER": login}, password, address=address)
    return code, capsys.readouterr().out


@pytest.mark.parametrize(
    ("login", "password", "expected"),
    [
        ("alice", RIGHT, (0, "")),
        ("alice", WRONG, (1, "no, alice\n")),
        ("nobody-here", RIGHT, (1, "The password is wrong.\n")),
    ],
)
def test_a_locker_is_answered(
    address: str, capsys: pytest.CaptureFixture[str], login: str, password: str, expected: tuple[int, str]
) -> None:
    assert unlocks(address, login, password.encode() + b"\0", capsys) == expected


@pytest.mark.needs("root")
def test_nobody_is_answered_about_somebody_else(address: str) -> None:
    child = os.fork()
    if child == 0:
        try:
            os.setuid(10_001)
            os._exit(2 if lock.ask("bob", RIGHT, address=address).opens else 0)
        except BaseException:
            os._exit(3)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_locker_that_nobody_answers_stays_locked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, shown = unlocks(str(tmp_path / "none"), "alice", RIGHT.encode(), capsys)
    assert (code, "tell an organizer" in shown) == (1, True)
    assert lock.unlock({"PAM_TYPE": "account", "PAM_USER": "alice"}, b"") == 1


def test_its_socket_is_where_lockers_ask_and_its_pam_file_runs_it() -> None:
    text = (UNITS / "backline-seat-lock.socket").read_text()
    assert f"ListenStream={lock.SOCKET}\n" in text
    assert "SocketMode=0666\nAccept=yes\n" in text
    assert re.search(
        r"pam_exec\.so .*expose_authtok .*backline seat unlock\n", (PAM / "backline-seat-lock").read_text()
    )
