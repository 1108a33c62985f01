"""The pool: a file is only ever under the hash that it has, and apt takes the repositories that are made of it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from builder.lock import LockedPackage
from builder.pool import Pool, file_name, make_repository, stanza
from services.common.errors import IntegrityError, MissingError
from services.common.process import ProcessFailed, run
from tests.builder import debs, locks

Apt = Callable[..., str]


@pytest.fixture
def pool(tmp_path: Path) -> Pool:
    return Pool(tmp_path / "pool")


def put(pool: Pool, package: LockedPackage, data: bytes) -> Path:
    part = pool.path(package.sha256, ".part")
    part.parent.mkdir(parents=True, exist_ok=True)
    part.write_bytes(data)
    return pool.adopt(part, sha256=package.sha256, size=package.size, name=package.name)


def put_deb(pool: Pool, folder: Path, name: str, version: str = "1.0-1", **fields: str) -> LockedPackage:
    deb = debs.build(folder, name, version, fields=fields)
    package = debs.locked(deb)
    put(pool, package, deb.read_bytes())
    return package


# Files


APP = locks.package("app", data=b"some bytes")


def test_a_good_file_is_there_under_its_hash(pool: Pool) -> None:
    assert put(pool, APP, b"some bytes").name == f"{hashlib.sha256(b'some bytes').hexdigest()}.deb"


def test_everyone_may_read_the_pool_whatever_the_umask(pool: Pool) -> None:
    umask = os.umask(0o077)
    try:
        path = put(pool, APP, b"some bytes")
    finally:
        os.umask(umask)
    assert path.stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize(("data", "code"), [(b"SOME BYTES", "pool.hash"), (b"more than that", "pool.size")])
def test_a_wrong_file_is_refused(pool: Pool, data: bytes, code: str) -> None:
    with pytest.raises(IntegrityError) as caught:
        put(pool, APP, data)
    assert caught.value.code == code


@pytest.mark.parametrize("data", [b"SOME BYTES", b"more than that"])
def test_a_wrong_file_is_deleted(pool: Pool, data: bytes) -> None:
    with pytest.raises(IntegrityError):
        put(pool, APP, data)
    assert [path for path in pool.root.rglob("*") if path.is_file()] == []


def test_a_file_of_another_size_counts_as_missing(pool: Pool) -> None:
    put(pool, APP, b"some bytes").write_bytes(b"cut")
    assert pool.missing([APP]) == [APP]


def test_a_good_pool_is_verified(pool: Pool) -> None:
    put(pool, APP, b"some bytes")
    pool.verify([APP])


def test_rot_is_found_and_named(pool: Pool) -> None:
    put(pool, APP, b"some bytes").write_bytes(b"some bytez")
    with pytest.raises(IntegrityError) as caught:
        pool.verify([APP])
    assert caught.value.code == "pool.hash"
    assert "app" in caught.value.message


def test_what_has_rotted_is_fetched_again(pool: Pool) -> None:
    put(pool, APP, b"some bytes").write_bytes(b"some bytez")
    with pytest.raises(IntegrityError):
        pool.verify([APP])
    assert pool.missing([APP]) == [APP]


def test_what_is_missing_is_named_by_a_verification(pool: Pool) -> None:
    with pytest.raises(MissingError) as caught:
        pool.verify([APP])
    assert caught.value.code == "pool.missing"


# Repositories


@pytest.mark.parametrize(
    ("version", "name"),
    [("1.0-1", "app_1.0-1_amd64.deb"), ("2:1.0~rc1+b2", "app_2%3A1.0~rc1+b2_amd64.deb")],
)
def test_files_have_the_name_that_apt_gives_them(version: str, name: str) -> None:
    assert file_name(locks.package("app", version)) == name


def test_a_stanza_is_the_packages_own_control_and_its_place(pool: Pool, tmp_path: Path) -> None:
    package = put_deb(pool, tmp_path, "app", Depends="lib")
    lines = stanza(pool, package).splitlines()
    assert lines[0] == "Package: app"
    assert {"Depends: lib", "Filename: pool/app_1.0-1_amd64.deb", f"SHA256: {package.sha256}"} <= set(lines)


def test_a_stanza_is_read_once(pool: Pool, tmp_path: Path) -> None:
    package = put_deb(pool, tmp_path, "app")
    first = stanza(pool, package)
    pool.path(package.sha256).write_bytes(b"")
    assert stanza(pool, package) == first


def test_a_repository_of_what_was_not_fetched_is_refused(pool: Pool, tmp_path: Path) -> None:
    with pytest.raises(MissingError) as caught:
        make_repository(pool, [APP], tmp_path / "repo", suite="trixie", epoch=1)
    assert caught.value.code == "pool.missing"
    assert "app" in caught.value.message


def test_a_repository_takes_no_space_of_its_own(pool: Pool, tmp_path: Path) -> None:
    package = put_deb(pool, tmp_path, "app")
    make_repository(pool, [package], tmp_path / "repo", suite="trixie", epoch=1)
    assert (tmp_path / "repo/pool/app_1.0-1_amd64.deb").samefile(pool.path(package.sha256))


def test_the_same_packages_give_the_same_index(pool: Pool, tmp_path: Path) -> None:
    package = put_deb(pool, tmp_path, "app")
    texts = set()
    for name in ("one", "two"):
        make_repository(pool, [package], tmp_path / name, suite="trixie", epoch=1)
        texts |= {path.read_bytes() for path in sorted((tmp_path / name / "dists").rglob("Release"))}
    assert len(texts) == 1


@pytest.fixture
def apt(tmp_path: Path, pool: Pool) -> Apt:
    """The host's apt, which knows nothing but a repository of app (which needs lib) and lib."""
    packages = [put_deb(pool, tmp_path, "app", "2:1.0-1", Depends="lib"), put_deb(pool, tmp_path, "lib")]
    make_repository(pool, packages, tmp_path / "repo", suite="trixie", epoch=locks.EPOCH)
    for name in ("etc/sources.list.d", "state/lists/partial", "cache/archives/partial"):
        (tmp_path / "apt" / name).mkdir(parents=True)
    (tmp_path / "apt/etc/sources.list").write_text(f"deb [trusted=yes] file:{tmp_path}/repo trixie main\n")
    config = tmp_path / "apt/apt.conf"
    config.write_text(
        f'Dir::Etc "{tmp_path}/apt/etc";\nDir::State "{tmp_path}/apt/state";\nDir::Cache "{tmp_path}/apt/cache";\n'
        'Dir::State::status "/dev/null";\nAPT::Architecture "amd64";\nAPT::Sandbox::User "root";\n'
        'Acquire::Languages "none";\nDebug::NoLocking "true";\n'
    )

    def call(*words: str) -> str:
        return run(list(words), cwd=tmp_path, env={**os.environ, "APT_CONFIG": str(config), "LC_ALL": "C"}).stdout

    call("apt-get", "update", "--error-on=any")
    return call


def test_apt_takes_a_repository_of_ours(apt: Apt) -> None:
    assert "Version: 2:1.0-1" in apt("apt-cache", "show", "app")


def test_apt_resolves_in_a_repository_of_ours(apt: Apt) -> None:
    lines = apt("apt-get", "install", "--simulate", "app").splitlines()
    assert sorted(line.split()[1] for line in lines if line.startswith("Inst ")) == ["app", "lib"]


def test_apt_fetches_what_it_verified(apt: Apt, tmp_path: Path) -> None:
    apt("apt-get", "download", "app")
    assert (tmp_path / "app_2%3a1.0-1_amd64.deb").exists()


def test_apt_refuses_a_file_that_has_rotted(apt: Apt, pool: Pool, tmp_path: Path) -> None:
    path = next(tmp_path.glob("repo/pool/app_*"))
    path.write_bytes(path.read_bytes().replace(b"a test", b"a toad"))
    with pytest.raises(ProcessFailed) as caught:
        apt("apt-get", "download", "app")
    assert "Hash Sum mismatch" in caught.value.completed.stderr
