"""What command lines of services have in common: options, and answers that people read.

Imported at every start of a command, so it imports nothing that is slow. Text of others goes through `one_line` before
it reaches a terminal: `table` does it by itself.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from services.common.errors import Exit

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
