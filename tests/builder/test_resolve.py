"""Resolving: what is locked stays, what may move moves, and what left the mirror is named with the way out.

The archives are made here, by suite as Debian's, of tiny packages; the host's apt resolves. Only Debian's signatures
are left out: the archives are trusted by setting.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest

from builder import config, mirrors, resolve
from builder.lock import Lock, LockedPackage, Pocket, RoleRequest
from builder.mirrors import Mirrors
from builder.pool import Pool
from builder.resolve import Update
from services.common.errors import BacklineError, InputError, MissingError
from tests.builder import checkout, debs, locks

ALL = Update(everything=True)


# Is the lock stale?


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkout.make(tmp_path_factory.mktemp("stale") / "checkout", git=False)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return checkout.make(tmp_path / "checkout", git=False)


def stale(root: Path, locked: Lock) -> str:
    """Why the lock is stale after an edit."""
    config._load.cache_clear()
    return resolve.stale(root, locked) or "fresh"


def test_a_lock_that_fits_is_fresh(original: Path) -> None:
    assert stale(original, checkout.lock_of(original)) == "fresh"


EDITS = {
    "a package more": (
        "images/gw/mkosi.conf",
        "[Include]\nInclude=../base\n[Content]\nPackages=nginx,zstd\n",
        "images/gw asks for other packages than the lock has (+zstd)",
    ),
    "a package less": (
        "images/gw/mkosi.conf",
        "[Include]\nInclude=../base\n",
        "images/gw asks for other packages than the lock has (-nginx)",
    ),
    "another include": (
        "images/web/mkosi.conf",
        "[Include]\nInclude=../plain\n",
        "images/web asks for other packages than the lock has (another Include=)",
    ),
    "a new image": ("images/late/mkosi.conf", "[Content]\nPackages=bash\n", "images/late is not in the lock"),
    "other requirements": (
        "requirements/image.txt",
        "idna==2.0\n",
        "requirements/image.txt changed since the lock was written",
    ),
}


@pytest.mark.parametrize("name", EDITS)
def test_an_edit_makes_the_lock_stale_with_its_reason(root: Path, name: str) -> None:
    checkout.write(root, "images/plain/mkosi.conf", checkout.FILES["images/base/mkosi.conf"])
    locked = checkout.lock_of(root)
    locked = msgspec.structs.replace(
        locked, roles=locked.roles | {"plain": RoleRequest(config.load(root, "plain").packages)}
    )
    assert stale(root, locked) == "fresh"
    file, text, reason = EDITS[name]
    checkout.write(root, file, text)
    assert stale(root, locked) == reason


def test_an_image_that_is_gone_makes_the_lock_stale(original: Path) -> None:
    locked = checkout.lock_of(original)
    locked = msgspec.structs.replace(locked, roles=locked.roles | {"old": RoleRequest(request=[])})
    assert stale(original, locked) == "the lock has old, which images/ has not"


def test_comments_do_not_make_the_lock_stale(root: Path) -> None:
    locked = checkout.lock_of(root)
    checkout.write(root, "images/gw/mkosi.conf", "# why\n" + checkout.FILES["images/gw/mkosi.conf"])
    assert stale(root, locked) == "fresh"


def test_a_stale_lock_comes_with_the_command(root: Path) -> None:
    locked = checkout.lock_of(root)
    checkout.write(root, "requirements/image.txt", "idna==2.0\n")
    with pytest.raises(InputError) as caught:
        resolve.require_fresh(root, locked)
    assert (caught.value.code, caught.value.hint) == ("lock.stale", "run `build lock`")


def test_requirements_that_are_not_there_are_named(root: Path) -> None:
    checkout.write(root, "images/base/image.toml", 'wheels = "imagge"\n')
    with pytest.raises(InputError) as caught:
        resolve.requirement_hashes(root)
    assert (caught.value.code, caught.value.where) == ("image.wheels", "requirements/imagge.txt")


# Rules


@pytest.mark.parametrize(("update", "free"), [(Update(), False), (ALL, True), (Update(names=frozenset({"app"})), True)])
def test_only_what_is_named_may_move(update: Update, free: bool) -> None:
    assert (update.frees("app"), update.frees("lib")) == (free, update.everything)


def test_what_may_not_move_is_pinned() -> None:
    old = locks.lock([locks.package("app", "1"), locks.package("lib", "1~a+b")])
    pins = resolve._preferences(old, Update(names=frozenset({"app"})))
    assert pins == "Package: lib\nPin: version 1~a+b\nPin-Priority: 1001\n\n"


def test_the_first_lock_pins_nothing() -> None:
    assert resolve._preferences(None, Update()) == ""


def row(package: LockedPackage) -> tuple[str, str, int, str]:
    name = f"{package.name}_{package.version}_{package.architecture}.deb"
    return (f"http://mirror.example/{package.path}", name, package.size, package.sha256)


def fields(package: LockedPackage, *, list_name: str, source: str = "") -> dict[str, str]:
    return {
        "Package": package.name,
        "Version": package.version,
        "Architecture": package.architecture,
        "Filename": package.path,
        "Size": str(package.size),
        "list": list_name,
    } | ({"Source": source} if source else {})


APP = locks.package("app")


@pytest.mark.parametrize(
    ("list_name", "archive"),
    [
        ("mirror.example_debian_dists_trixie_main_binary-amd64_Packages", "debian"),
        ("mirror.example_debian_dists_trixie-updates_main_binary-amd64_Packages", "debian"),
        ("mirror.example_debian-security_dists_trixie-security_main_binary-amd64_Packages", "debian-security"),
        ("my-security.example_debian_dists_trixie_main_binary-amd64_Packages", "debian"),
    ],
)
def test_the_archive_of_a_package_is_its_suites(list_name: str, archive: str) -> None:
    (found,) = resolve._packages({"gw": [row(APP)]}, {APP.sha256: fields(APP, list_name=list_name)}, None)
    assert found.archive == archive


PACKAGES = "x_dists_trixie_main_binary-amd64_Packages"


@pytest.mark.parametrize(
    ("source", "expected"),
    [("", ("app", "1.0-1")), ("src", ("src", "1.0-1")), ("src (1.0)", ("src", "1.0"))],
)
def test_a_package_names_its_source(source: str, expected: tuple[str, str]) -> None:
    stanzas = {APP.sha256: fields(APP, list_name=PACKAGES, source=source)}
    (found,) = resolve._packages({"gw": [row(APP)]}, stanzas, None)
    assert (found.source, found.source_version) == expected


def test_a_package_names_every_role_that_holds_it() -> None:
    stanzas = {APP.sha256: fields(APP, list_name=PACKAGES)}
    (found,) = resolve._packages({"web": [row(APP)], "gw": [row(APP)]}, stanzas, None)
    assert found.roles == ["gw", "web"]


def test_a_package_that_was_locked_keeps_its_place_on_the_mirror() -> None:
    old = locks.lock([APP])
    (found,) = resolve._packages({"web": [row(APP)]}, {}, old)
    assert (found.path, found.roles) == (APP.path, ["web"])


def test_one_name_in_two_versions_is_refused() -> None:
    two = locks.package("app", "2.0-1")
    stanzas = {package.sha256: fields(package, list_name=PACKAGES) for package in (APP, two)}
    with pytest.raises(BacklineError) as caught:
        resolve._packages({"gw": [row(APP)], "web": [row(two)]}, stanzas, None)
    assert caught.value.code == "lock.versions"


# Whole resolutions


class Archive:
    """An archive as Debian's, and one small checkout that wants packages of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.root = folder / "checkout"
        self.pool = Pool(folder / "pool")
        self.debs: list[Path] = []
        self.addresses = {"debian": "", "debian-security": ""}
        checkout.write(self.root, "images/gw/mkosi.conf", "[Content]\nPackages=app\n")
        checkout.write(self.root, "images/gw/image.toml", "publish = true\n")

    def has(self, *versions: str, security: Sequence[str] = ()) -> None:
        """What is on the mirror now, as "app 1.0"; what was there before is not."""
        self.debs = [self.deb(version) for version in ("base-files 1", *versions)]
        suites = {"trixie": self.debs, "trixie-updates": []}
        self.addresses["debian"] = debs.publish(self.folder / "debian", suites)
        updates = {"trixie-security": [self.deb(version) for version in security]}
        self.addresses["debian-security"] = debs.publish(self.folder / "debian-security", updates)

    def deb(self, text: str) -> Path:
        name, version = text.split()
        path = self.folder / f"{name}_{version}_amd64.deb"
        return path if path.exists() else debs.build(self.folder, name, version, fields=self.fields(name))

    def fields(self, name: str) -> dict[str, str]:
        return {"Depends": {"app": "lib", "broken": "nowhere"}[name]} if name in ("app", "broken") else {}

    def keep(self, *names: str) -> None:
        """Put packages of the mirror into the pool."""
        for deb in self.debs:
            package = debs.locked(deb)
            if package.name in names:
                path = self.pool.path(package.sha256)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(deb.read_bytes())

    def resolve(self, old: Lock | None = None, update: Update | None = None) -> Lock:
        config._load.cache_clear()
        return resolve.resolve(
            self.root,
            old=old,
            update=update or Update(),
            where=Mirrors(dict(self.addresses), {}),
            pool=self.pool,
            cache=self.folder / "cache",
            tree=None,
        )


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Archive:
    one = Archive(tmp_path)

    def sources(where: Mirrors, tree: Path | None) -> str:
        return "".join(
            f"Types: deb\nURIs: {where.live[name]}\nSuites: {suite}\nComponents: main\nTrusted: yes\n\n"
            for suite, name in resolve.POCKETS.items()
        )

    pocket = Pocket("debian", "trixie", ["main"], locks.EPOCH, "e" * 64)
    monkeypatch.setattr(resolve, "_sources", sources)
    monkeypatch.setattr(resolve, "_pockets", lambda lists, where: [pocket])
    monkeypatch.setattr(resolve, "_ESSENTIAL", ["base-files"])
    monkeypatch.setattr(mirrors, "acquire_options", lambda: 'Acquire::Retries "0";\n')
    return one


