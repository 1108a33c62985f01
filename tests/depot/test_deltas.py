"""Deltas by the real zstd: what a receiver makes of one is the very file."""

from __future__ import annotations

import hashlib
import os
import threading
from pathlib import Path

import msgspec
import pytest

from services.common.errors import BacklineError
from services.common.process import run
from services.depot.deltas import Deltas, Stopped
from services.depot.files import Files
from services.depot.schema import Delta
from tests.depot.rig import ONE, THREE, TWO, Image, image


@pytest.fixture
def files(tmp_path: Path) -> Files:
    made = Files(tmp_path / "depot")
    made.prepare()
    return made


def enter(files: Files, made: Image, *, at: int) -> None:
    """A version that came at a time."""
    for name, begin in (files.begin(made.ref, made.manifest, {}) or {}).items():
        with files.receive(made.ref, name, begin) as sink:
            sink.write(made.files[name][begin:])
    files.complete(made.ref)
    os.utime(files.path(made.ref, "manifest.json"), (at, at))


def make_all(deltas: Deltas) -> list[Delta]:
    return [deltas.make(job) for job in list(deltas.all_missing())]


def test_a_delta_is_small_and_gives_the_very_file(files: Files, tmp_path: Path) -> None:
    one, two = image(ONE), image(TWO)
    enter(files, one, at=1)
    enter(files, two, at=2)
    deltas = Deltas(files, count=3, limit=10**9)
    made = {delta.name: delta for delta in make_all(deltas)}
    root = made["root.erofs"]
    assert root.bytes is not None
    assert root.bytes < 1000
    folder = files.deltas / "nfsroot" / TWO / ONE
    assert msgspec.json.decode((folder / "root.erofs.json").read_bytes(), type=Delta) == root
    assert hashlib.sha256((folder / "root.erofs.zst").read_bytes()).hexdigest() == root.sha256
    old, out = tmp_path / "old", tmp_path / "out"
    old.write_bytes(one.files["root.erofs"])
    run(["zstd", "-q", "-d", "--long=31", f"--patch-from={old}", folder / "root.erofs.zst", "-o", out])
    assert out.read_bytes() == two.files["root.erofs"]
    assert hashlib.sha256(old.read_bytes()).hexdigest() == root.from_sha256


def test_a_file_that_is_the_same_needs_none_and_one_that_is_all_new_is_not_worth_it(files: Files) -> None:
    enter(files, image(ONE), at=1)
    enter(files, image(TWO), at=2)
    deltas = Deltas(files, count=3, limit=10**9)
    made = {delta.name: delta.bytes for delta in make_all(deltas)}
    assert set(made) == {"root.erofs", "root.verity"}
    assert made["root.verity"] is None
    assert not (files.deltas / "nfsroot" / TWO / ONE / "root.verity.zst").exists()
    assert list(deltas.all_missing()) == []
    assert {delta.name for delta in deltas.of(image(TWO).ref)} == {"root.erofs", "root.verity"}


def test_the_newest_versions_get_theirs_first_and_no_more_than_were_asked_for(files: Files) -> None:
    for number, version in enumerate((ONE, TWO, THREE), 1):
        enter(files, image(version), at=number)
    whole = files.need(image(THREE).ref)
    both = Deltas(files, count=2, limit=10**9).missing(whole)
    assert [job.old.version for job in both if job.name == "root.erofs"] == [TWO, ONE]
    assert {job.old.version for job in Deltas(files, count=1, limit=10**9).missing(whole)} == {TWO}
    assert Deltas(files, count=0, limit=10**9).missing(whole) == []


def test_a_file_beyond_the_limit_gets_none(files: Files) -> None:
    enter(files, image(ONE), at=1)
    enter(files, image(TWO), at=2)
    assert {job.name for job in Deltas(files, count=3, limit=10_000).all_missing()} == {"root.verity"}


def test_what_a_killed_process_was_making_is_made_by_the_next(files: Files) -> None:
    enter(files, image(ONE), at=1)
    enter(files, image(TWO), at=2)
    (files.work / "delta-dead").mkdir()
    (files.work / "delta-dead/delta").write_bytes(b"half")
    target = files.deltas / "nfsroot" / TWO / ONE
    target.mkdir(parents=True)
    (target / "root.erofs.zst").write_bytes(b"put there before it was told of")
    again = Files(files.root)
    again.prepare()
    assert list(again.work.iterdir()) == []
    made = {delta.name: delta for delta in make_all(Deltas(again, count=3, limit=10**9))}
    assert (target / "root.erofs.zst").stat().st_size == made["root.erofs"].bytes


def test_a_version_that_is_damaged_gets_no_delta(files: Files) -> None:
    enter(files, image(ONE), at=1)
    enter(files, image(TWO), at=2)
    path = files.path(image(TWO).ref, "root.erofs")
    path.chmod(0o644)
    path.write_bytes(path.read_bytes().replace(TWO.encode(), ONE.encode()))
    deltas = Deltas(files, count=3, limit=10**9)
    job = next(job for job in deltas.all_missing() if job.name == "root.erofs")
    with pytest.raises(BacklineError, match="gives something else"):
        deltas.make(job)
    assert not (files.deltas / "nfsroot" / TWO / ONE / "root.erofs.json").exists()
    assert [path.name for path in files.work.iterdir() if path.name.startswith("delta")] == []


def test_a_stop_ends_what_is_running(files: Files) -> None:
    size = 60_000_000
    enter(files, image(ONE, size=size), at=1)
    enter(files, image(TWO, size=size), at=2)
    deltas = Deltas(files, count=3, limit=10**9)
    job = next(job for job in deltas.all_missing() if job.name == "root.erofs")
    timer = threading.Timer(0.05, deltas.stop)
    timer.start()
    try:
        with pytest.raises(Stopped):
            deltas.make(job)
    finally:
        timer.join()
    assert [path.name for path in files.work.iterdir() if path.name.startswith("delta")] == []
