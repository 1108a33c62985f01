"""Progress of long work, for people and for pipes.

On a terminal: live bars (rich, imported when the first step begins). On a pipe: plain lines, a start, an end, and in
between at most one line a step every `INTERVAL` seconds. Quiet: nothing at all. Everything goes to stderr, never to the
standard output that a script may read. Safe to use from several threads.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol, TextIO

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

INTERVAL = 2.0


class Step(Protocol):
    """One piece of work that is under way."""

    def advance(self, amount: float = 1) -> None:
        """Count `amount` more units as done."""

    def set_total(self, total: float) -> None:
        """The total became known, or changed."""


class Progress:
    """Where the progress of one command goes.

    `live` chooses bars or plain lines; without it, bars are for a terminal. `clock` is for tests.
    """

    def __init__(
        self,
        *,
        quiet: bool = False,
        stream: TextIO | None = None,
        live: bool | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.stream = sys.stderr if stream is None else stream
        self.quiet = quiet
        self.live = self.stream.isatty() if live is None else live
        self._clock = clock
        self._lock = threading.RLock()
        self._bars: RichProgress | None = None
        self._open = 0

    @contextmanager
    def step(self, name: str, *, total: float | None = None, unit: str = "") -> Iterator[Step]:
        """A step, for the length of a `with` block. `total` may be unknown; `unit` "B" is shown as kB, MB...

        A block that raises is reported as failed; the exception goes on.
        """
        if self.quiet:
            yield _Silent()
        elif self.live:
            with self._live(name, total, unit) as step:
                yield step
        else:
            plain = _Plain(self, name, total, unit)
            try:
                yield plain
            except BaseException:
                plain.end(failed=True)
                raise
            plain.end()

    def note(self, text: str) -> None:
        """One line of its own, above the bars when there are some."""
        if self.quiet:
            return
        with self._lock:
            if self._bars is not None:
                self._bars.console.print(text, markup=False, highlight=False)
            else:
                self.stream.write(f"{text}\n")
                self.stream.flush()

    @contextmanager
    def _live(self, name: str, total: float | None, unit: str) -> Iterator[Step]:
        with self._lock:
            if self._bars is None:
                self._bars = _bars(self.stream)
                self._bars.start()
            bars = self._bars
            self._open += 1
            task = bars.add_task(name, total=total, unit=unit, state="")
        try:
            yield _Bar(bars, task)
        except BaseException:
            bars.update(task, state="failed")
            raise
        finally:
            with self._lock:
                self._open -= 1
                bars.stop_task(task)
                if self._open == 0:
                    bars.stop()
                    self._bars = None

    def now(self) -> float:
        return self._clock()


class _Silent:
    def advance(self, amount: float = 1) -> None:
        pass

    def set_total(self, total: float) -> None:
        pass


class _Plain:
    def __init__(self, progress: Progress, name: str, total: float | None, unit: str) -> None:
        self.progress = progress
        self.name = name
        self.total = total
        self.unit = unit
        self.done = 0.0
        self.lock = threading.Lock()
        self.began = self.shown = progress.now()
        progress.note(f"{name}: started" if total is None else f"{name}: {self.count()}")

    def count(self) -> str:
        if self.total is None:
            return amount_text(self.done, self.unit)
        return f"{amount_text(self.done, 'B' if self.unit == 'B' else '')}/{amount_text(self.total, self.unit)}"

    def advance(self, amount: float = 1) -> None:
        with self.lock:
            self.done += amount
            now = self.progress.now()
            if now - self.shown < INTERVAL:
                return
            self.shown = now
            line = f"{self.name}: {self.count()} ({self.rate(now)})"
        self.progress.note(line)

    def set_total(self, total: float) -> None:
        with self.lock:
            self.total = total

    def rate(self, now: float) -> str:
        return f"{amount_text(self.done / max(now - self.began, 0.001), self.unit)}/s"

    def end(self, *, failed: bool = False) -> None:
        now = self.progress.now()
        text = f"{self.name}: failed after " if failed else f"{self.name}: done, "
        if self.done:
            text += f"{amount_text(self.done, self.unit)} in "
        text += f"{now - self.began:.1f} s"
        if self.done and now - self.began >= 0.1:
            text += f" ({self.rate(now)})"
        self.progress.note(text)


class _Bar:
    def __init__(self, bars: RichProgress, task: TaskID) -> None:
        self.bars = bars
        self.task = task

    def advance(self, amount: float = 1) -> None:
        self.bars.advance(self.task, amount)

    def set_total(self, total: float) -> None:
        self.bars.update(self.task, total=total)


def amount_text(amount: float, unit: str) -> str:
    """An amount as people read it: bytes in powers of 1000, all else as a plain number."""
    if unit == "B":
        for prefix in ("", "k", "M", "G"):
            if amount < 999.5:
                return f"{amount:.0f} B" if prefix == "" else f"{amount:.1f} {prefix}B"
            amount /= 1000
        return f"{amount:.1f} TB"
    number = f"{amount:.1f}" if amount % 1 and amount < 100 else f"{amount:.0f}"
    return f"{number} {unit}".rstrip()


def _bars(stream: TextIO) -> RichProgress:
    from rich.console import Console
    from rich.progress import BarColumn, ProgressColumn, Task, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as RichProgress
    from rich.text import Text

    class Count(ProgressColumn):
        """Done, total and rate."""

        def render(self, task: Task) -> Text:
            unit = str(task.fields["unit"])
            text = amount_text(task.completed, unit) if task.completed or task.total else ""
            if task.total is not None:
                text += f"/{amount_text(task.total, unit)}"
            if task.speed:
                text += f" ({amount_text(task.speed, unit)}/s)"
            return Text(text)

    return RichProgress(
        TextColumn("{task.description}"),
        BarColumn(),
        Count(),
        TimeElapsedColumn(),
        TextColumn("[red]{task.fields[state]}"),
        console=Console(file=stream),
    )
