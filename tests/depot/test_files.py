"""The depot's folder: what is served is whole and what was signed, whoever dies when."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from services.common.errors import BacklineError, BusyError, HostError, InputError, IntegrityError, MissingError
from services.common.versions import Ref
from services.depot.files import Files, ref_of
from tests.depot.rig import ONE, TWO, Image, image, serves


@pytest.fixture
def files(tmp_path: Path) -> Files:
    made = Files(tmp_path / "depot")
    made.prepare()
    return made


def bring(files: Files, made: Image, **instead: bytes) -> None:
    """All files of a version; `instead` has others' bytes, with _ for a dot."""
    other = {name.replace("_", "."): data for name, data in instead.items()}
    for name, begin in (files.begin(made.ref, made.manifest, {"anna": b"sig"}) or {}).items():
        with files.receive(made.ref, name, begin) as sink:
            sink.write(other.get(name, made.files[name])[begin:])


def test_a_version_is_served_when_it_is_complete_and_not_before(files: Files) -> None:
    made = image()
    bring(files, made)
    assert not serves(files, made)
    assert files.complete(made.ref).ref == made.ref
    assert serves(files, made)
    assert [whole.ref for whole in files.versions()] == [made.ref]


def test_what_is_served_can_be_read_by_nginx_and_nothing_else_can(files: Files) -> None:
    made = image()
    before = os.umask(0o077)
    try:
        bring(files, made)
        files.complete(made.ref)
    finally:
        os.umask(before)
    for path in (files.root / "files").rglob("*"):
        assert path.stat().st_mode & 0o777 == (0o755 if path.is_dir() else 0o444), path
    assert (files.root / "incoming").stat().st_mode & 0o077 == 0
    assert files.work.stat().st_mode & 0o077 == 0


def test_an_upload_goes_on_where_it_was(files: Files) -> None:
    made = image()
    files.begin(made.ref, made.manifest, {})
    with files.receive(made.ref, "root.erofs", 0) as sink:
        sink.write(made.files["root.erofs"][:1000])
    again = Files(files.root)
    again.prepare()
    missing = again.begin(made.ref, made.manifest, {})
    assert missing is not None
    assert missing["root.erofs"] == 1000
    assert missing["initrd"] == 0


def test_a_piece_that_does_not_follow_is_refused(files: Files) -> None:
    made = image()
    files.begin(made.ref, made.manifest, {})
    for offset in (1, 10**9):
        with pytest.raises(BusyError, match="0 bytes of initrd are here"):
            files.receive(made.ref, "initrd", offset).__enter__()


def test_two_cannot_bring_the_same_file_at_once(files: Files) -> None:
    made = image()
    files.begin(made.ref, made.manifest, {})
    with files.receive(made.ref, "initrd", 0):
        with pytest.raises(BusyError) as caught:
            files.receive(made.ref, "initrd", 0).__enter__()
        assert caught.value.code == "depot.receiving"
        with pytest.raises(BusyError, match="is being brought"):
            files.complete(made.ref)


def test_more_than_the_manifest_says_is_refused(files: Files) -> None:
    made = image()
    files.begin(made.ref, made.manifest, {})
    with pytest.raises(BacklineError) as caught, files.receive(made.ref, "vmlinuz", 0) as sink:
        sink.write(made.files["vmlinuz"] + b"x")
    assert caught.value.code == "depot.size"


@pytest.mark.parametrize("name", ["root.erofs.new", "../../depot.db", "manifest.json", "sbom.cdx.json"])
def test_only_the_files_of_a_version_are_taken(files: Files, name: str) -> None:
    made = image()
    files.begin(made.ref, made.manifest, {})
    with pytest.raises(MissingError):
        files.receive(made.ref, name, 0).__enter__()


@pytest.mark.parametrize("name", ["..", "nfsroot/..", "/etc", "Nfsroot", ""])
def test_a_version_is_named_well_or_unknown(name: str) -> None:
    for role, version in ((name, ONE), ("nfsroot", name)):
        with pytest.raises(MissingError):
            ref_of(role, version)


