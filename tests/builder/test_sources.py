"""The sources beside a version: what they hold, that they are the recipe's. `test_faults` has a whole check of one."""

from __future__ import annotations

import os
import tarfile
from pathlib import Path

import pytest

from builder import gc, image, recipe, sources
from builder.image import Shop
from builder.settings import Settings
from builder.store import SOURCE, Store
from services.common.errors import InputError, IntegrityError
from services.common.process import run
from services.common.versions import Ref
from tests.builder import checkout, locks, stock


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return checkout.make(tmp_path / "checkout")


def pack(root: Path, target: Path) -> Path:
    sources.pack(root, checkout.lock_of(root), target / SOURCE)
    return target / SOURCE


def unpack(archive: Path, target: Path) -> Path:
    sources.unpack(archive, target)
    return target


def names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir() or path.is_symlink()}


@pytest.mark.parametrize("role", ["gw", "web", "seat"])
def test_what_was_unpacked_has_the_recipe_of_the_checkout(root: Path, tmp_path: Path, role: str) -> None:
    there = unpack(pack(root, tmp_path), tmp_path / "there")
    locked = sources.locked(tmp_path / SOURCE)
    assert checkout.recipe_of(there, role, locked) == checkout.recipe_of(root, role)


@pytest.mark.parametrize("role", ["gw", "rhfs", "nfsroot", "nfsroot-desktop"])
def test_every_real_role_has_the_same_recipe_from_its_sources(shop: Shop, tmp_path: Path, role: str) -> None:
    sources.pack(shop.root, shop.lock, tmp_path / SOURCE)
    there = unpack(tmp_path / SOURCE, tmp_path / "there")
    again = recipe.of_image(there, role, sources.locked(tmp_path / SOURCE))
    assert again == recipe.of_image(shop.root, role, shop.lock)


def test_the_same_files_give_the_same_archive_wherever_they_lie(root: Path, tmp_path: Path) -> None:
    other = checkout.make(tmp_path / "somewhere" / "else")
    for path in other.rglob("*.py"):
        os.utime(path, (1, 1))
        path.chmod(0o600)
    (tmp_path / "two").mkdir()
    assert pack(root, tmp_path).read_bytes() == pack(other, tmp_path / "two").read_bytes()


def test_an_archive_holds_the_builder_and_neither_tests_nor_documents(root: Path, tmp_path: Path) -> None:
    found = names(unpack(pack(root, tmp_path), tmp_path / "there"))
    assert {f"builder/{name}" for name in recipe.SHAPING if "/" not in name} <= found
    assert "builder/check.py" in found
    assert not [name for name in found if name.startswith(("tests/", "docs/", "e2e/"))]


def test_what_git_ignores_is_not_in_it(root: Path, tmp_path: Path) -> None:
    checkout.write(root, "images/gw/mkosi.extra/etc/secret.swp", "mine")
    assert "images/gw/mkosi.extra/etc/secret.swp" not in names(unpack(pack(root, tmp_path), tmp_path / "there"))


def test_links_and_modes_are_kept(root: Path, tmp_path: Path) -> None:
    (root / "images/gw/mkosi.extra/etc/localtime").symlink_to("/usr/share/zoneinfo/UTC")
    there = unpack(pack(root, tmp_path), tmp_path / "there")
    assert (there / "images/gw/mkosi.extra/etc/localtime").readlink() == Path("/usr/share/zoneinfo/UTC")
    assert os.access(there / "images/gw/mkosi.postinst.chroot", os.X_OK)


@pytest.mark.parametrize("name", ["/etc/cron.d/x", "../x", "images/../../x"])
def test_a_name_that_leads_out_is_refused(tmp_path: Path, name: str) -> None:
    with tarfile.open(tmp_path / "source.tar", "w") as archive:
        archive.addfile(tarfile.TarInfo(name))
    run(["zstd", "-q", tmp_path / "source.tar"])
    with pytest.raises(IntegrityError, match="no place"):
        sources.unpack(tmp_path / SOURCE, tmp_path / "there")


