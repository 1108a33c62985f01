"""Files that a user has left outside of his home go with his last session, and nobody else's do."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from services.seat import home
from services.seat.home import Owner
from services.seat.left import sweep
from services.seat.presence import Presence

UID, OTHER = 10_987, 10_988
pytestmark = pytest.mark.needs("root")


def make(path: Path, uid: int, *, folder: bool = False, mode: int = 0o644) -> Path:
    if folder:
        path.mkdir(parents=True)
    else:
        path.write_text("secret")
    path.chmod(mode)
    os.chown(path, uid, uid)
    return path


def test_what_is_his_goes_wherever_everybody_may_write(tmp_path: Path) -> None:
    shared = make(tmp_path / ".X11-unix", 0, folder=True, mode=0o1777)
    private = make(tmp_path / "private", OTHER, folder=True, mode=0o700)
    kept = [make(tmp_path / "other", OTHER), make(private / "given", UID), make(shared / "X1", OTHER)]
    make(tmp_path / "solution.py", UID)
    make(shared / "X0", UID)
    make(make(tmp_path / "deep", UID, folder=True) / "deeper", UID, folder=True)
    (tmp_path / "deep/deeper/out").symlink_to(kept[0])
    os.mkfifo(tmp_path / "deep/pipe")
    sweep(UID, [tmp_path, tmp_path / "nowhere"])
    assert sorted(tmp_path.rglob("*")) == sorted([shared, private, *kept])


def test_what_does_not_go_is_named_and_the_rest_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    stays = make(tmp_path / "a\nb", UID, folder=True)
    make(tmp_path / "z", UID)
    monkeypatch.setattr("services.seat.left.shutil.rmtree", lambda _: tmp_path.rmdir())  # is not empty
    sweep(UID, [tmp_path])
    assert list(tmp_path.iterdir()) == [stays]
    assert [r"a\nb' stays" in message for message in caplog.messages] == [True]


def test_it_is_done_when_the_last_session_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path / "solution.py", UID)
    monkeypatch.setattr(home, "PLACES", (tmp_path,))
    monkeypatch.setattr(home, "_owner", lambda uid: Owner("alice", uid, uid, tmp_path / "home/alice"))
    home.close_home(
        UID, home.Memory(), state=tmp_path / "state", presence=lambda: Away("https://presence.prolo", "t0ken")
    )
    assert not (tmp_path / "solution.py").exists()


class Away(Presence):
    """Somebody to tell."""

    def logout(self, login: str, *, seconds: float = 1.0) -> None:
        """It is told, and that is all."""
