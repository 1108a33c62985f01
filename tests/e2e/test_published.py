"""What root file servers of a lab hold at its beginning."""

from __future__ import annotations

from pathlib import Path

from builder.store import Store
from e2e import halls, published
from services.common.signing import parse_signers
from services.common.versions import Ref
from services.depot.files import Files
from services.hall import render
from services.roots.held import Folder
from tests.builder.stock import stage

HALL = halls.make(roles={"web": "rhfs"})


def test_every_path_of_a_version_has_its_role_and_id() -> None:
    found = published.Published(Ref("nfsroot", "20261121.bf275d18ebe8"), "0" * 64, 1, (0, 1))
    assert found.path == "/images/nfsroot/20261121.bf275d18ebe8"


def test_a_root_file_server_begins_with_a_version_that_it_would_have_pulled(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    ref = stage(tmp_path / "made", role="nfsroot", kernel="6.12")
    store.add(ref.role, ref.version, tmp_path / "made")
    disk = tmp_path / "disk"
    disk.mkdir()
    published.seed(disk, store, ref, HALL, key=HALL.signer_in(tmp_path))
    files = render.render(HALL.data, render.identify(HALL.data, "rhfs", "rhfs01"))
    signers = parse_signers(files[render.ALLOWED_SIGNERS].content, where="hall.toml")
    assert Folder(disk).refs() == [ref]
    assert Folder(disk).verify(ref, signers).version == ref.version
    inside = Folder(disk).place_of(ref) / "root.erofs"
    assert inside.samefile(store.find(ref.role, ref.version) / "root.erofs"), "nearly nothing is copied"
    assert inside.stat().st_uid == 0
    assert Folder(disk).place_of(ref).stat().st_uid == published.OWNER
    kernel = inside.with_name("vmlinuz")
    assert not kernel.samefile(store.find(ref.role, ref.version) / "vmlinuz"), "its service links what is the same"
    assert (kernel.stat().st_uid, kernel.stat().st_mode & 0o777) == (published.OWNER, 0o444)


def test_a_depot_begins_with_a_version_that_was_brought_to_it(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    ref = stage(tmp_path / "made", role="nfsroot", kernel="6.12")
    store.add(ref.role, ref.version, tmp_path / "made")
    published.stock(tmp_path / "depot", store, ref)
    depot = Files(tmp_path / "depot")
    depot.prepare()
    whole = depot.need(ref)
    assert set(whole.files) == {"root.erofs", "root.verity", "vmlinuz", "initrd"}
    assert {depot.path(ref, name).read_bytes() for name in whole.files} == {
        (store.find(ref.role, ref.version) / name).read_bytes() for name in whole.files
    }
    assert (tmp_path / "depot").stat().st_uid == published.DEPOT_OWNER


def test_the_user_of_the_folder_is_the_images() -> None:
    text = (Path(__file__).parents[2] / "images/ids.toml").read_text()
    assert f'name = "backline-roots", uid = {published.OWNER},' in text
    assert f'name = "backline-depot", uid = {published.DEPOT_OWNER},' in text
