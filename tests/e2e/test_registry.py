"""The labs of a host: a name is taken once, and what a dead owner left does not stand in the way."""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path

import msgspec
import pytest

from e2e import cgroups, registry
from services.common.errors import BusyError, MissingError, UsageError


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(registry, "FOLDER", tmp_path / "labs")
    monkeypatch.setattr(cgroups, "left_behind", dict)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path / "labs"


def dead(name: str) -> registry.Record:
    """A record whose owner has ended."""
    process = subprocess.Popen(["true"])
    process.wait()
    record = registry.Record(name=name, owner=process.pid, owner_started=1)
    registry.FOLDER.mkdir(exist_ok=True)
    (registry.FOLDER / f"{name}.json").write_bytes(msgspec.json.encode(record))
    return record


def test_a_name_that_is_taken_is_refused_with_the_way_out() -> None:
    registry.claim("one")
    with pytest.raises(BusyError) as caught:
        registry.claim("one")
    assert "backline lan down one" in (caught.value.hint or "")


def test_a_name_of_a_dead_owner_is_free() -> None:
    dead("one")
    registry.claim("one")
    assert registry.labs()["one"].owner == os.getpid()


def test_a_process_id_that_came_back_is_not_the_owner() -> None:
    record = registry.Record(name="one", owner=os.getpid(), owner_started=1)
    assert not record.alive


@pytest.mark.parametrize("name", ["", "A", "-a", "a/b", "a" * 32, ".."])
def test_a_name_that_could_not_be_a_file_or_cgroup_is_refused(name: str) -> None:
    with pytest.raises(UsageError):
        registry.claim(name)


def lab(name: str) -> None:
    """A lab of this process."""
    registry.write(registry.claim(name), keeper=1, topology="hall")


def test_the_only_lab_needs_no_name() -> None:
    registry.claim("engine-of-containers")
    lab("one")
    assert registry.find(None).name == "one"
    lab("two")
    with pytest.raises(UsageError, match="which lab: one, two"):
        registry.find(None)


def test_a_lab_that_is_not_there_is_named_with_the_nearest() -> None:
    registry.claim("newcomer")
    with pytest.raises(MissingError) as caught:
        registry.find("newcomr")
    assert caught.value.hint == "did you mean newcomer?"


def test_leftovers_are_those_of_the_dead() -> None:
    registry.claim("alive")
    dead("gone")
    assert registry.leftovers() == ["gone"]
    registry.clean_one("gone")
    assert registry.leftovers() == []


def test_a_lab_that_lives_is_not_cleaned() -> None:
    registry.claim("alive")
    with pytest.raises(BusyError):
        registry.clean_one("alive")


def test_a_record_that_is_released_leaves_no_file(folder: Path) -> None:
    registry.release(registry.claim("one"))
    assert not folder.exists()


def test_a_journal_of_a_dead_process_is_found_by_its_lab_and_one_that_was_kept_is_not() -> None:
    descriptor, path = registry.make_journal("hall-1")
    assert registry.journals() == {}, "its process lives"
    os.close(descriptor)
    assert registry.journals() == {"hall-1": [path]}
    kept = registry.keep_journal(path)
    assert (kept.exists(), registry.journals()) == (True, {})
    assert registry.keep_journal(kept) == kept


def test_a_journal_in_a_file_of_ones_own_is_never_renamed(tmp_path: Path) -> None:
    path = tmp_path / "elsewhere" / "backline-lan-hall-abcdefgh.journal"
    assert registry.keep_journal(path) == path


def test_cleaning_removes_the_journals_of_dead_labs() -> None:
    descriptor, path = registry.make_journal("hall-2")
    os.close(descriptor)
    assert registry.clean() == ["hall-2"]
    assert not path.exists()
