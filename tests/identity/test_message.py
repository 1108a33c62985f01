"""The message of the day on a seat: what greeters and PAM read, and what it never costs the users."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.feed.client import Batch, Follower
from services.common.feed.wire import Position
from services.common.message import bounded
from services.common.problem import Problem, RemoteError
from services.hall.render import GREETER as KEYBOARDS
from services.identity.message import GREETER, INDICATORS, ISSUE, ISSUE_HEAD, TEXT, Board, files
from services.identity.schema import Settings
from services.identity.work import MESSAGE, TOPIC, make_worker
from tests.identity.people import person
from tests.identity.test_work import Machine, running

IMAGES = Path(__file__).parents[2] / "images"
HOSTILE = "50 % off; C:\\new\nsecond `line` ~~ $HOME \\l \\4{host0}"


def listed(value: str) -> list[str]:
    """A list of a key file as GLib reads it (g_key_file_get_string_list)."""
    signs = {"n": "\n", "s": " ", "t": "\t", "r": "\r", "\\": "\\", ";": ";"}
    items = re.findall(r"(?:\\.|[^;\\])+", value)
    return [re.sub(r"\\(.)", lambda found: signs[found[1]], item) for item in items]


@given(st.text(max_size=300) | st.just(HOSTILE))
def test_the_greeter_s_bar_has_the_message_as_one_item_and_no_other(text: str) -> None:
    head, *rest = files(text)[GREETER].splitlines()
    assert head == "[greeter]"
    shown = bounded(text)
    if not shown:
        assert rest == []
        return
    (line,) = rest
    items = listed(line.removeprefix("indicators="))
    assert items == [*INDICATORS[:2], "~~" + "\n".join(shown), *INDICATORS[2:]]


@given(st.text(max_size=300) | st.just(HOSTILE))
def test_no_escape_of_a_message_reaches_a_console(text: str) -> None:
    issue = files(text)[ISSUE]
    assert issue.startswith(ISSUE_HEAD)
    assert "\\" not in issue.removeprefix(ISSUE_HEAD)


def test_it_is_shown_line_by_line() -> None:
    made = files(HOSTILE)
    assert made[TEXT] == "50 % off; C:\\new\nsecond `line` ~~ $HOME \\l \\4{host0}\n"
    assert made[ISSUE] == ISSUE_HEAD + "50 % off; C:/new\nsecond `line` ~~ $HOME /l /4{host0}\n\n"
    assert list(made)[-1] == TEXT, "the greeter is started anew when this one has changed"
    assert files("") == {ISSUE: ISSUE_HEAD, GREETER: "[greeter]\n", TEXT: ""}


def test_images_look_where_it_is_written_and_begin_with_what_it_begins_with() -> None:
    seats = (IMAGES / "nfsroot/mkosi.extra/usr/lib/tmpfiles.d/backline-seat-message.conf").read_text()
    desktop = (IMAGES / "nfsroot-desktop/mkosi.extra/usr/lib/tmpfiles.d/backline-desktop.conf").read_text()
    links = dict(re.findall(r"^L\+ (\S+) - - - - (\S+)$", seats + desktop, re.MULTILINE))
    folder = f"{Settings().folder}/message"
    assert links.pop("/etc/lightdm/lightdm-gtk-greeter.conf.d/50-backline-hall.conf") == KEYBOARDS
    assert links == {
        "/etc/issue": f"..{folder}/{ISSUE}",
        "/run/motd.d/50-backline-message": f"{folder}/{TEXT}",
        "/etc/lightdm/lightdm-gtk-greeter.conf.d/60-backline-message.conf": f"{folder}/{GREETER}",
    }
    begin = re.search(rf"^f {folder}/{ISSUE} 0644 root root - (.+)$", seats, re.MULTILINE)
    assert begin is not None
    assert begin[1].encode().decode("unicode_escape") == ISSUE_HEAD
    bar = (
        IMAGES / "nfsroot-desktop/mkosi.extra/usr/share/lightdm/lightdm-gtk-greeter.conf.d/40-backline.conf"
    ).read_text()
    assert f"indicators={';'.join(INDICATORS)}\n" in bar


def test_a_file_that_says_so_already_is_not_written_again(tmp_path: Path) -> None:
    board = Board(tmp_path / "message")
    assert board.put("hello")
    before = (board.folder / TEXT).stat()
    assert not board.put("hello")
    assert (board.folder / TEXT).stat().st_ino == before.st_ino
    assert board.put("")
    assert sorted(each.name for each in board.folder.iterdir()) == sorted([TEXT, ISSUE, GREETER])


class Seat(Machine):
    """A machine that shows the message of the day."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.board = Board(folder / "message")
        self.worker._board = self.board

    def hears(self, text: str | None) -> None:
        """What udb says, all of it."""
        state = {(TOPIC, "1"): person(1, "alice")}
        if text is not None:
            state[MESSAGE, "day"] = {"text": text}
        self.worker.take(Batch(state, [], Position("log", 1), first=True))

    def shows(self) -> str | None:
        file = self.board.folder / TEXT
        return file.read_text() if file.exists() else None


def test_a_message_comes_and_goes(tmp_path: Path) -> None:
    async def story() -> None:
        seat = Seat(tmp_path)
        async with running(seat):
            await asyncio.sleep(0.05)
            assert seat.shows() is None, "before udb has said anything, the last one stays"
            seat.hears("Lunch at noon")
            await seat.until(lambda: seat.shows() == "Lunch at noon\n")
            await seat.until(lambda: seat.logins() == ["alice"])
            seat.hears(None)
            await seat.until(lambda: seat.shows() == "")

    asyncio.run(story())


def test_a_message_that_cannot_be_shown_keeps_nobody_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.identity.work.AGAIN", 0.05)

    async def story() -> None:
        seat = Seat(tmp_path)
        seat.board.folder.write_text("no folder")
        async with running(seat):
            seat.hears("hello")
            await seat.until(lambda: seat.worker.status().state == "applied")
            assert seat.logins() == ["alice"]
            seat.board.folder.unlink()
            await seat.until(lambda: seat.shows() == "hello\n")

    asyncio.run(story())


def test_a_udb_that_knows_no_messages_still_tells_the_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A seat may run a newer image than gw."""
    asked: list[tuple[str, ...]] = []

    async def batches(follower: Follower) -> AsyncGenerator[Batch, None]:
        asked.append(follower.topics)
        if MESSAGE in follower.topics:
            problem = Problem(type="x", title="x", status=400, detail="no topic message", code="request.query")
            raise RemoteError(problem, where="udb")
        yield Batch({(TOPIC, "1"): person(1, "alice")}, [], Position("log", 1), first=True)

    monkeypatch.setattr(Follower, "batches", batches)

    async def story() -> None:
        worker = make_worker(Settings(folder=str(tmp_path), message=True, udb=f"unix:{tmp_path}/udb.sock"), {})
        following = asyncio.create_task(worker.follower.follow(worker.take))
        async with asyncio.timeout(5):
            while not worker.known:
                await asyncio.sleep(0.01)
        following.cancel()
        assert asked == [(MESSAGE, TOPIC), (TOPIC,)]
        assert worker.follower.refused is None

    asyncio.run(story())
