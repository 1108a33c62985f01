"""Work beside a build: in order, waited for, and its failures are the build's. Layers get into the cache that way."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from builder import cache
from builder.later import Later


def test_work_is_done_in_the_order_in_which_it_was_given() -> None:
    done: list[int] = []
    with Later() as later:
        gate = threading.Event()
        later.do(gate.wait)
        for number in range(20):
            later.do(done.append, number)
        assert done == []
        gate.set()
        later.wait()
        assert done == list(range(20))


def test_leaving_the_block_waits_and_raises_what_failed() -> None:
    later = Later()
    with pytest.raises(ZeroDivisionError), later:
        later.do(divmod, 1, 0)


def test_a_failure_of_the_build_itself_comes_first_and_what_waits_is_dropped() -> None:
    begun, gate = threading.Event(), threading.Event()
    done: list[str] = []

    def first() -> None:
        begun.set()
        gate.wait(10)
        done.append("first")

    def build() -> None:
        with Later() as later:
            later.do(first)
            later.do(done.append, "second")
            assert begun.wait(10)
            threading.Timer(0.1, gate.set).start()
            raise KeyError

    with pytest.raises(KeyError):
        build()
    assert done == ["first"]


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[Path]:
    """A folder on another file system."""
    folder = tmp_path / "memory"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", folder], check=True)
    yield folder
    subprocess.run(["umount", folder], check=True)


def _tree(folder: Path) -> Path:
    tree = folder / "tree"
    (tree / "etc").mkdir(parents=True)
    (tree / "etc/file").write_text("content")
    return tree


def test_a_layer_is_read_where_it_is_until_it_is_in_the_cache(tmp_path: Path, elsewhere: Path) -> None:
    tree, target = _tree(elsewhere), tmp_path / "layers" / "one"
    gate = threading.Event()
    with Later() as later:
        later.do(gate.wait)
        assert cache.keep(tree, target, later=later) == tree
        assert not target.exists()
        gate.set()
        later.wait()
        assert (tree / "etc/file").read_text() == (target / "etc/file").read_text() == "content"
        assert cache.usable(target)


def test_a_copy_that_has_no_room_fails_the_build_and_leaves_no_layer(tmp_path: Path, elsewhere: Path) -> None:
    tree = _tree(tmp_path)
    (tree / "big").write_bytes(bytes(2 << 20))
    subprocess.run(["mount", "-o", "remount,size=1m", elsewhere], check=True)
    target = elsewhere / "layers" / "one"
    with pytest.raises(Exception, match="No space left"), Later() as later:
        cache.keep(tree, target, later=later)
    assert not target.exists()


def test_without_room_a_layer_is_moved_at_once(tmp_path: Path, elsewhere: Path) -> None:
    tree, target = _tree(elsewhere), tmp_path / "layers" / "one"
    assert cache.keep(tree, target) == target
    assert not tree.exists()
    assert (target / "etc/file").read_text() == "content"
