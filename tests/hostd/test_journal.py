"""Reading journalctl's JSON: whatever a program logs, an entry or nothing comes out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.errors import HostError
from services.hostd.journal import OVERHEAD, JournalReader, newest, parse_entry
from services.hostd.schema import JournalEntry


def entry(**fields: object) -> JournalEntry | None:
    return parse_entry(msgspec.json.encode({"__REALTIME_TIMESTAMP": "1700000000500000", **fields}).decode())


def test_an_entry_is_read() -> None:
    assert entry(MESSAGE="hello", PRIORITY="4", SYSLOG_IDENTIFIER="sshd", _PID="7", REQUEST_ID="r") == JournalEntry(
        time=1_700_000_000.5, message="hello", priority=4, identifier="sshd", pid=7, request_id="r"
    )


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("two\nlines", "two\nlines"),
        (None, None),
        ([104, 105, 255], "hi\ufffd"),
        (["first", "second"], "first"),
        ([[104, 105], "second"], "hi"),
        ([], ""),
        ([300], None),
        ({}, None),
        (5, None),
    ],
)
def test_a_message_comes_in_many_forms(value: object, message: str | None) -> None:
    found = entry(MESSAGE=value)
    assert found is not None
    assert found.message == message


@pytest.mark.parametrize("line", ["", "{", "[]", "null", "-- No entries --", '{"MESSAGE": "no time"}', "\ud800"])
def test_a_line_that_is_no_entry_is_left_out(line: str) -> None:
    assert parse_entry(line) is None


JSON = st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda inner: st.lists(inner, max_size=3))


@given(st.dictionaries(st.sampled_from(["MESSAGE", "PRIORITY", "_PID", "__REALTIME_TIMESTAMP", "REQUEST_ID"]), JSON))
def test_any_fields_give_an_entry_or_nothing(fields: dict[str, Any]) -> None:
    try:
        line = msgspec.json.encode(fields).decode()
    except (OverflowError, UnicodeEncodeError):
        return
    assert isinstance(parse_entry(line), JournalEntry | None)


@given(st.lists(st.text(max_size=50), max_size=20), st.integers(0, 3000))
def test_what_is_kept_is_the_end_and_fits(messages: list[str], size: int) -> None:
    entries = [JournalEntry(time=float(index), message=text) for index, text in enumerate(messages)]
    kept = newest(entries, size)
    assert kept == entries[len(entries) - len(kept) :]
    used = sum(len((each.message or "").encode()) + OVERHEAD for each in kept)
    assert used <= size
    if len(kept) < len(entries):
        following = entries[len(entries) - len(kept) - 1]
        assert used + len((following.message or "").encode()) + OVERHEAD > size


def program(folder: Path, body: str) -> str:
    """A stand-in for journalctl that misbehaves in one way."""
    path = folder / "journalctl"
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return str(path)


def test_the_unit_and_the_limits_reach_journalctl_as_words(tmp_path: Path) -> None:
    reader = JournalReader(seconds=5, size=1000, program=program(tmp_path, f'printf "%s\\n" "$@" > {tmp_path}/argv'))
    reader.read("a@b.service", lines=5000)
    words = (tmp_path / "argv").read_text().splitlines()
    assert "--unit=a@b.service" in words
    assert "--lines=1000" in words


def test_a_journalctl_that_hangs_is_given_up(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="did not end before its deadline"):
        JournalReader(seconds=0.1, size=1000, program=program(tmp_path, "exec sleep 60")).read("a.service", lines=1)


def test_a_journalctl_that_fails_is_told(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="no permission") as caught:
        JournalReader(seconds=5, size=1000, program=program(tmp_path, "echo no permission >&2; exit 1")).read(
            "a.service", lines=1
        )
    assert caught.value.code == "journal.unreadable"


def test_what_does_not_fit_is_left_out_and_said(tmp_path: Path) -> None:
    line = '{"__REALTIME_TIMESTAMP":"1","MESSAGE":"%s"}' % ("x" * 400)
    reader = JournalReader(seconds=5, size=1024, program=program(tmp_path, f"for i in 1 2 3; do echo '{line}'; done"))
    journal = reader.read("a.service", lines=3)
    assert (len(journal.entries), journal.truncated) == (2, True)
