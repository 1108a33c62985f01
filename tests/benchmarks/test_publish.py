"""What `make bench-publish` compares: packages as they were, bytes of each way where they leave; and a small run."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from benchmarks import publish, traffic, updates
from benchmarks.figures import Figures
from builder import lock
from builder.settings import source_root
from builder.store import Store
from services.common.versions import Ref
from tests.depot.rig import ONE, TWO, Image, image

SIZE = 3_000_000


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Two versions, the second of which differs in a few bytes."""
    made = Store(tmp_path / "store")
    for version in (ONE, TWO):
        one = image(version, size=SIZE)
        Image(one.ref, one.files).store(made.path(one.ref.role, one.ref.version))
    return made


@pytest.mark.parametrize("role", ["nfsroot", "nfsroot-desktop"])
def test_the_update_is_about_thirteen_packages_and_no_kernel(role: str) -> None:
    locked = lock.load(source_root() / lock.NAME)
    names = updates.changed(locked, role)
    assert 10 <= len(names) <= 16
    assert not [name for name in names if name.startswith("linux-")]
    assert updates.older_lock(locked).date < locked.date


def test_a_receiver_is_sent_what_is_new_and_every_byte_is_counted(store: Store, tmp_path: Path) -> None:
    (tmp_path / "scratch").mkdir()
    ours = traffic.Ours(store, tmp_path / "scratch")
    ours.bring(Ref("nfsroot", ONE))
    whole = ours.pull(Ref("nfsroot", ONE))
    ours.bring(Ref("nfsroot", TWO))
    update = ours.pull(Ref("nfsroot", TWO))
    full = sum(path.stat().st_size for path in traffic.files_of(store, Ref("nfsroot", ONE)).values())
    manifest = (store.path("nfsroot", ONE) / "manifest.json").stat().st_size
    assert full + manifest < whole < full + manifest + 20_000
    assert manifest < update < full / 10
    ours.forget(Ref("nfsroot", ONE))
    assert ours.held.refs() == [Ref("nfsroot", TWO)]


def test_casync_is_given_its_seed(store: Store, tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    old, new = (traffic.files_of(store, Ref("nfsroot", version)) for version in (ONE, TWO))
    traffic.casync_make(new, scratch)
    full = sum(path.stat().st_size for path in new.values())
    assert traffic.casync(new, old, scratch, scratch) < full < traffic.casync(new, {}, scratch, scratch)


def test_rsync_counts_both_directions(tmp_path: Path) -> None:
    for name, content in (("new", b"x" * 100_000), ("old", b"y" * 100_000)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_bytes(content)
    with traffic.rsync_daemon({"new": tmp_path / "new"}, tmp_path) as address:
        words = ["rsync", "-a", "--ignore-times", "--stats", f"{address}/new/", f"{tmp_path / 'old'}/"]
        text = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    assert traffic.moved(text) > 100_000
    assert (tmp_path / "old/file").read_bytes() == b"x" * 100_000


def test_a_ratio_is_that_of_medians(capsys: pytest.CaptureFixture[str]) -> None:
    figures = Figures()
    for one, other in ((1, 10), (2, 4), (9, 1)):
        figures.add("one", one)
        figures.add("other", other)
    figures.ratio("one", "other", "at most 0.4")
    figures.show()
    assert "one, of other" in capsys.readouterr().out
    assert figures.median("one, of other") == 0.5


@pytest.mark.full
@pytest.mark.images
@pytest.mark.needs("libnfs", "root", "cgroup2", "namespaces", "overlayfs")
def test_every_row_of_a_small_hall_is_measured(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--servers", "2", "--runs", "1", "--moves", "2", "--reads", "100", "--seconds", "1"]
    rows = [f"--row={name}" for name in publish.ROWS if name != "bytes"]
    assert publish.main([*rows, *words, "--seats", "8", "--boot", "1", "--settle", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    (failed,) = [line for line in lines if line.startswith("of them failed or wrong")]
    assert failed.split()[5] == "0.000"
    assert [line for line in lines if "a rollout to 8 seats" in line]
