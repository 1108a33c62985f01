"""What a machine's serial console says, as entries of the lab's journal.

A machine with a kernel of its own has no journal socket that reaches the lab. Its journal reaches it all the same,
when its kernel's command line has `systemd.journald.forward_to_console=1`: each message is a line, `[seconds]
program[pid]: text` (journald.conf(5), ForwardToConsole=). So a unit that fails is seen here as it is in a container,
and so is the end of the start.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from e2e.backend import UNIT_FAILED
from e2e.node import PROCESS_EXIT

COMMAND_LINE = (
    "console=ttyS0",
    "loglevel=4",
    "systemd.journald.forward_to_console=1",
    "systemd.show_status=no",
    # A machine whose kernel gives up starts again, and does not stand there.
    "oops=panic",
    "panic=5",
)
"""What to put on a kernel's command line so that `fields` understands its console."""
# ECMA-48: control sequences (CSI), other escapes, and control characters that are no end of a line.
_CONTROL = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b[@-Z\\-_c]|[\x00-\x09\x0b\x0c\x0e-\x1f\x7f]")
# Not only at the start of a line: a prompt or a notice before it may have had no end.
_FORWARDED = re.compile(r"\[ *\d+\.\d{6}\] (?P<program>[^\s\[]+)\[(?P<pid>\d+)\]: (?P<text>.*)$")
_UNIT = re.compile(
    r"(?P<unit>[\w:.@\\-]+\.(?:service|socket|mount|swap|automount|device|target|timer|path|scope|slice)): (?P<text>.*)"
)
_EXITED = re.compile(r"process exited, code=(?P<how>\w+), status=(?P<status>\d+)")
# Logged when the queue of jobs is empty for the first time: the moment of READY=1 in containers. In the initrd's own
# words there is no time of the initrd yet.
_FINISHED = re.compile(r"Startup finished in .*\(initrd\) \+ .*\(userspace\)")


class Lines:
    """Bytes of a console, in pieces as they come, as lines without colours; empty ones are left out."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> Iterator[str]:
        """The lines that end in `data`."""
        *whole, self._rest = re.split(rb"[\r\n]+", self._rest + data)
        yield from self._clean(whole)

    def end(self) -> Iterator[str]:
        """What came after the last end of a line."""
        rest, self._rest = self._rest, b""
        yield from self._clean([rest])

    def _clean(self, lines: list[bytes]) -> Iterator[str]:
        for line in lines:
            text = _CONTROL.sub("", line.decode(errors="replace")).rstrip()
            if text:
                yield text


def fields(line: str) -> dict[str, str]:
    """A journal entry of a line. Failures of units and core dumps get the MESSAGE_ID that journald gave them."""
    found = {"MESSAGE": line, "BACKLINE_KIND": "console", "SYSLOG_IDENTIFIER": "console", "PRIORITY": "6"}
    forwarded = _FORWARDED.search(line)
    if forwarded is None:
        return found
    found |= {"SYSLOG_IDENTIFIER": forwarded["program"], "SYSLOG_PID": forwarded["pid"]}
    of_unit = _UNIT.fullmatch(forwarded["text"])
    if of_unit is None or (forwarded["program"], forwarded["pid"]) != ("systemd", "1"):
        return found
    found["UNIT"] = of_unit["unit"]
    if of_unit["text"].startswith("Failed with result"):
        found |= {"MESSAGE_ID": UNIT_FAILED, "PRIORITY": "4"}
    elif exited := _EXITED.search(of_unit["text"]):
        found |= {"MESSAGE_ID": PROCESS_EXIT, "EXIT_CODE": exited["how"], "EXIT_STATUS": exited["status"]}
    return found


def is_finished(line: str) -> bool:
    """Whether this line says that the machine has reached its default target."""
    forwarded = _FORWARDED.search(line)
    return forwarded is not None and forwarded["program"] == "systemd" and bool(_FINISHED.match(forwarded["text"]))
