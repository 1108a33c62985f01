"""Logging of every service: structured to the journal, human on a terminal.

`setup` picks one of three ways, in this order: stderr is the journal's stream and its native socket is there →
fields (https://systemd.io/JOURNAL_NATIVE_PROTOCOL/); stderr is the journal's stream → lines with a `<N>` priority
prefix (sd-daemon(3)); anything else → plain lines. Code logs with the standard `logging`; fields go in
`extra={"fields": {"unit": name}}` and become UNIT=. The id of the HTTP request being served is added by itself.

The native protocol is spoken here and not by pystemd.journal: that one adds the place in its own C source as CODE_FILE,
and costs 8 MB in every service.
"""

from __future__ import annotations

import contextvars
import errno
import fcntl
import logging
import os
import socket
import struct
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import TextIO

JOURNAL_SOCKET = Path("/run/systemd/journal/socket")

request_id: contextvars.ContextVar[str | None] = contextvars.ContextVar("request_id", default=None)


def priority(level: int) -> int:
    """The syslog priority (syslog(3), 0 to 7) of a level of `logging`."""
    for floor, number in ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6)):
        if level >= floor:
            return number
    return 7


def field_name(name: str) -> str | None:
    """A journal field name: capitals, digits and underscores, 64 at most, no leading underscore or digit; or None.

    As in systemd.journal-fields(7); a leading underscore marks fields that only the journal itself may set.
    """
    upper = "".join(char if char.isascii() and char.isalnum() else "_" for char in name.upper()).lstrip("_")
    return upper[:64] if upper and not upper[0].isdigit() else None


def record_fields(record: logging.LogRecord) -> dict[str, str]:
    """Every journal field of a log record. A traceback is part of MESSAGE, as journalctl shows that."""
    fields: dict[str, str] = {}
    extra = getattr(record, "fields", None)
    if isinstance(extra, Mapping):
        for name, value in extra.items():
            if (key := field_name(str(name))) is not None and value is not None:
                fields[key] = str(value)
    message = record.getMessage()
    if record.exc_info and record.exc_info[0] is not None:
        message += "\n" + "".join(traceback.format_exception(*record.exc_info)).rstrip()
    fields |= {
        "MESSAGE": message,
        "PRIORITY": str(priority(record.levelno)),
        "LOGGER": record.name,
        "CODE_FILE": record.pathname,
        "CODE_LINE": str(record.lineno),
        "CODE_FUNC": record.funcName or "",
    }
    if (current := request_id.get()) is not None:
        fields["REQUEST_ID"] = current
    return fields


def native_message(fields: Mapping[str, str]) -> bytes:
    """One entry in the journal's native protocol: a value with a newline has its length before it."""
    parts = []
    for name, value in fields.items():
        data = value.encode(errors="surrogateescape")
        if b"\n" in data:
            parts.append(name.encode() + b"\n" + struct.pack("<Q", len(data)) + data + b"\n")
        else:
            parts.append(name.encode() + b"=" + data + b"\n")
    return b"".join(parts)


class JournalHandler(logging.Handler):
    """Sends records with their fields to the journal. A journal that restarts loses what is sent meanwhile."""

    def __init__(self, identifier: str, path: Path = JOURNAL_SOCKET) -> None:
        super().__init__()
        self.identifier = identifier
        self.path = str(path)
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)

    def emit(self, record: logging.LogRecord) -> None:
        try:
            message = native_message(record_fields(record) | {"SYSLOG_IDENTIFIER": self.identifier})
            try:
                self.socket.sendto(message, self.path)
            except OSError as error:
                if error.errno not in (errno.EMSGSIZE, errno.ENOBUFS):
                    raise
                self._send_file(message)
        except Exception:
            self.handleError(record)

    def close(self) -> None:
        self.socket.close()
        super().close()

    def _send_file(self, message: bytes) -> None:
        """What is too large for a datagram goes as a sealed memfd."""
        descriptor = os.memfd_create("journal", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            with open(descriptor, "wb", closefd=False) as file:
                file.write(message)
            seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL
            fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
            rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack("i", descriptor))
            self.socket.sendmsg([], [rights], 0, self.path)  # not send_fds(): it forgets the address (Python 3.11)
        finally:
            os.close(descriptor)


class LineHandler(logging.StreamHandler[TextIO]):
    """Writes records as lines; with `prefix`, each line begins with the `<N>` that the journal reads."""

    def __init__(self, stream: TextIO, *, prefix: bool) -> None:
        super().__init__(stream)
        self.prefix = prefix

    def format(self, record: logging.LogRecord) -> str:
        fields = record_fields(record)
        text = fields["MESSAGE"]
        request = f" [{fields['REQUEST_ID']}]" if "REQUEST_ID" in fields else ""
        if self.prefix:
            mark = f"<{fields['PRIORITY']}>"
            return "\n".join(mark + line for line in f"{text}{request}".split("\n"))
        return f"{record.levelname.lower()}: {text}{request}"


def to_journal(environ: Mapping[str, str], descriptor: int) -> bool:
    """Is `descriptor` the stream that systemd connected to the journal ($JOURNAL_STREAM, systemd.exec(5))?"""
    device, _, inode = environ.get("JOURNAL_STREAM", "").partition(":")
    if not device.isdecimal() or not inode.isdecimal():
        return False
    try:
        status = os.fstat(descriptor)
    except OSError:
        return False
    return (status.st_dev, status.st_ino) == (int(device), int(inode))


def choose_handler(identifier: str, environ: Mapping[str, str], stream: TextIO) -> logging.Handler:
    """The handler that fits where stderr goes."""
    try:
        descriptor = stream.fileno()
    except (OSError, ValueError):
        return LineHandler(stream, prefix=False)
    if not to_journal(environ, descriptor):
        return LineHandler(stream, prefix=False)
    return JournalHandler(identifier) if JOURNAL_SOCKET.is_socket() else LineHandler(stream, prefix=True)


def setup(identifier: str, *, level: int = logging.INFO, environ: Mapping[str, str] | None = None) -> logging.Handler:
    """Send the whole process's logging to one handler, and return it. Other handlers of the root logger are removed."""
    handler = choose_handler(identifier, os.environ if environ is None else environ, sys.stderr)
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level)
    logging.getLogger("uvicorn.access").propagate = False  # the application logs requests itself, with their id
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)  # starting and stopping is the notifier's to tell
    logging.getLogger("httpx2").setLevel(logging.WARNING)  # netboot alone would write a line a second
    return handler