def versions(lock: Lock) -> dict[str, str]:
    return {package.name: package.version for package in lock.packages}


@pytest.fixture
def old(archive: Archive) -> Lock:
    """A lock of the mirror's first state; nothing is in the pool."""
    archive.has("app 1.0", "lib 1.0")
    return archive.resolve()


def test_a_lock_has_what_is_asked_for_with_what_that_needs(old: Lock) -> None:
    assert versions(old) == {"app": "1.0", "base-files": "1", "lib": "1.0"}


def test_a_package_is_locked_with_its_hash_and_its_place(old: Lock, archive: Archive) -> None:
    expected = debs.locked(archive.deb("app 1.0"))
    assert [package for package in old.packages if package.name == "app"] == [expected]


def test_resolving_again_changes_nothing(old: Lock, archive: Archive) -> None:
    assert archive.resolve(old) == old


def test_what_is_locked_stays_when_newer_versions_come(old: Lock, archive: Archive) -> None:
    archive.has("app 1.0", "app 2.0", "lib 1.0", "lib 2.0")
    assert archive.resolve(old) == old


def test_a_named_package_moves_alone(old: Lock, archive: Archive) -> None:
    archive.has("app 1.0", "app 2.0", "lib 1.0", "lib 2.0")
    new = archive.resolve(old, Update(names=frozenset({"app"})))
    assert versions(new) == {"app": "2.0", "base-files": "1", "lib": "1.0"}


