"""Pulling a version: from a real HTTP server, with real signatures, over cuts, lies, full disks and deaths."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.common import signing
from services.common.errors import BacklineError, HostError, IntegrityError, MissingError
from services.roots.held import Folder
from services.roots.remote import Depot
from tests.roots.rig import SIZE, Hall, noise, same


def test_a_version_is_held_with_the_very_bytes_that_were_signed(hall: Hall) -> None:
    ref = hall.version()
    pull = hall.pull(hall.publication(ref))
    assert same(hall, hall.held, ref)
    assert hall.held.verify(ref, [hall.signer]).version == ref.version
    assert pull.moving.moved == pull.moving.total == pull.moving.full
    assert list(hall.held.staging.rglob("*.part")) == []


def test_only_what_seats_read_is_held(hall: Hall) -> None:
    ref = hall.version()
    hall.pull(hall.publication(ref))
    names = {path.name for path in hall.held.place_of(ref).iterdir()}
    assert names == {"manifest.json", "held.json", "root.erofs", "root.verity", "vmlinuz", "initrd"}


def test_everybody_can_read_it_and_nobody_writes(hall: Hall) -> None:
    ref = hall.version()
    hall.pull(hall.publication(ref))
    assert (hall.held.place_of(ref) / "root.erofs").stat().st_mode & 0o777 == 0o444


def test_a_cut_connection_is_gone_on_with_where_it_was(hall: Hall) -> None:
    ref = hall.version()
    hall.server.cut = 150_000
    pull = hall.pull(hall.publication(ref))
    assert same(hall, hall.held, ref)
    assert len(hall.server.paths("root.erofs$")) == SIZE // 150_000 + 1
    assert pull.moving.moved == pull.moving.total


def test_a_depot_that_stays_away_is_said_to_and_what_came_is_kept(hall: Hall) -> None:
    ref = hall.version()
    publication = hall.publication(ref)
    hall.server.cut = 700_000
    asked: list[str] = []

    def once(path: str) -> None:
        if path.endswith("root.erofs"):
            asked.append(path)
            hall.server.cut = 700_000 if len(asked) == 1 else 0

    hall.server.before = once
    with pytest.raises(MissingError, match=r"ended after|closed"):
        hall.pull(publication)
    assert (hall.held.aside_of(ref) / "root.erofs.part").stat().st_size == 700_000
    hall.server.cut, hall.server.before, hall.server.offsets = None, lambda _: None, []
    hall.pull(publication)
    assert same(hall, hall.held, ref)
    assert hall.server.offsets == [700_000]


def test_what_a_dead_pull_left_damaged_is_fetched_again(hall: Hall) -> None:
    ref = hall.version()
    aside = hall.held.aside_of(ref)
    aside.mkdir(parents=True)
    (aside / "root.erofs.part").write_bytes(b"\0" * 1000)
    (aside / "root.verity").write_bytes(b"other")
    hall.pull(hall.publication(ref))
    assert same(hall, hall.held, ref)


def test_files_that_a_held_version_has_are_not_fetched(hall: Hall) -> None:
    old, new = hall.version(), hall.version()
    hall.pull(hall.publication(old))
    hall.server.requests.clear()
    hall.pull(hall.publication(new), bases=[old])
    assert hall.server.paths("vmlinuz|initrd|verity") == []
    assert same(hall, hall.held, new)


def test_a_delta_moves_a_fraction_of_the_bytes(hall: Hall) -> None:
    old = hall.version(root=noise(1))
    new = hall.version(root=noise(1)[:-1000] + noise(2, 1000))
    hall.pull(hall.publication(old))
    hall.delta(new, old)
    pull = hall.pull(hall.publication(new), bases=[old])
    assert same(hall, hall.held, new)
    assert pull.moving.moved == pull.moving.total < pull.moving.full / 100
    assert hall.server.paths("images/.*root.erofs$")[1:] == []


def test_the_newest_held_version_that_has_a_delta_is_the_base(hall: Hall) -> None:
    oldest = hall.version(root=noise(1))
    middle = hall.version(root=noise(1)[:-1000] + noise(2, 1000))
    new = hall.version(root=noise(1)[:-1000] + noise(3, 1000))
    for ref in (oldest, middle):
        hall.pull(hall.publication(ref))
    hall.delta(new, oldest)
    hall.server.requests.clear()
    hall.pull(hall.publication(new), bases=[middle, oldest])
    assert len(hall.server.paths(f"deltas/.*{oldest.version}/root.erofs.zst")) == 1
    assert same(hall, hall.held, new)


@pytest.mark.parametrize("lie", ["delta", "base"])
def test_a_delta_that_is_no_good_costs_the_whole_file_and_nothing_else(hall: Hall, lie: str) -> None:
    old = hall.version(root=noise(1))
    new = hall.version(root=noise(1)[:-1000] + noise(2, 1000))
    hall.pull(hall.publication(old))
    hall.delta(new, old)
    if lie == "delta":
        hall.server.change = lambda path, content: content[:-9] + b"\0" * 9 if path.endswith(".zst") else content
    else:
        held = hall.held.place_of(old) / "root.erofs"
        held.chmod(0o644)
        held.write_bytes(noise(9))
    hall.pull(hall.publication(new), bases=[old])
    assert same(hall, hall.held, new)


@pytest.mark.parametrize("name", ["root.erofs", "root.verity", "vmlinuz", "initrd"])
def test_a_file_that_was_changed_is_never_held(hall: Hall, name: str) -> None:
    ref = hall.version()
    hall.server.change = lambda path, content: b"\xff" + content[1:] if path.endswith(name) else content
    with pytest.raises(IntegrityError, match="was signed") as caught:
        hall.pull(hall.publication(ref))
    assert caught.value.code == "roots.hash"
    assert not hall.held.have(ref)
    assert not (hall.held.aside_of(ref) / name).exists()


def test_a_file_that_does_not_end_is_not_read_for_ever(hall: Hall) -> None:
    ref = hall.version()
    hall.server.change = lambda path, content: content + b"more" if path.endswith("initrd") else content
    with pytest.raises(IntegrityError, match="more than"):
        hall.pull(hall.publication(ref))
    assert not hall.held.have(ref)


def test_a_changed_manifest_is_refused(hall: Hall) -> None:
    ref = hall.version()
    publication = hall.publication(ref)
    path = hall.file(ref, "manifest.json")
    path.write_bytes(path.read_bytes().replace(b'"kernel": "6.12"', b'"kernel": "6.13"'))
    with pytest.raises(IntegrityError) as caught:
        hall.pull(publication)
    assert caught.value.code == "publish.manifest"


def test_a_signature_of_somebody_else_is_refused(hall: Hall, tmp_path: Path) -> None:
    ref = hall.version()
    signing.new_key(tmp_path / "mallory", comment="mallory")
    with pytest.raises(IntegrityError) as caught:
        hall.pull(hall.publication(ref, key=tmp_path / "mallory"))
    assert caught.value.code == "publish.signature"
    assert hall.server.requests == []


# Full disks


@contextlib.contextmanager
def disk(folder: Path, size: int) -> Iterator[Folder]:
    """A root file server's folder on a disk of its own, of `size` bytes."""
    if os.geteuid() != 0:
        pytest.skip("missing capability: mount")
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], check=True)
    try:
        made = Folder(folder)
        made.prepare()
        yield made
    finally:
        subprocess.run(["umount", folder], check=True)


