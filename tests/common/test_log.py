"""Logging: the right fields in a real journal, prefixes on its stream, plain lines for people."""

from __future__ import annotations

import io
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common import log
from tests.common.journal_rig import in_journal

WRITE = """
import logging, sys
from services.common import log
from services.common.process import run
log.setup("backline-demo")
logger = logging.getLogger("services.demo")
log.request_id.set("req-1")
{body}
run(["journalctl", "--sync"])
print(run(["journalctl", "--output=json", "--all", "--identifier=backline-demo", "--no-pager", "--quiet"]).stdout)
"""


def written(body: str) -> list[dict[str, Any]]:
    done = in_journal(WRITE.format(body=body))
    return [msgspec.json.decode(line) for line in done.stdout.splitlines() if line]


def test_a_record_arrives_in_the_journal_with_its_fields() -> None:
    entry = written('logger.warning("%s is late", "b", extra={"fields": {"unit-name": "b.service", "_PID": "1"}})')[0]
    assert (entry["MESSAGE"], entry["PRIORITY"], entry["LOGGER"]) == ("b is late", "4", "services.demo")
    assert (entry["UNIT_NAME"], entry["REQUEST_ID"], entry["PID"]) == ("b.service", "req-1", "1")
    assert (entry["CODE_FILE"], entry["CODE_LINE"], entry["CODE_FUNC"]) == ("<string>", "8", "<module>")
    assert entry["_TRANSPORT"] == "journal"


def test_lines_tracebacks_and_very_long_messages_arrive_whole() -> None:
    first, second = written(
        'try:\n    raise ValueError("two\\nlines")\nexcept ValueError:\n    logger.exception("broken")\n'
        'logger.info("é" * 300_000)'
    )
    assert first["MESSAGE"].startswith("broken\nTraceback")
    assert first["MESSAGE"].endswith("ValueError: two\nlines")
    assert second["MESSAGE"] == "é" * 300_000


def test_without_the_native_socket_lines_on_the_stream_carry_their_priority() -> None:
    done = in_journal(
        "import logging, pathlib\nfrom services.common import log\nfrom services.common.process import run\n"
        "pathlib.Path('/run/systemd/journal/socket').unlink()\nlog.setup('x')\nlogging.error('one\\ntwo')\n"
        "run(['journalctl', '--sync'])\n"
        "print(run(['journalctl', '--output=json', '--identifier=demo', '--no-pager', '--quiet']).stdout)"
    )
    entries = [msgspec.json.decode(line) for line in done.stdout.splitlines() if line]
    assert [(entry["MESSAGE"], entry["PRIORITY"]) for entry in entries] == [("one", "3"), ("two", "3")]


@pytest.fixture
def root_logger() -> Iterator[logging.Logger]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield root
    root.handlers[:] = handlers
    root.setLevel(level)


def test_people_read_plain_lines(root_logger: logging.Logger, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    log.setup("x", environ={"JOURNAL_STREAM": "1:2"})
    token = log.request_id.set("abc")
    logging.getLogger("a").info("%d seats", 3)
    log.request_id.reset(token)
    logging.getLogger("a").warning("none")
    logging.getLogger("a").debug("not shown")
    assert stream.getvalue() == "info: 3 seats [abc]\nwarning: none\n"


@pytest.mark.parametrize("value", ["", "1", "1:", "x:y", ":", "1:2:3"])
def test_a_malformed_journal_stream_is_none(value: str) -> None:
    assert not log.to_journal({"JOURNAL_STREAM": value}, 2)


def test_the_journal_stream_is_recognised_by_device_and_inode(tmp_path: Path) -> None:
    with (tmp_path / "f").open("w") as file:
        status = os.fstat(file.fileno())
        assert log.to_journal({"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"}, file.fileno())
        assert not log.to_journal({"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino + 1}"}, file.fileno())


@given(st.text(max_size=80))
def test_field_names_are_what_the_journal_takes(name: str) -> None:
    field = log.field_name(name)
    if field is not None:
        assert 1 <= len(field) <= 64
        assert set(field) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_")
        assert field[0] not in "_0123456789"


def parsed(message: bytes) -> dict[str, str]:
    """The journal's side of the native protocol."""
    fields = {}
    while message:
        line, _, message = message.partition(b"\n")
        name, mark, value = line.partition(b"=")
        if not mark:
            size = int.from_bytes(message[:8], "little")
            value, message = message[8 : 8 + size], message[8 + size + 1 :]
        fields[name.decode()] = value.decode()
    return fields


@given(st.dictionaries(st.sampled_from(["MESSAGE", "A", "UNIT_NAME"]), st.text(max_size=40)))
def test_the_native_protocol_keeps_every_value(fields: dict[str, str]) -> None:
    assert parsed(log.native_message(fields)) == fields
