"""What travels in a feed: structs, and their form as Server-Sent Events. Pure.

The format is the web's own (WHATWG HTML, "Server-sent events"). Three kinds of events:

- `snapshot`: a part of the whole state, at most `PART` records; the last part has `last` and an id.
- `change`: one change, with its id.
- a comment line, when whoever comes back has all that is new, and every `KEEP_ALIVE_SECONDS` when there is nothing
  else: a peer that is gone is noticed.

An id is `<log>-<revision>`: the log's random name changes when a database is made anew or restored, so a subscriber
can never take revision 7 of one history for revision 7 of another.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import msgspec

from services.common.errors import IntegrityError

KEEP_ALIVE_SECONDS = 10.0
PART = 200
LINE_MAX = 4 * 1024 * 1024
_POSITION = re.compile(r"(?P<log>[0-9a-f]{16})-(?P<revision>[0-9]{1,18})")

Record = dict[str, Any]
"""A record as its owner publishes it: JSON, with the fields that the owner's documentation names."""


class Kind(Enum):
    """What happened to a record."""

    CREATED = "created"
    UPDATED = "updated"
    DELETED = "deleted"


@dataclass(frozen=True, order=True)
class Position:
    """A place in the history of a feed."""

    log: str
    revision: int

    def __str__(self) -> str:
        return f"{self.log}-{self.revision}"

    @classmethod
    def parse(cls, text: str | None) -> Position | None:
        """None for what is no position: such a subscriber gets a snapshot."""
        found = _POSITION.fullmatch(text or "")
        return cls(found["log"], int(found["revision"])) if found else None


class Item(msgspec.Struct, frozen=True):
    """One record of a snapshot."""

    topic: str
    key: str
    record: Record


class Snapshot(msgspec.Struct, frozen=True):
    """A part of the state at `revision`; the state is complete with the part that is `last`."""

    revision: int
    items: list[Item]
    last: bool


class Change(msgspec.Struct, frozen=True):
    """One change. `record` is the record afterwards, null when it was deleted; `at` is seconds since the epoch."""

    revision: int
    topic: str
    key: str
    kind: Kind
    at: float
    record: Record | None


@dataclass
class Event:
    """One Server-Sent Event as it was read."""

    kind: str = "message"
    data: str = ""
    id: str | None = None


def encode(kind: str, content: bytes, *, position: Position | None = None) -> bytes:
    """An event around one line of JSON."""
    identity = b"" if position is None else b"id: %s\n" % str(position).encode()
    return b"event: %s\n%sdata: %s\n\n" % (kind.encode(), identity, content)


@dataclass
class Parser:
    """Bytes in, events out; a line may come in pieces. Raises IntegrityError("feed.line") for one without an end."""

    comments: int = 0
    """How many lines were comments."""
    _rest: bytes = b""
    _event: Event = field(default_factory=Event)
    _lines: list[str] = field(default_factory=list)

    def feed(self, data: bytes) -> Iterator[Event]:
        """The events that `data` completes."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > LINE_MAX:
            raise IntegrityError("feed.line", f"a line of the feed is longer than {LINE_MAX} bytes")
        for raw in lines:
            line = raw.rstrip(b"\r").decode()
            if not line:
                if self._lines:
                    self._event.data = "\n".join(self._lines)
                    yield self._event
                self._event, self._lines = Event(), []
                continue
            name, _, value = line.partition(":")
            value = value.removeprefix(" ")
            match name:
                case "event":
                    self._event.kind = value
                case "data":
                    self._lines.append(value)
                case "id":
                    self._event.id = value
                case "":
                    self.comments += 1
                case _:  # a field of a later standard
                    pass
