"""What command lines of services have in common: options, and answers that people read.

Imported at every start of a command, so it imports nothing that is slow. Text of others goes through `one_line` before
it reaches a terminal: `table` does it by itself.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from services.common.errors import Exit, UsageError

if TYPE_CHECKING:
    from services.common.formats import Format

T = TypeVar("T")
N = TypeVar("N")
Run = Callable[[argparse.Namespace], int]


def settings_options(name: str) -> argparse.ArgumentParser:
    """The parent of commands that read the settings of service `name`."""
    told = f"settings; /etc/backline/{name}.toml when it exists"
    parent = argparse.ArgumentParser(add_help=False)
    parent.add_argument("--config", type=Path, metavar="FILE", help=told)
    return parent


def service_options(name: str) -> argparse.ArgumentParser:
    """The parent of the command that runs service `name`."""
    parent = argparse.ArgumentParser(add_help=False, parents=[settings_options(name)])
    parent.add_argument("--listen", action="append", default=[], metavar="ADDRESS", help="unix:/path or host:port")
    return parent


def asking_options(where: str) -> argparse.ArgumentParser:
    """The parent of commands that ask a service; `where` says what its address may be."""
    parent = argparse.ArgumentParser(add_help=False)
    parent.add_argument("--address", metavar="ADDRESS", help=where)
    json_option(parent)
    return parent


def place_of(said: str | None, own: str) -> str:
    """Which service a command asks: the one that was said; `own`, the socket of this host's; else, where this host has
    none, the one of that name that this user is logged in to, as `https://udb.prolo` for `unix:/.../udb.sock`.

    Raises UsageError("client.which") when that is more than one.
    """
    from urllib.parse import urlsplit

    from services.common import saved_sessions

    socket = Path(own.removeprefix("unix:"))
    if said is not None or socket.exists():
        return said or own
    try:
        known = saved_sessions.load(saved_sessions.file_of())
    except RuntimeError:  # no home
        known = {}
    found = sorted(address for address in known if (urlsplit(address).hostname or "").split(".")[0] == socket.stem)
    if len(found) > 1:
        raise UsageError("client.which", f"you are logged in at {' and '.join(found)}", hint="say which: --address")
    return found[0] if found else own


def json_option(parser: argparse.ArgumentParser) -> None:
    """The option for scripts."""
    parser.add_argument("--json", action="store_true", help="print the answer as JSON")


def gc_options() -> argparse.ArgumentParser:
    """The parent of commands that collect versions (`services.common.collecting`)."""
    parent = argparse.ArgumentParser(add_help=False)
    parent.add_argument("--keep", type=int, metavar="N", help="leave the N newest of a role, used or not")
    parent.add_argument("--plan", action="store_true", help="only say what would be removed, and why the rest stays")
    return parent


def print_json(answer: object) -> int:
    """An answer as JSON; the exit code of a command that went well."""
    from services.common.codec import encode_json

    print(encode_json(answer).decode())
    return int(Exit.OK)


def table(rows: Sequence[Sequence[str]]) -> int:
    """Rows in columns, the first one being the heads; the exit code of a command that went well."""
    shown = [[one_line(cell) for cell in row] for row in rows]
    widths = [max(len(row[column]) for row in shown) for column in range(len(shown[0]))]
    for row in shown:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    return int(Exit.OK)


def one_line(text: str) -> str:
    """Text of others on one line, without what could steer the terminal of who reads it."""
    return "".join(char if char.isprintable() else " " for char in text)


def moment(seconds: float | None, *, timespec: str = "seconds") -> str:
    """Seconds since the epoch, in the time of who reads it; "" for none."""
    if seconds is None:
        return ""
    return datetime.fromtimestamp(seconds, UTC).astimezone().isoformat(sep=" ", timespec=timespec)


def difference(before: dict[str, Any] | None, after: dict[str, Any] | None, telling: Sequence[str]) -> str:
    """What a change of a history changed, on one line; of a record that was made or removed the fields in `telling`."""
    if before is None or after is None:
        record = after or before or {}
        names = [name for name in telling if name in record]
        return one_line(", ".join(f"{name} {record[name]}" for name in names or sorted(record)))
    return one_line(", ".join(f"{name} {before[name]!r} → {after[name]!r}" for name in after))


def show_changes(before: Any, after: Any) -> None:
    """A line for each field of two structs that differs."""
    if before is None:
        return
    for name in after.__struct_fields__:
        then, now = getattr(before, name), getattr(after, name)
        if then != now and name not in ("revision", "updated"):
            print(f"  {name}: {_text(then)} → {_text(now)}")


def _text(value: object) -> str:
    return one_line(str(getattr(value, "value", value)))


def converted(values: object, kind: type[T], *, code: str) -> T:
    """Values of the command line as a struct. Raises UsageError(code)."""
    import msgspec

    from services.common.codec import convert
    from services.common.errors import UsageError

    try:
        return convert(values, kind)
    except msgspec.ValidationError as error:
        message = str(error).partition(" - at ")[0]
        raise UsageError(code, f"{message[:1].lower()}{message[1:]}") from error


def read_file(file: Path, *, area: str) -> bytes:
    """A file, or standard input for `-`. Raises InputError("AREA.file")."""
    if str(file) == "-":
        return sys.stdin.buffer.read()
    try:
        return file.read_bytes()
    except OSError as error:
        from services.common.errors import InputError

        raise InputError(f"{area}.file", f"cannot be read: {error.strerror}", where=str(file)) from error


def write_file(file: Path | None, content: bytes, *, area: str) -> None:
    """Write a file, or to standard output without one. Raises UsageError("AREA.file")."""
    if file is None:
        sys.stdout.write(content.decode())
        return
    try:
        file.write_bytes(content)
    except OSError as error:
        from services.common.errors import UsageError

        raise UsageError(f"{area}.file", f"cannot be written: {error.strerror}", where=str(file)) from error


def format_of(name: str | None, file: Path | None, *, area: str, usual: Format | None = None) -> Format:
    """The form that is said, else what the file's name says. Raises UsageError("AREA.format")."""
    from services.common.errors import UsageError
    from services.common.formats import Format

    if name is not None:
        return Format(name)
    ending = "" if file is None else file.suffix.removeprefix(".").lower()
    found = {"yml": Format.YAML, **{format.value: format for format in Format}}.get(ending, usual)
    if found is None:
        raise UsageError(f"{area}.format", f"is {file} CSV, JSON or YAML?", hint="--format csv")
    return found


