"""Progress: bars on a terminal, few lines on a pipe, nothing when quiet."""

from __future__ import annotations

import io
import os
import pty
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.process import run, running, spawn
from services.common.progress import Progress, amount_text

ROOT = Path(__file__).parents[2]


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_pipe_gets_a_start_few_lines_and_an_end() -> None:
    stream, clock = io.StringIO(), Clock()
    with Progress(stream=stream, clock=clock).step("fetching", total=10_000_000, unit="B") as step:
        for _ in range(10):
            clock.now += 0.5
            step.advance(1_000_000)
    assert stream.getvalue().splitlines() == [
        "fetching: 0 B/10.0 MB",
        "fetching: 4.0 MB/10.0 MB (2.0 MB/s)",
        "fetching: 8.0 MB/10.0 MB (2.0 MB/s)",
        "fetching: done, 10.0 MB in 5.0 s (2.0 MB/s)",
    ]


def test_a_total_may_be_unknown_and_become_known() -> None:
    stream, clock = io.StringIO(), Clock()
    with Progress(stream=stream, clock=clock).step("reading", unit="files") as step:
        clock.now += 2
        step.advance()
        step.set_total(4)
        clock.now += 2
        step.advance(3)
    assert stream.getvalue().splitlines() == [
        "reading: started",
        "reading: 1 files (0.5 files/s)",
        "reading: 4/4 files (1 files/s)",
        "reading: done, 4 files in 4.0 s (1 files/s)",
    ]


def test_a_step_that_fails_says_so_and_the_error_goes_on() -> None:
    stream, clock = io.StringIO(), Clock()

    def build() -> None:
        with Progress(stream=stream, clock=clock).step("building"):
            clock.now += 3
            raise ValueError("x")

    with pytest.raises(ValueError, match="x"):
        build()
    assert stream.getvalue().splitlines() == ["building: started", "building: failed after 3.0 s"]


def test_quiet_says_nothing() -> None:
    stream = io.StringIO()
    progress = Progress(stream=stream, quiet=True)
    with progress.step("a", total=1) as step:
        step.advance()
        step.set_total(2)
    progress.note("b")
    assert stream.getvalue() == ""


def test_threads_may_advance_one_step() -> None:
    stream = io.StringIO()
    with Progress(stream=stream).step("counting", total=8000, unit="items") as step:

        def count() -> None:
            for _ in range(1000):
                step.advance()

        threads = [threading.Thread(target=count) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert "counting: done, 8000 items" in stream.getvalue()


SHOW = """
from services.common.progress import Progress
progress = Progress()
with progress.step("fetching [x]", total=2000, unit="B") as step, progress.step("other"):
    step.advance(1000)
    progress.note("a note [bold]")
    step.advance(1000)
progress.note("the end")
try:
    with progress.step("third"):
        raise ValueError
except ValueError:
    print("out")
"""


def test_a_terminal_gets_bars_and_notes_above_them() -> None:
    main, other = pty.openpty()
    env = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
    child = spawn([sys.executable, "-c", SHOW], cwd=ROOT, env=env, stdout=subprocess.DEVNULL, stderr=other)
    with running(child) as process:
        os.close(other)
        seen = b""
        while piece := read(main):
            seen += piece
        os.close(main)
        assert process.wait(timeout=10) == 0
    text = seen.decode()
    assert "2.0 kB/2.0 kB" in text
    assert "\x1b[" in text
    assert "a note [bold]\r\n" in text
    assert "failed" in text
    assert text.index("2.0 kB/2.0 kB") < text.index("the end")


def read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 65536)
    except OSError:  # how a pseudo terminal ends, on Linux
        return b""


def test_the_standard_output_is_left_to_the_answer() -> None:
    done = run([sys.executable, "-c", SHOW], cwd=ROOT)
    assert done.stdout == "out\n"
    assert "fetching [x]: 0 B/2.0 kB" in done.stderr


def test_without_a_terminal_rich_is_not_even_imported() -> None:
    source = "import sys\nfrom services.common.progress import Progress\n"
    source += "with Progress().step('a'): pass\nprint('rich' in sys.modules)"
    assert run([sys.executable, "-c", source], cwd=ROOT).stdout == "False\n"


@given(st.floats(0, 1e16, allow_nan=False), st.sampled_from(["B", "files", ""]))
def test_amounts_are_short_whatever_they_are(amount: float, unit: str) -> None:
    text = amount_text(amount, unit)
    assert text.strip() == text
    assert len(text) < 25
    assert float(text.split()[0]) >= 0


@pytest.mark.parametrize(
    ("amount", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (999_499, "999.5 kB"), (1_000_000, "1.0 MB"), (2.5e12, "2.5 TB")],
)
def test_bytes_are_counted_in_thousands(amount: float, text: str) -> None:
    assert amount_text(amount, "B") == text
