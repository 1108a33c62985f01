"""Garbage collection: no root is ever deleted, the rest goes, also on a full disk and after a kill."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder import gc
from builder.aside import disk_bytes, mounts_below
from builder.gc import DAY, Cached, Facts, Leftover, Policy, Pooled, Version
from builder.store import Store
from builder.wanted import Roots
from services.common.errors import MissingError
from services.common.process import run
from services.common.versions import Ref
from tests.builder import stock

PROJECT = Path(__file__).resolve().parents[2]
NOTHING_YOUNG = Policy(days=0)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def put(store: Store, folder: Path, number: int = 0, *, days: float = 0, role: str = "gw", size: int = 5000) -> Ref:
    """A version that was added so many days ago."""
    packages = [stock.package("bash", str(number))]
    recipe = {"settings": {"role": role, "number": str(number)}}
    name = folder / f"staged-{role}-{number}"
    ref = stock.stage(name, role=role, recipe=recipe, packages=packages, root=os.urandom(size))
    manifest = store.add(ref.role, ref.version, name) / "manifest.json"
    then = time.time() - days * DAY
    os.utime(manifest, (then, then))
    return ref


def collect(store: Store, cache: Path | None = None, policy: Policy = NOTHING_YOUNG) -> gc.Done:
    return gc.execute(gc.plan(gc.gather(store, cache), policy), store)


# The planner

versions = st.builds(
    Version,
    ref=st.builds(
        Ref,
        st.sampled_from(["gw", "web"]),
        st.sampled_from([f"2026013{n}.0123456789a{m}" for n in "01" for m in "abc"]),
    ),
    path=st.just("/store/x"),
    bytes=st.integers(0, 1000),
    added=st.floats(-1e6, 4e6),
    hashes=st.frozensets(st.sampled_from([c * 64 for c in "abcdef"])),
    in_use=st.booleans(),
)
cached = st.builds(
    Cached,
    kind=st.sampled_from(gc.FOLDERS),
    id=st.text("abc", min_size=1, max_size=2),
    path=st.just("/cache/x"),
    bytes=st.integers(0, 1000),
    used=st.floats(-1e6, 4e6),
    in_use=st.booleans(),
)
pooled = st.builds(
    Pooled,
    sha256=st.sampled_from([c * 64 for c in "abcdef"]),
    path=st.just("/cache/pool/x"),
    bytes=st.integers(0, 1000),
    written=st.floats(-1e6, 4e6),
    partial=st.booleans(),
)
roots = st.builds(
    Roots,
    st.dictionaries(
        st.sampled_from([f"2026013{n}.0123456789a{m}" for n in "01" for m in "abc"]),
        st.lists(st.sampled_from(["current", "published on stable", "pinned as x"]), min_size=1),
    ),
    st.dictionaries(st.sampled_from(["gw", "web", ""]), st.just("unreadable"), max_size=1),
)
facts = st.builds(
    Facts,
    now=st.just(3e6),
    versions=st.lists(versions, max_size=8, unique_by=lambda version: version.ref).map(tuple),
    roots=roots,
    cached=st.lists(cached, max_size=6, unique_by=lambda one: (one.kind, one.id)).map(tuple),
    pooled=st.lists(pooled, max_size=6).map(tuple),
    leftovers=st.lists(st.builds(Leftover, st.just("/store/incoming/1"), st.integers(0, 9)), max_size=3).map(tuple),
)
policies = st.builds(
    Policy,
    days=st.floats(0, 60),
    keep=st.frozensets(st.text("abc", min_size=1, max_size=2)),
    keep_hashes=st.none() | st.frozensets(st.sampled_from([c * 64 for c in "abcdef"])),
)


@given(facts, policies)
def test_what_is_wanted_used_or_young_is_never_deleted(facts: Facts, policy: Policy) -> None:
    plan = gc.plan(facts, policy)
    deleted = {item.name for item in plan.delete if item.kind == "version"}
    for version in facts.versions:
        held = version.ref.version in facts.roots.reasons
        held |= version.ref.role in facts.roots.unreadable or "" in facts.roots.unreadable
        held |= version.in_use or facts.now - version.added < policy.days * DAY
        assert (str(version.ref) in deleted) is not held
    gone = {(item.kind, item.name) for item in plan.delete}
    for one in facts.cached:
        held = one.id in policy.keep or one.in_use or facts.now - one.used < policy.days * DAY
        assert ((one.kind, one.id) in gone) is not held


@given(facts, policies)
def test_a_plan_holds_everything_once_and_says_why(facts: Facts, policy: Policy) -> None:
    plan = gc.plan(facts, policy)
    everything = len(facts.versions) + len(facts.cached) + len(facts.pooled) + len(facts.leftovers)
    assert len(plan.keep) + len(plan.delete) == everything
    assert all(item.why for item in plan.keep + plan.delete)
    assert plan.bytes == sum(item.bytes for item in plan.delete)
    assert f"{len(plan.delete)} to delete" in gc.render(plan)


@given(facts, policies)
def test_pool_files_of_kept_versions_stay(facts: Facts, policy: Policy) -> None:
    plan = gc.plan(facts, policy)
    kept = {item.name for item in plan.keep if item.kind == "version"}
    hashes = (policy.keep_hashes or frozenset()).union(
        *(version.hashes for version in facts.versions if str(version.ref) in kept)
    )
    deleted = sum(item.kind == "pool" for item in plan.delete)
    free = [one for one in facts.pooled if one.partial or one.sha256 not in hashes]
    assert deleted <= len(free)
    old = [one for one in free if facts.now - one.written > max(gc.GRACE, policy.days * DAY)]
    assert deleted >= len(old)


@given(facts, st.floats(1, 60))
def test_without_a_lock_the_pool_goes_by_age(facts: Facts, days: float) -> None:
    plan = gc.plan(facts, Policy(days=days))
    deleted = sum(item.kind == "pool" for item in plan.delete)
    assert deleted <= sum(facts.now - one.written >= days * DAY for one in facts.pooled)


def test_a_kept_version_says_all_its_reasons() -> None:
    ref = Ref("gw", "20260131.0123456789ab")
    version = Version(ref, "/x", 1, added=0, in_use=True)
    roots = Roots({ref.version: ["current", "pinned as final"]}, {})
    (item,) = gc.plan(Facts(now=DAY, versions=(version,), roots=roots), Policy()).keep
    assert item.why == "current, pinned as final, in use, 24 hours old"


# The store


def test_what_nobody_wants_is_deleted_and_the_rest_stays(store: Store, tmp_path: Path) -> None:
    current, pinned, published, young, doomed = (put(store, tmp_path, n, days=30) for n in range(5))
    os.utime(store.path("gw", young.version) / "manifest.json")
    store.set_current(current)
    store.pin("final", pinned)
    (store.root / "published" / "stable").mkdir(parents=True)
    (store.root / "published" / "stable" / "gw").write_text(published.version)
    plan = gc.plan(gc.gather(store, None), Policy(days=14))
    assert [item.name for item in plan.delete] == [str(doomed)]
    assert {item.name: item.why for item in plan.keep} == {
        str(current): "current, 30 days old"[:7],
        str(pinned): "pinned as final",
        str(published): "published on stable",
        str(young): "0 hours old",
    }
    assert store.have("gw", doomed.version), "a plan deletes nothing"
    done = gc.execute(plan, store)
    assert [item.name for item in done.deleted] == [str(doomed)]
    assert done.bytes > 5000
    assert sorted(store.refs()) == sorted([current, pinned, published, young])
    assert list(store.aside.root.iterdir()) == []
    assert "1 deleted" in gc.render_done(done)


def test_a_version_in_use_stays(store: Store, tmp_path: Path) -> None:
    ref = put(store, tmp_path, days=30)
    with store.use(ref.role, ref.version):
        (item,) = gc.plan(gc.gather(store, None), NOTHING_YOUNG).keep
        assert item.why == "in use"
    assert collect(store).skipped == []
    assert store.refs() == []


def test_what_became_wanted_after_planning_is_skipped(store: Store, tmp_path: Path) -> None:
    pinned, used, free = (put(store, tmp_path, n) for n in range(3))
    plan = gc.plan(gc.gather(store, None), NOTHING_YOUNG)
    store.pin("now", pinned)
    with store.use(used.role, used.version):
        done = gc.execute(plan, store)
    assert {item.name: item.why for item in done.skipped} == {str(pinned): "pinned as now", str(used): "in use"}
    assert [item.name for item in done.deleted] == [str(free)]


def test_a_version_that_is_gone_already_is_no_error(store: Store, tmp_path: Path) -> None:
    put(store, tmp_path)
    plan = gc.plan(gc.gather(store, None), NOTHING_YOUNG)
    gc.execute(plan, store)
    assert gc.execute(plan, store).skipped == []


def test_an_unreadable_root_stops_the_deleting_of_its_role(store: Store, tmp_path: Path) -> None:
    held, free = put(store, tmp_path), put(store, tmp_path, role="web")
    plan = gc.plan(gc.gather(store, None), NOTHING_YOUNG)
    (store.root / "published" / "stable").mkdir(parents=True)
    (store.root / "published" / "stable" / "gw").write_bytes(b"\xff")
    assert [item.name for item in gc.plan(gc.gather(store, None), NOTHING_YOUNG).delete] == [str(free)]
    done = gc.execute(plan, store)
    assert [item.name for item in done.skipped] == [str(held)]


def test_problems_are_reported_and_not_deleted(store: Store, tmp_path: Path) -> None:
    put(store, tmp_path)
    (store.images / "gw" / "precious").mkdir()
    plan = gc.plan(gc.gather(store, None), NOTHING_YOUNG)
    gc.execute(plan, store)
    assert "precious" in gc.render(plan)
    assert (store.images / "gw" / "precious").is_dir()


def test_an_empty_store_has_nothing_to_delete(store: Store, tmp_path: Path) -> None:
    plan = gc.plan(gc.gather(store, tmp_path / "none"), NOTHING_YOUNG)
    assert (plan.delete, plan.keep) == ([], [])
    assert gc.render(plan) == "0 to delete, 0 B; 0 kept\n"
    assert not store.root.exists()


def test_a_version_with_something_mounted_in_it_stays(store: Store, tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root to mount")
    ref = put(store, tmp_path)
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("x")
    inside = store.path("gw", ref.version) / "a b"
    inside.mkdir()
    run(["mount", "--bind", outside, inside])
    try:
        assert mounts_below(store.path("gw", ref.version)) == [str(inside)]
        done = collect(store)
        (item,) = done.skipped
        assert "is mounted in it" in item.why
    finally:
        points = [point for point in mounts_below(store.root) if "a b" in point]
        run(["umount", *points])
    assert (outside / "precious").read_text() == "x"


# Death and a full disk

DYING = """
import os, signal, sys
from pathlib import Path
from builder import aside, gc
from builder.store import Store
left = int(sys.argv[2])
def die(function):
    def dying(*arguments, **options):
        global left
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        left -= 1
        return function(*arguments, **options)
    return dying