def test_a_version_that_is_not_all_here_is_not_completed(files: Files) -> None:
    made = image()
    files.begin(made.ref, made.manifest, {})
    with files.receive(made.ref, "initrd", 0) as sink:
        sink.write(made.files["initrd"])
    with pytest.raises(InputError, match=r"root\.erofs, root\.verity, vmlinuz"):
        files.complete(made.ref)


def test_a_file_that_is_not_the_manifests_is_thrown_away_and_the_others_stay(files: Files) -> None:
    made = image()
    bring(files, made, root_erofs=made.files["root.erofs"][::-1])
    with pytest.raises(IntegrityError) as caught:
        files.complete(made.ref)
    assert caught.value.code == "depot.hash"
    assert not serves(files, made)
    assert files.begin(made.ref, made.manifest, {}) == {"root.erofs": 0}
    bring(files, made)
    files.complete(made.ref)
    assert serves(files, made)


def test_another_manifest_begins_the_upload_anew(files: Files) -> None:
    one, other = image(), image(change="another build")
    bring(files, one)
    missing = files.begin(other.ref, other.manifest, {})
    assert missing is not None
    assert missing["root.erofs"] == 0


def test_a_version_that_is_here_is_never_replaced(files: Files) -> None:
    one, other = image(), image(change="another build")
    bring(files, one)
    files.complete(one.ref)
    assert files.begin(one.ref, one.manifest, {"ben": b"his"}) is None
    with pytest.raises(BusyError) as caught:
        files.begin(other.ref, other.manifest, {})
    assert caught.value.code == "conflict.version"
    assert (files.images / "nfsroot" / ONE / "manifest.json.ben.sig").read_bytes() == b"his"


def test_what_another_version_has_too_is_not_brought_again(files: Files) -> None:
    one, two = image(ONE), image(TWO)
    bring(files, one)
    files.complete(one.ref)
    assert set(files.begin(two.ref, two.manifest, {}) or {}) == {"root.erofs", "root.verity"}
    bring(files, two)
    files.complete(two.ref)
    assert serves(files, two)
    files.remove(one.ref)
    assert serves(files, two)


def test_a_removed_version_is_gone_as_a_whole(files: Files) -> None:
    made = image()
    bring(files, made)
    files.complete(made.ref)
    files.remove(made.ref)
    assert not serves(files, made)
    assert files.find(made.ref) is None
    assert list(files.work.iterdir()) == []
    with pytest.raises(MissingError):
        files.remove(made.ref)


def test_an_upload_that_nobody_goes_on_with_is_forgotten(files: Files) -> None:
    made = image()
    files.begin(made.ref, made.manifest, {})
    assert files.forget_uploads(older=3600) == []
    for path in [*(files.root / "incoming/nfsroot" / ONE).iterdir()]:
        os.utime(path, (1, 1))
    assert files.forget_uploads(older=3600) == [Ref("nfsroot", ONE)]
    with pytest.raises(MissingError):
        files.complete(made.ref)


def test_a_full_disk_says_so_before_the_first_byte_or_later_and_the_upload_goes_on(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("missing capability: root")
    root = tmp_path / "small"
    root.mkdir()
    made = image(size=2_000_000)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "depot", root], check=True)
    try:
        files = Files(root)
        files.prepare()
        (root / "something").write_bytes(bytes(2_500_000))
        with pytest.raises(HostError, match="are to be brought, and the disk has room for") as caught:
            bring(files, made)
        assert caught.value.code == "depot.full"
        (root / "something").unlink()
        files.begin(made.ref, made.manifest, {"anna": b"sig"})
        (root / "something").write_bytes(bytes(2_500_000))
        with pytest.raises(HostError) as caught, files.receive(made.ref, "root.erofs", 0) as sink:
            sink.write(made.files["root.erofs"])
        assert caught.value.code == "depot.full"
        subprocess.run(["mount", "-o", "remount,size=8m", root], check=True)
        bring(files, made)
        files.complete(made.ref)
        assert serves(files, made)
    finally:
        subprocess.run(["umount", root], check=True)
