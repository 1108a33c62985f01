"""Deltas by libzstd, as programs of their own: what zstd(1) makes of them, and what is refused."""

from __future__ import annotations

import os
import random
import resource
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.common import patching
from services.common.process import run


def noise(seed: int, size: int) -> bytes:
    return random.Random(seed).randbytes(size)


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """A file, and another one that has most of it at another place."""
    old, new = tmp_path / "old", tmp_path / "new"
    content = noise(1, 3_000_000)
    old.write_bytes(content)
    new.write_bytes(noise(2, 5000) + content[:2_000_000] + b"changed" + content[2_000_500:])
    return old, new


def patch(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(patching.command(*words), capture_output=True, text=True)


def test_a_delta_has_what_is_new_and_gives_the_very_file(pair: tuple[Path, Path], tmp_path: Path) -> None:
    old, new = pair
    delta, made = tmp_path / "delta", tmp_path / "made"
    assert patch("make", old, new, delta).returncode == 0
    assert 5000 < delta.stat().st_size < 8000
    assert patch("apply", old, delta, str(new.stat().st_size), made).returncode == 0
    assert made.read_bytes() == new.read_bytes()


def test_either_side_may_be_zstd(pair: tuple[Path, Path], tmp_path: Path) -> None:
    old, new = pair
    delta, made = tmp_path / "delta", tmp_path / "made"
    patch("make", old, new, delta)
    run(["zstd", "-q", "-d", "--long=31", f"--patch-from={old}", delta, "-o", made])
    assert made.read_bytes() == new.read_bytes()
    run(["zstd", "-q", "-f", "-3", "--single-thread", f"--patch-from={old}", new, "-o", delta])
    assert patch("apply", old, delta, str(new.stat().st_size), made).returncode == 0
    assert made.read_bytes() == new.read_bytes()


@given(old=st.binary(max_size=200), middle=st.binary(max_size=50), at=st.integers(0, 200))
@settings(max_examples=50, deadline=None)
def test_any_two_files(tmp_path_factory: pytest.TempPathFactory, old: bytes, middle: bytes, at: int) -> None:
    folder = tmp_path_factory.mktemp("any")
    before, after, delta, made = (folder / name for name in ("old", "new", "delta", "made"))
    before.write_bytes(old)
    after.write_bytes(old[:at] + middle + old[at:])
    patching.make(str(before), str(after), str(delta))
    patching.apply(str(before), str(delta), after.stat().st_size, str(made))
    assert made.read_bytes() == after.read_bytes()


@pytest.mark.parametrize("damage", ["size", "other base", "cut", "changed", "none"])
def test_what_is_no_delta_to_that_file_is_refused(pair: tuple[Path, Path], tmp_path: Path, damage: str) -> None:
    old, new = pair
    delta, made, size = tmp_path / "delta", tmp_path / "made", new.stat().st_size
    patch("make", old, new, delta)
    content = delta.read_bytes()
    if damage == "size":
        size += 1
    elif damage == "other base":
        old.write_bytes(noise(3, 3_000_000))
    elif damage == "cut":
        delta.write_bytes(content[:-100])
    elif damage == "changed":
        delta.write_bytes(content[:2000] + bytes([content[2000] ^ 255]) + content[2001:])
    else:
        delta.write_bytes(b"no delta")
    done = patch("apply", old, delta, str(size), made)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="missing capability: root")
def test_a_full_disk_is_told_as_one(pair: tuple[Path, Path], tmp_path: Path) -> None:
    old, new = pair
    delta, small = tmp_path / "delta", tmp_path / "small"
    patch("make", old, new, delta)
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "patching", small], check=True)
    try:
        done = patch("apply", old, delta, str(new.stat().st_size), small / "made")
    finally:
        subprocess.run(["umount", small], check=True)
    assert (done.returncode, "No space left" in done.stderr) == (1, True)


def test_memory_of_its_own_is_little(tmp_path: Path) -> None:
    """A limit on data (getrlimit(2), RLIMIT_DATA: what is private and can be written) that zstd(1) would not fit in."""
    size = 100_000_000
    old, new, delta, made = (tmp_path / name for name in ("old", "new", "delta", "made"))
    old.write_bytes(os.urandom(size))
    new.write_bytes(old.read_bytes()[:-1])
    patch("make", old, new, delta)
    argv = patching.command("apply", old, delta, str(size - 1), made)
    subprocess.run(
        argv, check=True, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_DATA, (size * 3 // 2, size * 3 // 2))
    )
    assert made.stat().st_size == size - 1
