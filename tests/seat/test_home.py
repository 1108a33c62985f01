"""The home of a user: his alone, there once, and gone with everything that he left running."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.common.errors import BacklineError, InputError, MissingError
from services.seat import home
from services.seat.home import Coming, Memory, Owner
from services.seat.presence import Presence

UID = 10_987
root = pytest.mark.needs("root")


@pytest.fixture
def owner(tmp_path: Path) -> Iterator[Owner]:
    found = Owner("alice", UID, UID, tmp_path / "home/alice")
    yield found
    Memory().close(found)


@root
def test_it_is_a_fresh_one_from_the_skeleton_that_only_its_owner_enters(tmp_path: Path, owner: Owner) -> None:
    skeleton = tmp_path / "skel"
    (skeleton / ".config").mkdir(parents=True)
    (skeleton / ".config/x").write_text("x")
    said: list[str] = []
    Memory(skeleton).open(owner, said.append)
    assert os.path.ismount(owner.path)
    assert {(each.stat().st_uid, each.stat().st_gid) for each in (owner.path, owner.path / ".config/x")} == {(UID, UID)}
    assert owner.path.stat().st_mode & 0o777 == 0o700
    assert len(said) == 1
    (owner.path / "kept").write_text("by a second session")
    Memory(skeleton).open(owner, said.append)
    assert (owner.path / "kept").exists()
    assert len(said) == 1
    Memory(skeleton).close(owner)
    Memory(skeleton).close(owner)
    assert not owner.path.exists()


@root
def test_it_goes_even_when_somebody_else_has_a_file_of_it_open(tmp_path: Path, owner: Owner) -> None:
    Memory(tmp_path / "none").open(owner, lambda _: None)
    with (owner.path / "file").open("w"):
        Memory().close(owner)
        assert not os.path.ismount(owner.path)


@root
def test_whatever_a_user_has_left_running_is_killed_and_nothing_else() -> None:
    mine = subprocess.Popen(["sleep", "60"])
    his = [subprocess.Popen(["sleep", "60"], user=UID, start_new_session=True) for _ in range(3)]
    try:
        home.kill_all(UID)
        assert [each.wait() for each in his] == [-9] * 3
        assert mine.poll() is None
    finally:
        mine.kill()
        mine.wait()


class Broken:
    """Implements `services.seat.home.Homes`: no server has it."""

    def open(self, owner: Owner, tell: home.Tell) -> None:
        tell("Looking for your home...")
        raise MissingError("home.away", "the server rhfs1 is away")

    def close(self, owner: Owner) -> None:
        """There is none."""


def test_why_there_is_no_home_is_left_for_who_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(home, "_owner", lambda uid: Owner("alice", uid, uid, tmp_path / "alice"))
    with pytest.raises(MissingError):
        home.open_home(UID, Broken(), state=tmp_path / "state")
    said = (tmp_path / f"state/{UID}.said").read_text().splitlines()
    assert said == ["Looking for your home...", "Your home cannot be opened: the server rhfs1 is away"]


@pytest.mark.parametrize("away", [True, False])
def test_presence_is_told_who_left_even_when_udb_has_forgotten_him(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, away: bool
) -> None:
    told: list[str] = []

    class Told(Presence):
        def logout(self, login: str, *, seconds: float = 1.0) -> None:
            del seconds
            told.append(login)
            if away:
                raise InputError("seat.refused", "no")

    state = tmp_path / "state"
    state.mkdir()
    (state / str(UID)).write_text("alice")
    (state / f"{UID}.hash").write_text("of her password")
    monkeypatch.setattr(home, "kill_all", lambda uid: None)
    home.close_home(UID, Broken(), state=state, presence=lambda: Told("https://presence.prolo", "t0ken"))
    assert told == ["alice"]
    assert [path.suffix for path in state.iterdir()] == [".lock"]


@pytest.mark.parametrize(("age", "told"), [(0.0, False), (home.COMING_SECONDS + 1, True)])
def test_a_session_that_ends_while_the_next_one_begins_is_no_logout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, age: float, *, told: bool
) -> None:
    heard: list[str] = []

    class Told(Presence):
        def logout(self, login: str, *, seconds: float = 1.0) -> None:
            del seconds
            heard.append(login)

    state = tmp_path / "state"
    coming = Coming(UID, state=state)
    coming.begin()
    os.utime(coming.file, (time.time() - age, time.time() - age))
    (state / str(UID)).write_text("alice")
    monkeypatch.setattr(home, "kill_all", lambda uid: None)
    home.close_home(UID, Broken(), state=state, presence=lambda: Told("https://presence.prolo", "t0ken"))
    assert heard == (["alice"] if told else [])
    coming.end()
    assert not coming.there()


def test_nobody_has_no_home(tmp_path: Path) -> None:
    with pytest.raises(BacklineError, match=f"uid {UID} is nobody's here"):
        home.open_home(UID, Broken(), state=tmp_path)
