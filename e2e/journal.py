"""One merged journal of a whole lab, in systemd's Journal Export Format, with the lab's own steps and faults as
entries.

Every entry keeps the fields of its node and gets `BACKLINE_NODE=`; the lab's own entries are of node `lab` and have
`BACKLINE_KIND=` step, fault, notify, console or exit. The file is plain text to be kept, and seekable by time, node
and unit: an index in memory says where each entry begins, and `read` makes it anew from a file. Format: systemd's
"Journal Export Formats".
"""

from __future__ import annotations

import re
import struct
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

from services.common.errors import IntegrityError, MissingError

LAB = "lab"
MAX_FIELD = 64 * 1024 * 1024
PRIORITIES = ("emerg", "alert", "crit", "err", "warning", "notice", "info", "debug")


@dataclass(frozen=True)
class Entry:
    """One entry: `time` in seconds since 1970, `unit` as systemd names it or "", `fields` as text."""

    number: int
    time: float
    node: str
    unit: str
    message: str
    fields: dict[str, str] = field(repr=False)

    @property
    def kind(self) -> str:
        """What of the lab's own it is, or "" for a node's."""
        return self.fields.get("BACKLINE_KIND", "")

    @property
    def priority(self) -> int:
        """As in syslog(3), from 0 (emergency) to 7."""
        text = self.fields.get("PRIORITY", "6")
        return int(text) if text.isdecimal() else 6

    def line(self) -> str:
        """As a person reads it: time of day, node, unit or program, message."""
        clock = datetime.fromtimestamp(self.time, UTC).strftime("%H:%M:%S.%f")[:-3]
        source = self.kind or self.fields.get("SYSLOG_IDENTIFIER") or self.fields.get("_COMM") or "?"
        return f"{clock} {self.node:<12} {source}: {self.message}"


class Parser:
    """Journal Export Format, fed in pieces as a socket gives them.

    Raises IntegrityError("lan.journal") on what is not that format.
    """

    def __init__(self) -> None:
        self._rest = b""
        self._fields: dict[str, str] = {}

    def feed(self, data: bytes) -> Iterator[dict[str, str]]:
        """The entries that are complete with `data`."""
        self._rest += data
        position = 0
        rest = self._rest
        while (end := rest.find(b"\n", position)) >= 0:
            line = rest[position:end]
            if not line:
                position = end + 1
                if self._fields:
                    yield self._fields
                    self._fields = {}
                continue
            name, equals, value = line.partition(b"=")
            if equals:
                self._put(name, value)
                position = end + 1
                continue
            if len(rest) < end + 9:  # a binary field: name, newline, 64 bit little-endian length, data, newline
                break
            (size,) = struct.unpack_from("<Q", rest, end + 1)
            if size > MAX_FIELD:
                raise IntegrityError("lan.journal", f"a field of {size} bytes in a journal stream")
            if len(rest) < end + 9 + size + 1:
                break
            self._put(name, rest[end + 9 : end + 9 + size])
            position = end + 9 + size + 1
        self._rest = rest[position:]

    def _put(self, name: bytes, value: bytes) -> None:
        self._fields[name.decode("ascii", errors="replace")] = value.decode(errors="replace")


def encode(fields: dict[str, str]) -> bytes:
    """One entry in the export format, with the empty line that ends it."""
    parts = []
    for name, value in fields.items():
        data = value.encode()
        if "\n" in value:
            parts.append(name.encode() + b"\n" + struct.pack("<Q", len(data)) + data + b"\n")
        else:
            parts.append(name.encode() + b"=" + data + b"\n")
    return b"".join(parts) + b"\n"


def entry_of(number: int, fields: dict[str, str]) -> Entry:
    """An entry from its fields."""
    stamp = fields.get("_SOURCE_REALTIME_TIMESTAMP") or fields.get("__REALTIME_TIMESTAMP", "0")
    unit = fields.get("UNIT") or fields.get("_SYSTEMD_UNIT", "")
    return Entry(number, int(stamp) / 1e6, fields.get("BACKLINE_NODE", LAB), unit, fields.get("MESSAGE", ""), fields)