for name in ("unlink", "rename", "rmdir", "chmod"):
    setattr(os, name, die(getattr(os, name)))
store = Store(Path(sys.argv[1]))
gc.execute(gc.plan(gc.gather(store, None), gc.Policy(days=0)), store)
"""


def test_a_kill_before_any_system_call_of_deleting_leaves_whole_versions_or_leftovers(tmp_path: Path) -> None:
    for step in range(100):
        store = Store(tmp_path / f"store-{step}")
        for number in range(2):
            put(store, tmp_path / f"staged-{step}", number)
        died = subprocess.run([sys.executable, "-c", DYING, store.root, str(step)], cwd=PROJECT, check=False)
        listing = store.listing()
        assert listing.problems == []
        for stored in listing.versions:
            store.verify(stored.role, stored.version)
        if died.returncode == 0:
            break
        assert died.returncode == -signal.SIGKILL
        assert collect(store).skipped == []
        assert store.refs() == []
        assert list(store.aside.root.iterdir()) == []
    assert step > 10


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of ext4 (a tmpfs is too kind: it renames without needing a block)."""
    if os.geteuid() != 0:
        pytest.skip("needs root to mount")
    image, disk = tmp_path / "image", tmp_path / "disk"
    image.write_bytes(b"")
    os.truncate(image, 8 << 20)
    disk.mkdir()
    run(["/sbin/mkfs.ext4", "-q", "-m", "0", image])
    made = run(["mount", "-o", "loop", image, disk], check=False)
    if made.returncode != 0:
        pytest.skip("needs loop devices")
    try:
        yield disk
    finally:
        run(["umount", disk])