def test_everything_moves_when_asked(old: Lock, archive: Archive) -> None:
    archive.has("app 2.0", "lib 2.0")
    assert versions(archive.resolve(old, ALL)) == {"app": "2.0", "base-files": "1", "lib": "2.0"}


def test_an_update_of_the_security_archive_is_told_as_one(old: Lock, archive: Archive) -> None:
    archive.has("app 1.0", "lib 1.0", security=["lib 1.1"])
    new = archive.resolve(old, ALL)
    assert [package.archive for package in new.packages if package.name == "lib"] == ["debian-security"]


def test_a_package_that_left_the_mirror_stays_when_it_is_in_the_pool(old: Lock, archive: Archive) -> None:
    archive.keep("app")
    archive.has("app 2.0", "lib 1.0")
    assert archive.resolve(old) == old


def test_a_package_that_left_mirror_and_pool_is_named_with_the_command(old: Lock, archive: Archive) -> None:
    archive.has("app 2.0", "lib 1.0")
    with pytest.raises(MissingError) as caught:
        archive.resolve(old)
    assert caught.value.code == "lock.left"
    assert "app 1.0 left the mirror" in caught.value.message
    assert caught.value.hint == "run `build lock --update app`"


def test_a_file_that_the_mirror_still_has_and_does_not_list_is_kept(old: Lock, archive: Archive) -> None:
    archive.has("app 2.0", "lib 1.0")
    shutil.copy(archive.deb("app 1.0"), archive.folder / "debian/pool")
    assert archive.resolve(old) == old


