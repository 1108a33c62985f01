"""Locks: one at a time, who waits is told who holds it, death lets go."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from builder.locking import exclusive
from services.common.errors import BusyError

PROJECT = Path(__file__).resolve().parents[2]
HOLD = """
import sys
from pathlib import Path
from builder.locking import exclusive
with exclusive(Path(sys.argv[1]), what="a test"):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def holder(path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the lock until its standard input ends."""
    argv: list[str | Path] = [sys.executable, "-c", HOLD, path]
    with subprocess.Popen(argv, cwd=PROJECT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("kind", ["file", "folder", "missing"])
def test_a_second_one_that_may_not_wait_is_told_who_holds_it(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "deep" / "lock"
    if kind != "missing":
        path.parent.mkdir()
        path.mkdir() if kind == "folder" else path.touch()
    with holder(path) as process:
        with pytest.raises(BusyError) as caught, exclusive(path, what="a build of gw", wait=False):
            pass
    assert caught.value.code == "lock.held"
    assert f"a build of gw is going on in process {process.pid} (python" in caught.value.message


def test_a_second_one_waits_and_says_so(tmp_path: Path) -> None:
    told: list[str] = []
    with holder(tmp_path / "lock") as process:
        assert process.stdin is not None

        def notify(sentence: str) -> None:
            told.append(sentence)
            process.stdin.close()  # type: ignore[union-attr]

        with exclusive(tmp_path / "lock", what="a build", notify=notify):
            assert process.wait() == 0
    assert told == [f"waiting: a build is going on in process {process.pid} (python3)"] or str(process.pid) in told[0]


def test_a_free_lock_is_taken_without_a_word(tmp_path: Path) -> None:
    told: list[str] = []
    for _ in range(2):
        with exclusive(tmp_path / "lock", what="a build", notify=told.append):
            pass
    assert told == []


def test_death_lets_go(tmp_path: Path) -> None:
    with holder(tmp_path / "lock") as process:
        process.send_signal(signal.SIGKILL)
        process.wait()
        with exclusive(tmp_path / "lock", what="a build", wait=False):
            pass


def test_waiting_ends_at_the_deadline(tmp_path: Path) -> None:
    with holder(tmp_path / "lock"):
        start = time.monotonic()
        with pytest.raises(BusyError, match="still"), exclusive(tmp_path / "lock", what="x", deadline=start + 0.05):
            pass
        assert time.monotonic() - start >= 0.05


def test_a_deadline_that_is_not_reached_is_no_matter(tmp_path: Path) -> None:
    with holder(tmp_path / "lock") as process:
        with exclusive(tmp_path / "lock", what="x", deadline=time.monotonic() + 60, notify=lambda _: process.kill()):
            pass


def test_threads_exclude_each_other_too(tmp_path: Path) -> None:
    inside: list[int] = []
    most = 0

    def work() -> None:
        nonlocal most
        for _ in range(20):
            with exclusive(tmp_path / "lock", what="x"):
                inside.append(1)
                most = max(most, len(inside))
                inside.pop()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1


def test_an_error_inside_lets_go(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), exclusive(tmp_path / "lock", what="x"):
        raise ZeroDivisionError
    with exclusive(tmp_path / "lock", what="x", wait=False):
        pass


def test_children_do_not_inherit_the_lock(tmp_path: Path) -> None:
    with exclusive(tmp_path / "lock", what="x"):
        child = subprocess.Popen(["sleep", "60"], close_fds=False)
    try:
        with exclusive(tmp_path / "lock", what="x", wait=False):
            pass
    finally:
        child.kill()
        child.wait()


def test_nothing_is_written_into_the_lock(tmp_path: Path) -> None:
    with exclusive(tmp_path / "lock", what="x"):
        assert os.stat(tmp_path / "lock").st_size == 0  # noqa: PTH116