def fill(disk: Path) -> None:
    """Use up the last block and the last inode."""
    with (disk / "fill").open("wb", buffering=0) as file:
        for size in (1 << 20, 4096, 1):
            try:
                while file.write(b"x" * size):
                    pass
            except OSError:
                continue
    try:
        for number in range(100_000):
            (disk / f"fill-{number}").touch()
    except OSError:
        pass


def test_collecting_works_on_a_full_disk(full_disk: Path, tmp_path: Path) -> None:
    store = Store(full_disk / "store")
    keep, doomed = put(store, tmp_path, 1), put(store, tmp_path, 2, size=100_000)
    store.pin("keep", keep)
    store.aside.root.rmdir()
    fill(full_disk)
    done = collect(store)
    assert done.skipped == []
    assert [item.name for item in done.deleted] == [str(doomed)]
    assert store.refs() == [keep]
    (full_disk / "there is room again").write_bytes(b"x" * 50_000)


def test_a_half_deleted_version_is_a_leftover(store: Store, tmp_path: Path) -> None:
    ref, wanted = put(store, tmp_path), put(store, tmp_path, 1)
    store.pin("keep", wanted)
    for one in (ref, wanted):
        (store.path("gw", one.version) / "manifest.json").unlink()
    done = collect(store)
    assert [item.name for item in done.deleted] == [ref.version]
    assert store.path("gw", wanted.version).exists(), "what is pinned is for people to look at"


# The cache