def test_a_file_cannot_be_written_through_a_link(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    with tarfile.open(tmp_path / "source.tar", "w") as archive:
        link = tarfile.TarInfo("images")
        link.type, link.linkname = tarfile.SYMTYPE, str(outside)
        archive.addfile(link)
        archive.addfile(tarfile.TarInfo("images/x"))
    run(["zstd", "-q", tmp_path / "source.tar"])
    with pytest.raises((IntegrityError, OSError)):
        sources.unpack(tmp_path / SOURCE, tmp_path / "there")
    assert list(outside.iterdir()) == []


@pytest.mark.parametrize("data", [b"", b"nothing of zstd's", b"(\xb5/\xfd"])
def test_damage_is_one_error(tmp_path: Path, data: bytes) -> None:
    (tmp_path / SOURCE).write_bytes(data)
    with pytest.raises(IntegrityError, match="no archive of sources"):
        sources.unpack(tmp_path / SOURCE, tmp_path / "there")


def staged(root: Path, folder: Path, store: Store) -> Ref:
    """A version with sources in a store."""
    ref = stock.stage(folder, packages=[stock.package("inside")])
    sources.pack(root, checkout.lock_of(root), folder / SOURCE)
    store.add(ref.role, ref.version, folder)
    return ref


def test_sources_lie_beside_a_version_and_are_not_compared(root: Path, tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    ref = staged(root, tmp_path / "staged", store)
    store.verify(ref.role, ref.version)
    (tmp_path / "staged" / SOURCE).write_bytes(b"of another builder")
    store.add(ref.role, ref.version, tmp_path / "staged")
    assert sources.locked(store.path(ref.role, ref.version) / SOURCE) == checkout.lock_of(root)


def test_the_pool_keeps_what_building_a_kept_version_again_takes(root: Path, tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    staged(root, tmp_path / "staged", store)
    found = gc.gather(store, None).versions[0].hashes
    assert {locks.package(name).sha256 for name in ("mkosi", "nginx", "systemd")} < found
    assert stock.package("inside").sha256 in found


def test_a_version_with_broken_sources_is_collected_as_any_other(root: Path, tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    ref = staged(root, tmp_path / "staged", store)
    path = store.path(ref.role, ref.version) / SOURCE
    path.chmod(0o644)
    path.write_bytes(b"")
    assert gc.gather(store, None).versions[0].hashes == {stock.package("inside").sha256}


def test_a_version_without_sources_asks_for_its_commit(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    ref = stock.stage(tmp_path / "staged")
    store.add(ref.role, ref.version, tmp_path / "staged")
    shop = Shop.open(Settings(store=str(store.root), cache=str(tmp_path / "cache")))
    with pytest.raises(InputError) as caught:
        sources.run_again(shop, ref, "check", "gw")
    assert caught.value.code == "check.sources"
    assert "commit" in (caught.value.hint or "")


def test_sources_of_another_recipe_are_refused_before_anything_of_them_runs(root: Path, tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    ref = stock.stage(tmp_path / "staged", recipe={"files": {"images/gw/mkosi.extra/etc/nginx/nginx.conf": "0644 0"}})
    sources.pack(root, checkout.lock_of(root), tmp_path / "staged" / SOURCE)
    store.add(ref.role, ref.version, tmp_path / "staged")
    shop = Shop.open(Settings(store=str(store.root), cache=str(tmp_path / "cache")))
    with pytest.raises(IntegrityError, match=r"nginx\.conf is not the recipe's"):
        sources.run_again(shop, ref, "check", "gw")
    assert list((tmp_path / "cache/work").iterdir()) == []


def test_a_build_works_on_the_checkout_as_it_was_when_it_began(root: Path, tmp_path: Path) -> None:
    shop = Shop(
        Settings(cache=str(tmp_path / "cache")), root, root / "images/images.lock", _lock=checkout.lock_of(root)
    )
    wanted = recipe.of_image(root, "gw", shop.lock)
    with image.frozen(shop, wanted) as (still, archive):
        checkout.write(root, "images/base/mkosi.extra/etc/motd", "goodbye\n")
        assert (still.root / "images/base/mkosi.extra/etc/motd").read_text() == "welcome\n"
        assert recipe.of_image(still.root, "gw", still.lock) == wanted
        assert sources.locked(archive) == shop.lock
    assert list((tmp_path / "cache/work").iterdir()) == []


def test_an_edit_between_plan_and_build_is_noticed(root: Path, tmp_path: Path) -> None:
    shop = Shop(
        Settings(cache=str(tmp_path / "cache")), root, root / "images/images.lock", _lock=checkout.lock_of(root)
    )
    wanted = recipe.of_image(root, "gw", shop.lock)
    checkout.write(root, "images/base/mkosi.extra/etc/motd", "goodbye\n")
    with pytest.raises(InputError) as caught, image.frozen(shop, wanted):
        pass
    assert caught.value.code == "image.edited"
    assert list((tmp_path / "cache/work").iterdir()) == []
