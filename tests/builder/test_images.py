"""The real images: gw, rhfs and nfsroot are built, and are what they promise to be."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from builder import check, config, image, lock, recipe, tree
from builder.image import Built, Shop
from builder.sandbox import Environment, Sandbox
from services.common import manifest as manifests
from services.common.manifest import Manifest
from services.common.process import run

pytestmark = [
    pytest.mark.images,
    pytest.mark.skipif(os.geteuid() != 0, reason="building an image needs root"),
]

ROLES = ("gw", "rhfs", "nfsroot")


@pytest.fixture(scope="module")
def built(shop: Shop) -> dict[str, Built]:
    """The three versions, built where the store has them not."""
    return {role: image.build(shop, role) for role in ROLES}


@pytest.fixture(scope="module", params=ROLES)
def version(request: pytest.FixtureRequest, built: dict[str, Built]) -> Built:
    """Each version in turn."""
    return built[request.param]


@pytest.fixture(scope="module")
def manifest(version: Built) -> Manifest:
    return manifests.decode((version.path / manifests.NAME).read_bytes(), where=str(version.path))


@pytest.fixture(scope="module")
def entries(version: Built) -> dict[str, tree.Entry]:
    """The version's tree, by path."""
    return {os.fsdecode(path): entry for path, entry in check.read_tree(version.path).items()}


