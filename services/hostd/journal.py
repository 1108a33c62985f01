"""The journal of one unit, through journalctl(1).

Bounded on every side: the number of entries, the size of a field (journalctl leaves out what is longer than 4096
bytes), the fields asked for, the time, and the size of the answer, of which the oldest entries go first.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import msgspec

from services.common.errors import HostError
from services.common.process import ProcessFailed, run
from services.hostd.schema import LINES_MAX, Journal, JournalEntry

FIELDS = "MESSAGE,PRIORITY,SYSLOG_IDENTIFIER,_PID,REQUEST_ID"
OVERHEAD = 100  # bytes of JSON around a message


class JournalReader:
    """Runs `journalctl` (another program in tests) for at most `seconds`, and gives at most `size` bytes."""

    def __init__(self, *, seconds: float, size: int, program: str = "journalctl") -> None:
        self.seconds = seconds
        self.size = size
        self.program = program

    def read(self, unit: str, *, lines: int) -> Journal:
        """The newest `lines` entries of a unit whose name was checked. Raises HostError("journal.unreadable")."""
        argv = [
            self.program,
            "--output=json",
            f"--output-fields={FIELDS}",
            "--no-pager",
            "--quiet",
            f"--lines={min(lines, LINES_MAX)}",
            f"--unit={unit}",
        ]
        try:
            done = run(argv, deadline=time.monotonic() + self.seconds)
        except ProcessFailed as error:
            raise HostError("journal.unreadable", f"the journal of {unit} cannot be read: {error.message}") from error
        entries = [entry for line in done.stdout.splitlines() if (entry := parse_entry(line)) is not None]
        kept = newest(entries, self.size)
        return Journal(unit, kept, truncated=len(kept) < len(entries))


def parse_entry(line: str) -> JournalEntry | None:
    """One line of `--output=json`; None for a line that is none, as when journalctl was cut off.

    A value is text, null when it was too long, a list of byte values when it is not UTF-8, and a list of these when
    the entry has the field several times: the first counts (https://systemd.io/JOURNAL_EXPORT_FORMATS/).
    """
    try:
        fields = msgspec.json.decode(line, type=dict[str, object])
    except (msgspec.DecodeError, UnicodeError):
        return None
    stamp = number(fields, "__REALTIME_TIMESTAMP")
    if stamp is None:
        return None
    return JournalEntry(
        time=stamp / 1_000_000,
        message=text(fields, "MESSAGE"),
        priority=number(fields, "PRIORITY"),
        identifier=text(fields, "SYSLOG_IDENTIFIER"),
        pid=number(fields, "_PID"),
        request_id=text(fields, "REQUEST_ID"),
    )


def text(fields: Mapping[str, object], name: str) -> str | None:
    """A field as text; None where it is missing, too long, or of no known form."""
    value = fields.get(name)
    if isinstance(value, list) and value and not isinstance(value[0], int):
        value = value[0]
    if isinstance(value, list) and all(isinstance(item, int) and 0 <= item < 256 for item in value):
        return bytes(value).decode(errors="replace")
    return value if isinstance(value, str) else None


def number(fields: Mapping[str, object], name: str) -> int | None:
    """A field as a whole number that is not negative."""
    value = text(fields, name)
    return int(value) if value is not None and value.isascii() and value.isdecimal() and len(value) < 20 else None


def newest(entries: Sequence[JournalEntry], size: int) -> list[JournalEntry]:
    """As many of the last entries as fit into `size` bytes."""
    kept: list[JournalEntry] = []
    for entry in reversed(entries):
        size -= len((entry.message or "").encode(errors="replace")) + OVERHEAD
        if size < 0:
            break
        kept.append(entry)
    return kept[::-1]