def test_a_disk_without_room_is_left_alone(hall: Hall, tmp_path: Path) -> None:
    one, two = hall.version(), hall.version()
    with disk(tmp_path / "disk", SIZE * 3 // 2) as folder:
        hall.pull(hall.publication(one), folder=folder)
        with pytest.raises(HostError, match="needs") as caught:
            hall.pull(hall.publication(two), folder=folder)
        assert caught.value.code == "roots.full"
        assert same(hall, folder, one)


def test_a_disk_that_fills_up_meanwhile_is_said_to_be_full(hall: Hall, tmp_path: Path) -> None:
    one = hall.version()
    with disk(tmp_path / "disk", SIZE * 3 // 2) as folder:

        def fill(path: str) -> None:
            if path.endswith("root.erofs"):
                (folder.root / "other").write_bytes(b"\0" * SIZE)

        hall.server.before = fill
        with pytest.raises(HostError) as caught:
            hall.pull(hall.publication(one), folder=folder)
        assert caught.value.code == "roots.full"
        assert not folder.have(one)
        (folder.root / "other").unlink()
        hall.server.before = lambda _: None
        hall.pull(hall.publication(one), folder=folder)
        assert same(hall, folder, one)


def test_removing_needs_no_room(hall: Hall, tmp_path: Path) -> None:
    one = hall.version()
    with disk(tmp_path / "disk", SIZE * 3 // 2) as folder:
        hall.pull(hall.publication(one), folder=folder)
        with contextlib.suppress(OSError), (folder.root / "other").open("wb", buffering=0) as file:
            while True:
                file.write(b"\0" * 4096)
        assert folder.free() == 0
        folder.remove(one)
        assert folder.free() > SIZE * 0.9


def test_an_unreachable_depot_is_said_to_be(hall: Hall) -> None:
    publication = hall.publication(hall.version())
    with Depot("http://127.0.0.1:1") as depot, pytest.raises(BacklineError, match="cannot be reached"):
        depot.files.small("/files/" + publication.statement[:1])
