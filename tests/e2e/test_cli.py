"""`backline lan` and what it is told wrong: one line that names it, and what to do. No lab is started."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from e2e import control, halls, registry
from services.common.errors import Exit, MissingError, UsageError
from services.common.main import backline

Said = tuple[int, str]
Lan = Callable[..., Said]


@pytest.fixture
def lan(capsys: pytest.CaptureFixture[str]) -> Lan:
    def call(*words: str) -> Said:
        try:
            code = backline(["lan", *words])
        except SystemExit as end:
            code = int(end.code or 0)
        return code, capsys.readouterr().err.splitlines()[-1]

    return call


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("up", "--seats", "many"), "'many' is no number of things"),
        (("up", "--seats", "-3"), "'-3' is no number of things"),
        (("slow", "web:0", "--rate", "fast"), "'fast' is no rate: bit/s, such as 10M"),
        (("journal", "--grep", "["), "'[' is no regular expression"),
    ],
)
def test_a_word_that_makes_no_sense_is_named(lan: Lan, words: tuple[str, ...], said: str) -> None:
    code, line = lan(*words)
    assert (code, said in line) == (Exit.USAGE, True), line


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: a lab makes namespaces")
def test_a_name_that_could_not_be_a_file_is_refused_before_anything_is_made(lan: Lan) -> None:
    code, line = lan("up", "--name", "a/b")
    assert (code, "digits and dashes" in line) == (Exit.USAGE, True), line


def test_a_file_that_is_no_journal_is_named(lan: Lan, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"name\n" + b"\xff" * 8)
    code, line = lan("journal", "--file", str(tmp_path / "file"))
    assert (code, f"{tmp_path}/file: not a journal of a lab" in line) == (Exit.INTEGRITY, True), line


def test_a_lab_of_a_test_says_that_it_takes_no_commands() -> None:
    record = registry.Record(name="hall-1", owner=os.getpid(), owner_started=1)
    with pytest.raises(MissingError, match=f"hall-1 takes no commands: process {os.getpid()}"):
        control.client(record)


def test_a_gw_that_is_something_else_is_told_as_a_mistake_of_the_topology() -> None:
    with pytest.raises(UsageError, match="the node gw has the role rhfs"):
        halls.make(roles={"gw": "rhfs"})