def test_what_is_kept_and_needs_what_is_gone_is_named_with_the_command(archive: Archive) -> None:
    """As glibc does: its packages depend on each other exactly, and only some of them are in the pool."""
    exact = {"Source": "app", "Depends": "lib (= 1.0)"}
    archive.fields = lambda name: {"app": exact, "lib": {"Source": "app"}}.get(name, {})  # type: ignore[method-assign]
    archive.has("app 1.0", "lib 1.0")
    old = archive.resolve()
    archive.keep("lib")
    exact["Depends"] = "lib (= 2.0)"
    archive.has("app 2.0", "lib 2.0")
    with pytest.raises(MissingError) as caught:
        archive.resolve(old)
    assert caught.value.hint == "resolve again with `build lock --update app`, or set BACKLINE_BUILD_SNAPSHOT"
    new = archive.resolve(old, Update(names=frozenset({"app"})))
    assert versions(new) == {"app": "2.0", "base-files": "1", "lib": "2.0"}


def test_the_command_for_a_package_that_left_works(old: Lock, archive: Archive) -> None:
    archive.has("app 2.0", "lib 1.0")
    new = archive.resolve(old, Update(names=frozenset({"app"})))
    assert versions(new) == {"app": "2.0", "base-files": "1", "lib": "1.0"}


def test_a_new_package_joins_what_is_locked(old: Lock, archive: Archive) -> None:
    archive.has("app 1.0", "lib 1.0", "lib 2.0", "more 1.0")
    checkout.write(archive.root, "images/gw/mkosi.conf", "[Content]\nPackages=app,more\n")
    assert versions(archive.resolve(old)) == versions(old) | {"more": "1.0"}


def test_a_package_that_nobody_asks_for_any_more_goes(old: Lock, archive: Archive) -> None:
    checkout.write(archive.root, "images/gw/mkosi.conf", "[Content]\nPackages=lib\n")
    assert versions(archive.resolve(old)) == {"base-files": "1", "lib": "1.0"}


def test_a_name_that_no_archive_has_is_named_with_its_image(archive: Archive) -> None:
    archive.has("app 1.0", "lib 1.0")
    checkout.write(archive.root, "images/gw/mkosi.conf", "[Content]\nPackages=aap\n")
    with pytest.raises(MissingError) as caught:
        archive.resolve()
    assert (caught.value.code, caught.value.where) == ("lock.unknown", "images/gw/mkosi.conf")
    assert "'aap'" in caught.value.message


def test_packages_that_cannot_be_together_are_named_with_their_image(archive: Archive) -> None:
    archive.has("broken 1.0")
    checkout.write(archive.root, "images/gw/mkosi.conf", "[Content]\nPackages=broken\n")
    with pytest.raises(BacklineError) as caught:
        archive.resolve()
    assert (caught.value.code, caught.value.where) == ("lock.conflict", "images/gw/mkosi.conf")
    assert "nowhere" in caught.value.message


def test_a_mirror_out_of_reach_is_missing(archive: Archive) -> None:
    archive.has("app 1.0", "lib 1.0")
    archive.addresses["debian"] = "http://127.0.0.1:1/"
    with pytest.raises(MissingError) as caught:
        archive.resolve()
    assert caught.value.code == "lock.network"


def test_a_role_holds_what_its_parent_holds(archive: Archive) -> None:
    archive.has("app 1.0", "lib 1.0", "more 1.0")
    checkout.write(archive.root, "images/web/mkosi.conf", "[Include]\nInclude=../gw\n[Content]\nPackages=more\n")
    new = archive.resolve()
    assert {package.name for package in new.of("gw")} < {package.name for package in new.of("web")}


def test_nothing_is_written_but_to_the_cache(old: Lock, archive: Archive) -> None:
    archive.keep("app")
    before = {path for path in archive.folder.rglob("*") if "cache" not in path.parts}
    archive.resolve(old)
    ours = {path for path in archive.folder.rglob("*") if "cache" not in path.parts}
    assert {path.suffix for path in ours - before} <= {".control"}