class Chooser(Protocol[N]):
    """How a command finds what its words mean."""

    @property
    def what(self) -> str:
        """What people call one record, which is also the area of error codes: `machine`."""
        ...

    def asks(self, word: str) -> bool:
        """Whether a word is one of a query."""
        ...

    def one(self, name: str) -> N:
        """The record of a name. Raises RemoteError."""
        ...

    def found(self, query: str) -> Sequence[N]:
        """What a query finds."""
        ...

    def key(self, record: N) -> int:
        """Its id."""
        ...

    def names(self, record: N) -> Sequence[str]:
        """Every name of a range that means it."""
        ...


def chosen(chooser: Chooser[N], words: Sequence[str], *, area: str) -> list[N]:
    """The records that are meant, in the order of `words`: names and ranges, each of which has to be there; or, when
    all words are `field:value`, those that a query finds.

    Raises MissingError("WHAT.unknown"), UsageError("AREA.choice").
    """
    from services.common.errors import MissingError, UsageError
    from services.common.ranges import expand

    asked = [word for word in words if chooser.asks(word)]
    if asked and len(asked) < len(words):
        raise UsageError(f"{area}.choice", "either names and ranges, or a query of field:value words; not both")
    if asked:
        found = chooser.found(shlex.join(words))
        if not found:
            raise MissingError(f"{chooser.what}.unknown", f"no {chooser.what} has {' '.join(words)}")
        return list(found)
    records: dict[int, N] = {}
    for word in words:
        names = expand(word)
        if len(names) == 1:
            each = chooser.one(names[0])
            records.setdefault(chooser.key(each), each)
            continue
        by_name = {name: each for each in chooser.found(word) for name in chooser.names(each)}
        if absent := [name for name in names if name not in by_name]:
            more = f" and {len(absent) - 5} more" if len(absent) > 5 else ""
            raise MissingError(f"{chooser.what}.unknown", f"there is no {chooser.what} {', '.join(absent[:5])}{more}")
        for name in names:
            records.setdefault(chooser.key(by_name[name]), by_name[name])
    return list(records.values())