def make_cached(cache: Path, kind: str, name: str, *, days: float | None = None) -> Path:
    """A folder of the cache; used so many days ago, or never."""
    folder = cache / kind / name
    (folder / "usr").mkdir(parents=True)
    (folder / "usr" / "file").write_bytes(b"x" * 10_000)
    (folder / "usr" / "root").symlink_to("/")
    (folder / "usr").chmod(0o500)
    os.utime(folder, (0, 0))
    if days is not None:
        gc.touch_used(folder)
        os.utime(gc.stamp_of(folder), (time.time() - days * DAY,) * 2)
    return folder


def test_old_layers_and_trees_go_unless_they_are_wanted_or_used(store: Store, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    stale = make_cached(cache, "layers", "stale", days=30)
    kept = make_cached(cache, "tools", "kept", days=30)
    fresh = make_cached(cache, "wheels", "fresh", days=1)
    held = make_cached(cache, "layers", "held", days=30)
    never = make_cached(cache, "tools", "never")
    aside = make_cached(cache, "layers", ".aside-123")
    plan = gc.plan(gc.gather(store, cache), Policy(days=14, keep=frozenset({"kept"})))
    with gc.using(held):
        os.utime(gc.stamp_of(held), (0, 0))
        done = gc.execute(plan, store)
    assert [item.name for item in done.deleted] == ["stale"]
    assert [(item.name, item.why) for item in done.skipped] == [("held", "in use")]
    assert not stale.exists()
    assert all(path.exists() for path in (kept, fresh, held, never, aside))
    assert not gc.stamp_of(stale).exists()
    assert Path("/etc").exists(), "a link in a tree is deleted, not followed"


def test_what_was_never_used_counts_from_its_making(store: Store, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    folders = [make_cached(cache, "tools", "never"), make_cached(cache, "tools", ".aside-123")]
    later = gc.gather(store, cache, now=time.time() + 15 * DAY)
    done = gc.execute(gc.plan(later, Policy(days=14)), store)
    assert sorted(item.kind for item in done.deleted) == ["leftover", "tools"]
    assert not any(folder.exists() for folder in folders)


def test_a_cache_folder_that_was_deleted_cannot_be_used(store: Store, tmp_path: Path) -> None:
    folder = make_cached(tmp_path / "cache", "layers", "old", days=99)
    collect(store, tmp_path / "cache")
    with pytest.raises(MissingError), gc.using(folder):
        pass


def test_a_user_that_waited_for_the_deleting_is_told(store: Store, tmp_path: Path) -> None:
    """The folder is gone by the time that its lock is ours."""
    folder = make_cached(tmp_path / "cache", "layers", "old", days=99)
    moved = folder.with_name("moved")
    real = fcntl.flock

    def late(descriptor: int, operation: int) -> None:
        folder.rename(moved)
        real(descriptor, operation)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fcntl, "flock", late)
        with pytest.raises(MissingError), gc.using(folder):
            pass


def test_an_interrupted_deletion_is_finished_by_the_next(store: Store, tmp_path: Path) -> None:
    left = make_cached(tmp_path / "cache", "layers", ".deleted-1-abc")
    done = collect(store, tmp_path / "cache", Policy())
    assert [item.kind for item in done.deleted] == ["leftover"]
    assert not left.exists()


def test_pool_files_stay_while_a_lock_or_a_kept_version_names_them(store: Store, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    ref = put(store, tmp_path)
    store.pin("keep", ref)
    (inside,) = store.manifest("gw", ref.version).packages

    def pool(sha256: str, suffix: str, age: float) -> Path:
        path = cache / "pool" / "sha256" / sha256[:2] / f"{sha256}{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * 5000)
        os.utime(path, (time.time() - age,) * 2)
        return path

    keep = [
        pool(inside.sha256, ".deb", 9 * DAY),
        pool(inside.sha256, ".control", 9 * DAY),
        pool("a" * 64, ".whl", 9 * DAY),
        pool("b" * 64, ".deb", 60),
        pool("c" * 64, ".part", 600 + gc.GRACE),
    ]
    drop = [pool("d" * 64, ".deb", DAY), pool("d" * 64, ".control", DAY), pool("e" * 64, ".part", 9 * DAY)]
    foreign = cache / "pool" / "sha256" / "aa" / "README"
    foreign.write_text("x")
    done = collect(store, cache, Policy(days=1, keep_hashes=frozenset({"a" * 64})))
    assert sorted(item.path for item in done.deleted) == sorted(str(path) for path in drop)
    assert all(path.exists() for path in [*keep, foreign])
    assert "3 files of the pool" in gc.render_done(done)


def test_kept_bytes_are_those_on_disk_and_links_count_once(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x" * 100_000)
    before = disk_bytes(tmp_path)
    (tmp_path / "b").hardlink_to(tmp_path / "a")
    assert disk_bytes(tmp_path) - before < 100_000
    assert disk_bytes(tmp_path / "none") == 0
