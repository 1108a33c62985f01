"""The folder of the files: all of them change at once, and nobody reads half of one."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from services.common.errors import HostError
from services.identity.accounts import FILES, SHADOW
from services.identity.folder import Folder


def files(word: str) -> dict[str, str]:
    return {name: f"{word} {name}\n" * 200 for name in FILES}


def test_all_files_change_at_once_and_only_when_they_differ(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "identity")
    assert folder.read() is None
    assert folder.put(files("one"))
    assert (folder.read(), folder.number()) == (files("one"), 1)
    assert not folder.put(files("one"))
    assert folder.put(files("two"))
    assert (folder.read(), folder.number()) == (files("two"), 2)


def test_shadow_is_for_its_group_alone_and_the_rest_for_everybody(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "identity", shadow=os.getgid())
    before = os.umask(0o077)
    try:
        folder.put(files("one"))
    finally:
        os.umask(before)
    modes = {name: (folder.current / name).stat().st_mode & 0o7777 for name in FILES}
    assert modes == {name: 0o640 if name == SHADOW else 0o644 for name in FILES}
    assert {path.stat().st_mode & 0o777 for path in (folder.path, folder.sets, folder.sets / "1")} == {0o755}


def test_old_sets_go_and_what_a_dead_one_left_too(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "identity")
    folder.put(files("one"))
    (folder.sets / ".new").mkdir()
    (folder.sets / ".new/passwd").write_text("half")
    (folder.path / "current.new").symlink_to("generations/9")
    for number in range(4):
        folder.put(files(str(number)))
    assert sorted(path.name for path in folder.sets.iterdir()) == ["4", "5"]
    assert sorted(path.name for path in folder.path.iterdir()) == ["current", "generations"]


def test_a_reader_never_sees_anything_but_a_whole_file(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "identity")
    folder.put(files("0"))
    wrong: list[str] = []
    stop = threading.Event()

    def read() -> None:
        while not stop.is_set():
            for name in FILES:
                text = (folder.current / name).read_text()
                if text.count("\n") != 200 or len(set(text.splitlines())) != 1:
                    wrong.append(text)

    reader = threading.Thread(target=read)
    reader.start()
    for number in range(60):
        folder.put(files(str(number)))
    stop.set()
    reader.join()
    assert wrong == []


def test_a_folder_that_cannot_be_written_is_said_and_the_files_stay(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "identity")
    folder.put(files("one"))
    (folder.sets / ".new").write_text("a file where a folder is to be")
    with pytest.raises(HostError, match=r"\.new"):
        folder.put(files("two"))
    assert folder.read() == files("one")
