"""The merged journal: its format survives any cut of the stream, waits end when they should, filters find."""

from __future__ import annotations

import io
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from e2e.journal import Journal, Parser, encode, read, select
from services.common.errors import IntegrityError, MissingError

NAMES = st.text("ABCDEFGHIJKLMNOPQRSTUVWXYZ_", min_size=1, max_size=12)
VALUES = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=60)


@given(st.lists(st.dictionaries(NAMES, VALUES, min_size=1, max_size=4), max_size=4), st.integers(1, 40))
def test_what_is_encoded_is_parsed_again_however_the_stream_is_cut(entries: list[dict[str, str]], piece: int) -> None:
    data = b"".join(encode(entry) for entry in entries)
    parser, found = Parser(), []
    for start in range(0, len(data), piece):
        found += list(parser.feed(data[start : start + piece]))
    assert found == entries


def test_a_value_of_several_lines_is_a_binary_field() -> None:
    assert encode({"MESSAGE": "one\ntwo"}) == b"MESSAGE\n\x07\0\0\0\0\0\0\0one\ntwo\n\n"


def test_a_field_of_an_absurd_size_is_refused() -> None:
    with pytest.raises(IntegrityError):
        list(Parser().feed(b"MESSAGE\n" + b"\xff" * 8))


def test_an_entry_knows_its_node_unit_time_and_message() -> None:
    entry = Journal().add("gw", {"MESSAGE": "hi", "_SYSTEMD_UNIT": "x.service", "__REALTIME_TIMESTAMP": "1500000"})
    assert (entry.node, entry.unit, entry.time, entry.message) == ("gw", "x.service", 1.5, "hi")


def test_what_systemd_says_of_a_unit_is_the_units() -> None:
    entry = Journal().add("gw", {"MESSAGE": "Started", "_SYSTEMD_UNIT": "init.scope", "UNIT": "x.service"})
    assert entry.unit == "x.service"


def test_a_wait_finds_what_came_before_it_and_what_comes_later() -> None:
    journal = Journal()
    mark = journal.mark()
    journal.note("step", "first")
    deadline = time.monotonic() + 5
    first = journal.wait(lambda entry: entry.message == "first", since=mark, deadline=deadline)
    later = threading.Timer(0.05, lambda: journal.note("step", "second"))
    later.start()
    second = journal.wait(lambda entry: entry.message == "second", since=mark, deadline=deadline)
    later.join()
    assert [entry.message for entry in (first, second) if entry] == ["first", "second"]


def test_a_wait_ends_at_its_deadline() -> None:
    journal = Journal()
    assert journal.wait(lambda _: True, since=journal.mark(), deadline=time.monotonic() + 0.05) is None


def test_a_wait_ends_by_what_stop_raises() -> None:
    def stop() -> None:
        raise RuntimeError

    with pytest.raises(RuntimeError):
        Journal().wait(lambda _: True, since=0, deadline=time.monotonic() + 5, stop=stop)


def test_a_wait_ends_when_the_journal_is_closed() -> None:
    journal = Journal()
    threading.Timer(0.05, journal.close).start()
    began = time.monotonic()
    assert journal.wait(lambda _: True, since=0, deadline=began + 30) is None
    assert time.monotonic() - began < 5


def test_what_is_too_old_is_forgotten_and_numbers_go_on() -> None:
    journal = Journal(keep=10)
    for number in range(25):
        journal.note("step", str(number))
    assert journal.mark() == 25
    assert journal.since(24)[0].message == "24"
    assert len(journal.since(0)) <= 10


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ({"node": "gw"}, ["a", "b"]),
        ({"unit": "y.service"}, ["b", "c"]),
        ({"since": 2.0}, ["b", "c"]),
        ({"until": 2.0}, ["a", "b"]),
        ({"priority": 3}, ["c"]),
        ({"grep": "^[ab]$"}, ["a", "b"]),
        ({"node": "gw", "unit": "y.service"}, ["b"]),
    ],
)
def test_entries_are_filtered(how: dict[str, object], expected: list[str]) -> None:
    journal = Journal()
    rows = [("gw", "x.service", 1, "6", "a"), ("gw", "y.service", 2, "6", "b"), ("web", "y.service", 3, "3", "c")]
    for node, unit, seconds, priority, message in rows:
        stamp = str(seconds * 1_000_000)
        fields = {"MESSAGE": message, "UNIT": unit, "PRIORITY": priority, "__REALTIME_TIMESTAMP": stamp}
        journal.add(node, fields)
    assert [entry.message for entry in select(journal.since(0), **how)] == expected  # type: ignore[arg-type]


def test_a_kept_file_is_read_again_in_order_of_time(tmp_path: Path) -> None:
    path = tmp_path / "lab.journal"
    with path.open("wb") as file:
        journal = Journal(file)
        journal.add("web", {"MESSAGE": "late", "__REALTIME_TIMESTAMP": "2000000"})
        journal.add("gw", {"MESSAGE": "early\nin two lines", "__REALTIME_TIMESTAMP": "1000000"})
        journal.close()
    assert [(entry.node, entry.message) for entry in read(path)] == [("gw", "early\nin two lines"), ("web", "late")]


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="No such file"):
        read(tmp_path / "nowhere")


def test_a_tail_has_the_last_lines_of_each_node() -> None:
    journal = Journal(io.BytesIO())
    for number in range(5):
        journal.add("gw", {"MESSAGE": f"line {number}", "SYSLOG_IDENTIFIER": "x"})
    lines = journal.tail(["gw", "web"], 2).splitlines()
    assert [line.rpartition(": ")[2] for line in lines[:2]] == ["line 3", "line 4"]
    assert lines[2] == "(the journal has nothing of web)"