@pytest.fixture(scope="module")
def mounted(version: Built, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The version's root.erofs, mounted; where the kernel cannot, its files are taken out of it."""
    folder = tmp_path_factory.mktemp("root")
    if run(["mount", "-t", "erofs", "-o", "ro", version.path / "root.erofs", folder], check=False).returncode:
        pytest.skip("this kernel cannot mount EROFS from a file")
    yield folder
    run(["umount", folder])


def test_the_version_is_lock_date_and_recipe(shop: Shop, version: Built, manifest: Manifest) -> None:
    assert version.ref.version == f"{shop.lock.date}.{manifest.recipe_id[:12]}"


def test_the_recipe_of_the_checkout_is_that_of_the_version(shop: Shop, version: Built, manifest: Manifest) -> None:
    assert recipe.of_image(shop.root, version.ref.role, shop.lock).identity == manifest.recipe_id


def test_every_artefact_has_its_hash(shop: Shop, version: Built) -> None:
    shop.store.verify(version.ref.role, version.ref.version)


def test_a_kernel_and_its_initrd_are_there_exactly_where_the_role_has_them(shop: Shop, version: Built) -> None:
    has = config.load(shop.root, version.ref.role).kernel
    assert {name: (version.path / name).exists() for name in ("vmlinuz", "initrd")} == {"vmlinuz": has, "initrd": has}


def test_the_kernel_and_the_modules_are_of_one_release(manifest: Manifest, entries: dict[str, tree.Entry]) -> None:
    releases = {path.split("/")[3] for path in entries if path.startswith("usr/lib/modules/") and path.count("/") == 3}
    assert releases == ({manifest.kernel} if manifest.kernel else set())


def test_the_tree_manifest_is_that_of_the_image(mounted: Path, manifest: Manifest) -> None:
    assert tree.tree_id(tree.render(tree.scan(mounted))) == manifest.tree_id


def test_the_root_hash_is_that_of_the_image(shop: Shop, tools_tree: Path, version: Built, manifest: Manifest) -> None:
    sandbox = Sandbox(tools=tools_tree, read_only={version.path: "/v"})
    command = ["veritysetup", "verify", "/v/root.erofs", "/v/root.verity"]
    sandbox.run([*command, manifest.root_hash], variables=Environment().variables(0))
    other = "0" * 64
    assert sandbox.run([*command, other], variables=Environment().variables(0), check=False).returncode != 0


def test_nothing_of_one_machine_is_inside(entries: dict[str, tree.Entry]) -> None:
    forbidden = ("etc/hostname", "var/lib/systemd/random-seed", "var/lib/dbus/machine-id", "etc/bind/rndc.key")
    assert [path for path in forbidden if path in entries] == []
    assert [path for path in entries if path.startswith(("etc/ssh/ssh_host_", "var/lib/apt/lists/"))] == []


def test_no_entry_is_younger_than_the_lock(shop: Shop, entries: dict[str, tree.Entry]) -> None:
    assert max(entry.mtime for entry in entries.values()) <= shop.lock.epoch


def test_no_id_of_the_version_is_inside(mounted: Path, version: Built, manifest: Manifest) -> None:
    words = [version.ref.version, manifest.recipe_id[:12], manifest.tree_id[:12]]
    found = subprocess.run(
        ["grep", "-rlF", *(f"-e{word}" for word in words), mounted / "etc", mounted / "usr/lib/backline"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.stdout == ""


def test_our_services_are_enabled(entries: dict[str, tree.Entry]) -> None:
    wanted = {
        "etc/systemd/system/multi-user.target.wants/backline-hostd.service",
        "etc/systemd/system/sockets.target.wants/backline-hostd.socket",
    }
    assert wanted <= entries.keys()
    assert [path for path in entries if path.endswith(".wants/backline-hall.service")] != []


def test_what_needs_a_hall_is_not_enabled_or_waits_for_one(entries: dict[str, tree.Entry], mounted: Path) -> None:
    servers = ("kea-dhcp4-server", "named", "tftpd-hpa", "nginx", "nfs-ganesha", "postgresql")
    wants = [path for path in entries if path.startswith("etc/systemd/system/") and ".wants/" in path]
    enabled = {path.rpartition("/")[2] for path in wants} & {f"{server}.service" for server in servers}
    for unit in enabled:
        drop_ins = [path.read_text() for path in (mounted / f"usr/lib/systemd/system/{unit}.d").glob("*.conf")]
        assert any("\nConditionPathExists=!/run/backline/unconfigured\n" in text for text in drop_ins), unit


def test_our_program_runs_on_the_images_own_python(mounted: Path) -> None:
    command = [
        "unshare",
        "--mount",
        "--net",
        "--pid",
        "--fork",
        "/usr/sbin/chroot",
        str(mounted),
        "/usr/bin/backline",
        "--help",
    ]
    text = run(command, env={"PATH": "/usr/bin:/bin"}).stdout
    assert "hostd" in text
    assert "build " not in text


def test_asking_again_builds_nothing(shop: Shop, built: dict[str, Built]) -> None:
    again = {role: image.build(shop, role) for role in ROLES}
    assert [one.fresh for one in again.values()] == [False] * len(ROLES)
    assert {role: one.path for role, one in again.items()} == {role: one.path for role, one in built.items()}


def test_a_role_is_its_content_wherever_and_however_it_is_built(shop: Shop, built: dict[str, Built]) -> None:
    report = check.check(shop, "rhfs")
    assert report.same, check.render(report)


@pytest.mark.full
@pytest.mark.parametrize("role", ["gw", "nfsroot", "nfsroot-desktop"])
def test_every_role_is_its_content(shop: Shop, role: str) -> None:
    report = check.check(shop, role)
    assert report.same, check.render(report)


@pytest.mark.full
def test_another_clone_with_empty_store_and_pool_gives_the_same_bytes(
    shop: Shop, built: dict[str, Built], tmp_path: Path
) -> None:
    clone = tmp_path / "a clone" / "of it"
    run(["git", "-c", "safe.directory=*", "clone", "--quiet", shop.root, clone])
    if (clone / lock.NAME).read_bytes() != shop.lock_path.read_bytes():
        (clone / lock.NAME).write_bytes(shop.lock_path.read_bytes())
    other = Shop.open(
        type(shop.settings)(store=str(tmp_path / "store"), cache=str(tmp_path / "cache")), shop.progress, root=clone
    )
    for role in ROLES:
        again = image.build(other, role)
        assert again.ref == built[role].ref
        assert (again.path / manifests.NAME).read_bytes() == (built[role].path / manifests.NAME).read_bytes()
