"""Rollouts on disk: whole before a step or after it, whatever happens between."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.common.errors import HostError, MissingError
from services.rollout import machine
from services.rollout.schema import Plan, Rollout
from services.rollout.store import Store
from tests.rollout.hall import NEW, Hall, rows


def made(id: int) -> Rollout:
    hall = Hall(rows(3))
    return machine.begin(id, Plan(version=NEW), "alice", hall.channel, hall.now)


def opened(folder: Path) -> Store:
    store = Store(folder)
    store.load()
    return store


def test_what_was_saved_is_there_after_a_restart(tmp_path: Path) -> None:
    store = opened(tmp_path / "state")
    store.save(made(store.next_id))
    paused = machine.pause(store.one(1), "lunch", 1_800_000_001.0)
    store.save(paused)
    again = opened(tmp_path / "state")
    assert again.open() == [paused]
    assert again.next_id == 2


@pytest.mark.parametrize("call", ["write", "fsync", "replace"])
def test_a_save_that_fails_leaves_what_was_before(tmp_path: Path, call: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store = opened(tmp_path)
    before = made(1)
    store.save(before)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        if call == "fsync":
            patched.setattr("services.rollout.store.os.fsync", full)
        elif call == "replace":
            patched.setattr(Path, "replace", full)
        else:
            patched.setattr(Path, "open", full)
        with pytest.raises(HostError, match="No space left"):
            store.save(machine.pause(before, "lunch", 1_800_000_001.0))
    assert store.one(1) == before
    assert opened(tmp_path).one(1) == before


def test_a_file_that_cannot_be_read_is_left_alone_and_its_number_is_not_used_again(tmp_path: Path) -> None:
    (tmp_path / "7.json").write_text('{"id": 7')
    (tmp_path / ".8.new").write_text("half")
    store = opened(tmp_path)
    assert (store.all(), store.next_id) == ([], 8)
    with pytest.raises(MissingError):
        store.one(7)
    assert (tmp_path / "7.json").exists()


def test_what_a_newer_version_wrote_is_read_as_far_as_it_is_known(tmp_path: Path) -> None:
    store = opened(tmp_path)
    store.save(made(1))
    file = tmp_path / "1.json"
    file.write_text(file.read_text().replace('{"id":1', '{"colour":"blue","id":1'))
    assert opened(tmp_path).one(1) == store.one(1)
