"""Fetching: what breaks is resumed, what is wrong is refused, what is gone is named, and nothing is a traceback."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from builder.fetch import Gone, fetch_packages
from builder.lock import LockedPackage
from builder.mirrors import Mirrors
from builder.pool import Pool
from services.common.errors import HostError, IntegrityError, MissingError
from tests.builder import locks
from tests.builder.mirror import Mirror, serve

DATA = bytes(range(256)) * 4096  # 1 MiB: several reads
APP = locks.package("app", data=DATA)
LIB = locks.package("lib", data=b"small")


@pytest.fixture
def mirror() -> Iterator[Mirror]:
    with serve(Mirror({APP.path: DATA, LIB.path: b"small"})) as one:
        yield one


@pytest.fixture
def pool(tmp_path: Path) -> Pool:
    return Pool(tmp_path / "pool")


def mirrors(*bases: str) -> Mirrors:
    """A mirror, and a snapshot when two are given."""
    return Mirrors({"debian": bases[0]}, {"debian": bases[1]} if len(bases) > 1 else {})


def fetch(pool: Pool, *packages: LockedPackage, where: Mirrors) -> int:
    """Fetch, and return the sum of what `advance` was told."""
    counted: list[int] = []
    fetch_packages(pool, packages, where, advance=counted.append)
    return sum(counted)


def leave_part(pool: Pool, package: LockedPackage, data: bytes) -> Path:
    """What an interrupted download leaves."""
    part = pool.path(package.sha256, ".part")
    part.parent.mkdir(parents=True)
    part.write_bytes(data)
    return part


# It comes


def test_what_is_missing_is_fetched(pool: Pool, mirror: Mirror) -> None:
    fetch(pool, APP, LIB, where=mirrors(mirror.address))
    assert (pool.path(APP.sha256).read_bytes(), pool.path(LIB.sha256).read_bytes()) == (DATA, b"small")


def test_the_number_of_files_that_came_is_returned(pool: Pool, mirror: Mirror) -> None:
    where = mirrors(mirror.address)
    fetch(pool, LIB, where=where)
    assert fetch_packages(pool, [APP, LIB], where, advance=lambda _: None) == 1


def test_what_is_there_is_not_asked_for(pool: Pool, mirror: Mirror) -> None:
    fetch(pool, APP, where=mirrors(mirror.address))
    mirror.requests.clear()
    fetch(pool, APP, where=mirrors(mirror.address))
    assert mirror.requests == []


def test_every_byte_is_counted_once(pool: Pool, mirror: Mirror) -> None:
    assert fetch(pool, APP, where=mirrors(mirror.address)) == len(DATA)


def test_nothing_but_the_file_is_left(pool: Pool, mirror: Mirror) -> None:
    mirror.cuts = [1000]
    fetch(pool, APP, where=mirrors(mirror.address))
    assert [path.name for path in (pool.root / "sha256").glob("*/*")] == [f"{APP.sha256}.deb"]


def test_a_server_that_does_not_tell_lengths_will_do(pool: Pool, mirror: Mirror) -> None:
    mirror.lengths = False
    fetch(pool, APP, where=mirrors(mirror.address))
    assert pool.missing([APP]) == []


def test_a_folder_is_a_mirror_too(pool: Pool, tmp_path: Path) -> None:
    file = tmp_path / "mirror" / LIB.path
    file.parent.mkdir(parents=True)
    file.write_bytes(b"small")
    fetch(pool, LIB, where=mirrors(f"file://{tmp_path}/mirror/"))
    assert pool.missing([LIB]) == []


def test_a_file_that_two_downloads_want_comes_once(pool: Pool, mirror: Mirror) -> None:
    threads = [
        threading.Thread(target=fetch, args=(pool, APP), kwargs={"where": mirrors(mirror.address)}) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert mirror.requests == [(APP.path, "")]


# It breaks


def test_a_broken_download_goes_on_where_it_broke(pool: Pool, mirror: Mirror) -> None:
    mirror.cuts = [1000]
    fetch(pool, APP, where=mirrors(mirror.address))
    assert mirror.requests == [(APP.path, ""), (APP.path, "bytes=1000-")]
    assert pool.path(APP.sha256).read_bytes() == DATA


def test_a_download_of_an_earlier_run_goes_on_where_it_was(pool: Pool, mirror: Mirror) -> None:
    leave_part(pool, APP, DATA[:777])
    fetch(pool, APP, where=mirrors(mirror.address))
    assert mirror.requests == [(APP.path, "bytes=777-")]


def test_a_resumed_file_counts_as_a_whole(pool: Pool, mirror: Mirror) -> None:
    leave_part(pool, APP, DATA[:777])
    mirror.cuts = [10, 10]
    assert fetch(pool, APP, where=mirrors(mirror.address)) == len(DATA)


def test_a_server_that_cannot_resume_sends_it_again(pool: Pool, mirror: Mirror) -> None:
    mirror.cuts, mirror.ranges = [1000], False
    assert fetch(pool, APP, where=mirrors(mirror.address)) == len(DATA)
    assert pool.path(APP.sha256).read_bytes() == DATA


def test_an_earlier_download_that_is_longer_than_the_file_starts_again(pool: Pool, mirror: Mirror) -> None:
    leave_part(pool, LIB, b"longer than that")
    fetch(pool, LIB, where=mirrors(mirror.address))
    assert pool.path(LIB.sha256).read_bytes() == b"small"


def test_a_whole_earlier_download_is_not_fetched_again(pool: Pool, mirror: Mirror) -> None:
    leave_part(pool, LIB, b"small")
    fetch(pool, LIB, where=mirrors(mirror.address))
    assert (mirror.requests, pool.missing([LIB])) == ([], [])


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(0, len(DATA)), max_size=3), st.booleans(), st.booleans())
def test_three_breaks_at_any_place_are_survived(
    tmp_path_factory: pytest.TempPathFactory, mirror: Mirror, cuts: list[int], ranges: bool, lengths: bool
) -> None:
    pool = Pool(tmp_path_factory.mktemp("pool"))
    mirror.cuts, mirror.ranges, mirror.lengths = list(cuts), ranges, lengths
    fetch(pool, APP, where=mirrors(mirror.address))
    assert pool.path(APP.sha256).read_bytes() == DATA


def test_a_server_that_always_breaks_is_given_up(pool: Pool, mirror: Mirror) -> None:
    mirror.cuts = [1] * 20
    with pytest.raises(MissingError) as caught:
        fetch(pool, APP, where=mirrors(mirror.address))
    assert caught.value.code == "fetch.network"
    assert pool.path(APP.sha256, ".part").stat().st_size > 0


def test_a_server_in_trouble_is_named_with_its_answer(pool: Pool, mirror: Mirror) -> None:
    mirror.status = 503
    with pytest.raises(MissingError) as caught:
        fetch(pool, APP, where=mirrors(mirror.address))
    assert caught.value.code == "fetch.network"
    assert "app_1.0-1_amd64.deb: HTTP 503" in caught.value.message


@pytest.mark.parametrize("scheme", ["http", "https", "mirror+https", "x"])
def test_a_mirror_out_of_reach_is_missing(pool: Pool, scheme: str) -> None:
    with serve(Mirror()) as gone:
        port = gone.port
    with pytest.raises(MissingError) as caught:
        fetch(pool, APP, where=mirrors(f"{scheme}://127.0.0.1:{port}/"))
    assert caught.value.code == "fetch.network"


# It is wrong


def test_wrong_bytes_are_refused(pool: Pool, mirror: Mirror) -> None:
    mirror.files[LIB.path] = b"SMALL"
    with pytest.raises(IntegrityError) as caught:
        fetch(pool, LIB, where=mirrors(mirror.address))
    assert caught.value.code == "pool.hash"
    assert "lib 1.0-1" in caught.value.message


@pytest.mark.parametrize("lengths", [True, False])
def test_a_longer_file_is_refused(pool: Pool, mirror: Mirror, lengths: bool) -> None:
    mirror.files[LIB.path], mirror.lengths = b"small and more", lengths
    with pytest.raises(IntegrityError) as caught:
        fetch(pool, LIB, where=mirrors(mirror.address))
    assert caught.value.code == "pool.size"


def test_a_shorter_file_is_refused(pool: Pool, mirror: Mirror) -> None:
    mirror.files[LIB.path] = b"smal"
    with pytest.raises(IntegrityError) as caught:
        fetch(pool, LIB, where=mirrors(mirror.address))
    assert caught.value.code == "pool.size"


def test_nothing_of_a_wrong_file_is_kept(pool: Pool, mirror: Mirror) -> None:
    mirror.files[LIB.path] = b"SMALL"
    with pytest.raises(IntegrityError):
        fetch(pool, LIB, where=mirrors(mirror.address))
    assert list((pool.root / "sha256").glob("*/*")) == []


def test_an_earlier_download_of_other_bytes_is_fetched_again_next_time(pool: Pool, mirror: Mirror) -> None:
    leave_part(pool, APP, b"x" * 777)
    with pytest.raises(IntegrityError):
        fetch(pool, APP, where=mirrors(mirror.address))
    fetch(pool, APP, where=mirrors(mirror.address))
    assert pool.path(APP.sha256).read_bytes() == DATA


def test_a_bad_file_does_not_cost_the_good_ones(pool: Pool, mirror: Mirror) -> None:
    mirror.files[LIB.path] = b"SMALL"
    where = mirrors(mirror.address)
    fetch(pool, APP, where=where)
    with pytest.raises(IntegrityError):
        fetch(pool, APP, LIB, where=where)
    assert pool.missing([APP, LIB]) == [LIB]


# It is gone


def test_what_left_the_mirror_comes_from_the_snapshot(pool: Pool, mirror: Mirror) -> None:
    with serve(Mirror()) as live:
        fetch(pool, LIB, where=mirrors(live.address, mirror.address))
        assert live.requests == [(LIB.path, "")]
    assert pool.missing([LIB]) == []


def test_what_is_on_the_mirror_does_not_trouble_the_snapshot(pool: Pool, mirror: Mirror) -> None:
    with serve(Mirror()) as snapshot:
        fetch(pool, LIB, where=mirrors(mirror.address, snapshot.address))
        assert snapshot.requests == []


@pytest.mark.parametrize("count", [1, 2])
def test_what_is_nowhere_is_named_with_both_ways_out(pool: Pool, count: int) -> None:
    with serve(Mirror()) as empty, pytest.raises(Gone) as caught:
        fetch(pool, LIB, where=mirrors(*[empty.address] * count))
    assert (caught.value.code, caught.value.packages) == ("fetch.gone", [LIB])
    assert "lib 1.0-1" in caught.value.message
    assert "build lock --update lib" in (caught.value.hint or "")
    assert "BACKLINE_BUILD_SNAPSHOT" in (caught.value.hint or "")


def test_what_is_not_in_a_folder_is_gone(pool: Pool, tmp_path: Path) -> None:
    with pytest.raises(Gone):
        fetch(pool, LIB, where=mirrors(f"file://{tmp_path}/"))


# The disk


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
def test_a_full_disk_is_the_hosts_fault(tmp_path: Path, mirror: Mirror) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", disk], check=True)
    try:
        with pytest.raises(HostError) as caught:
            fetch(Pool(disk), APP, where=mirrors(mirror.address))
        assert caught.value.code == "fetch.full"
        assert not list(disk.glob("sha256/*/*"))  # so that there is space for `build gc`
    finally:
        subprocess.run(["umount", disk], check=True)


def test_a_file_that_cannot_be_written_is_the_hosts_fault(pool: Pool, mirror: Mirror) -> None:
    pool.path(APP.sha256, ".part").mkdir(parents=True)
    with pytest.raises(HostError) as caught:
        fetch(pool, APP, where=mirrors(mirror.address))
    assert caught.value.code == "fetch.disk"