class Journal:
    """The journal of a lab that runs: written by many threads, awaited by many."""

    def __init__(self, file: IO[bytes] | None = None, *, keep: int = 400_000) -> None:
        """`file` gets every entry as it comes; `keep` bounds how many stay in memory."""
        self.entries: list[Entry] = []
        self._file = file
        self._keep = keep
        self._dropped = 0
        self._changed = threading.Condition()
        self._closed = False

    def add(self, node: str, fields: dict[str, str]) -> Entry:
        """Append an entry of `node`."""
        with self._changed:
            fields = {"__REALTIME_TIMESTAMP": str(int(time.time() * 1e6)), **fields, "BACKLINE_NODE": node}
            entry = entry_of(self._dropped + len(self.entries), fields)
            self.entries.append(entry)
            if len(self.entries) > self._keep:
                half = self._keep // 2
                self._dropped += len(self.entries) - half
                del self.entries[:-half]
            if self._file is not None and not self._file.closed:
                self._file.write(encode(fields))
            self._changed.notify_all()
            return entry

    def note(self, kind: str, message: str, *, node: str = LAB, priority: int = 5) -> Entry:
        """Append an entry of the lab's own."""
        own = {
            "MESSAGE": message,
            "BACKLINE_KIND": kind,
            "PRIORITY": str(priority),
            "SYSLOG_IDENTIFIER": "backline-lan",
        }
        return self.add(node, own)

    def mark(self) -> int:
        """The number that the next entry will have: waits begin there."""
        with self._changed:
            return self._dropped + len(self.entries)

    def wake(self) -> None:
        """Make everyone who waits look again: something changed that is no entry."""
        with self._changed:
            self._changed.notify_all()

    def since(self, number: int) -> list[Entry]:
        """Entries from `number` on."""
        with self._changed:
            return self.entries[max(0, number - self._dropped) :]

    def wait(
        self, wanted: Callable[[Entry], bool], *, since: int, deadline: float, stop: Callable[[], None] | None = None
    ) -> Entry | None:
        """The first entry from `since` on that is `wanted`; None past the deadline (`time.monotonic()`).

        `stop` is called before each pause, and ends the wait by raising.
        """
        number = since
        while True:
            with self._changed:
                new = self.entries[max(0, number - self._dropped) :]
                number = self._dropped + len(self.entries)
            for entry in new:
                if wanted(entry):
                    return entry
            if stop is not None:
                stop()
            with self._changed:
                if self._dropped + len(self.entries) > number:
                    continue
                if time.monotonic() >= deadline or self._closed:
                    return None
                self._changed.wait(max(0.0, deadline - time.monotonic()))

    def pause(self, seconds: float) -> None:
        """Wait for the next entry or `wake`, at most `seconds`: the events that make a wait look again."""
        with self._changed:
            self._changed.wait(seconds)

    def close(self) -> None:
        """End all waits; idempotent. The file is flushed and stays the caller's."""
        with self._changed:
            self._closed = True
            if self._file is not None and not self._file.closed:
                self._file.flush()
            self._changed.notify_all()

    def select(self, **how: object) -> list[Entry]:
        """Entries in memory, filtered as `select` does."""
        return list(select(self.since(0), **how))  # type: ignore[arg-type]

    def tail(self, nodes: Iterable[str], lines: int = 15, *, unit: str | None = None) -> str:
        """The last lines of each of `nodes`, for a message."""
        parts = []
        for node in nodes:
            last = [
                entry.line() for entry in self.since(0) if entry.node == node and (unit is None or entry.unit == unit)
            ]
            parts.append("\n".join(last[-lines:]) or f"(the journal has nothing of {node})")
        return "\n".join(parts)

    def flush(self) -> None:
        """Write out what is buffered, for readers of the file."""
        with self._changed:
            if self._file is not None and not self._file.closed:
                self._file.flush()


def select(
    entries: Iterable[Entry],
    *,
    node: str | None = None,
    unit: str | None = None,
    since: float | None = None,
    until: float | None = None,
    priority: int | None = None,
    grep: str | None = None,
) -> Iterator[Entry]:
    """Entries of a node, a unit, a span of time (seconds since 1970), at least that grave, with that in the message."""
    pattern = re.compile(grep) if grep else None
    for entry in entries:
        if (
            (node is None or entry.node == node)
            and (unit is None or entry.unit == unit)
            and (since is None or entry.time >= since)
            and (until is None or entry.time <= until)
            and (priority is None or entry.priority <= priority)
            and (pattern is None or pattern.search(entry.message))
        ):
            yield entry


def read(path: Path) -> list[Entry]:
    """A kept journal, in order of time. Raises MissingError("lan.journal"), IntegrityError("lan.journal")."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise MissingError("lan.journal", f"cannot be read: {error.strerror}", where=str(path)) from error
    try:
        entries = [entry_of(number, fields) for number, fields in enumerate(Parser().feed(data + b"\n"))]
    except IntegrityError as error:
        raise IntegrityError("lan.journal", f"not a journal of a lab: {error.message}", where=str(path)) from error
    return sorted(entries, key=lambda entry: entry.time)
