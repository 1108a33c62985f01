"""Versions that a host takes in."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from services.common import manifest as manifests
from services.common import signing
from services.common.errors import InputError, IntegrityError, MissingError, UsageError
from services.common.manifest import SIGNATURE_NAMESPACE
from services.hostd.machines_images import Images, parse, runs_on_newer, schema
from services.hostd.machines_schema import Schema

ROLE, VERSION = "rhfs", "20260131.0123456789ab"
DATA = b"a root file system" * 1000


def make(folder: Path, *, data: bytes = DATA) -> Path:
    folder.mkdir()
    (folder / "root.erofs").write_bytes(data)
    manifest = manifests.Manifest(
        role=ROLE,
        version=VERSION,
        recipe_id="0" * 64,
        tree_id="0" * 64,
        root_hash="0" * 64,
        epoch=1,
        artefacts={"root.erofs": manifests.Artefact(len(DATA), hashlib.sha256(DATA).hexdigest())},
        packages=[],
        wheels=[],
    )
    (folder / "manifest.json").write_bytes(manifests.encode(manifest))
    return folder


def take(images: Images, folder: Path, *signers: signing.Signer, unsigned: bool = False) -> tuple[str, str]:
    return images.take_in(folder, signers, unsigned=unsigned, told=lambda _: None)


def test_a_signed_version_is_taken_in_whole(tmp_path: Path) -> None:
    key = tmp_path / "key"
    public = signing.new_key(key, comment="test")
    folder = make(tmp_path / "version")
    signature = signing.sign((folder / "manifest.json").read_bytes(), key, SIGNATURE_NAMESPACE)
    (folder / "manifest.json.me.sig").write_bytes(signature)
    images = Images(tmp_path / "images")
    assert take(images, folder, signing.Signer("me", public)) == (ROLE, VERSION)
    assert (images.base / ROLE / VERSION / "root.erofs").read_bytes() == DATA
    assert (images.roles(), images.versions(ROLE)) == ([ROLE], [VERSION])
    assert take(images, folder, signing.Signer("me", public)) == (ROLE, VERSION), "a second time is no error"


def test_a_signature_of_somebody_else_is_refused(tmp_path: Path) -> None:
    signing.new_key(tmp_path / "other", comment="other")
    public = signing.new_key(tmp_path / "mine", comment="mine")
    folder = make(tmp_path / "version")
    signature = signing.sign((folder / "manifest.json").read_bytes(), tmp_path / "other", SIGNATURE_NAMESPACE)
    (folder / "manifest.json.me.sig").write_bytes(signature)
    with pytest.raises(IntegrityError, match="no trusted key"):
        take(Images(tmp_path / "images"), folder, signing.Signer("me", public))


def test_a_version_that_nobody_signed_is_taken_only_when_told_to(tmp_path: Path) -> None:
    images = Images(tmp_path / "images")
    with pytest.raises(IntegrityError, match="nobody has signed"):
        take(images, make(tmp_path / "version"))
    assert images.roles() == []
    assert take(images, tmp_path / "version", unsigned=True) == (ROLE, VERSION)


@pytest.mark.parametrize("data", [DATA[:-1], DATA + b"x", b"A" + DATA[1:]])
def test_what_is_not_what_the_manifest_says_leaves_nothing(tmp_path: Path, data: bytes) -> None:
    images = Images(tmp_path / "images")
    with pytest.raises(IntegrityError, match="not what the manifest says"):
        take(images, make(tmp_path / "version", data=data), unsigned=True)
    assert list((images.base / ROLE).iterdir()) == []


@pytest.mark.parametrize("text", ["", "{}", "[1]"])
def test_what_is_no_version_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(IntegrityError, match="not a manifest"):
        take(Images(tmp_path / "images"), tmp_path, unsigned=True)


def test_a_role_that_is_a_path_is_refused(tmp_path: Path) -> None:
    folder = make(tmp_path / "version")
    text = (folder / "manifest.json").read_text()
    (folder / "manifest.json").write_text(text.replace('"rhfs"', '"../x"'))
    with pytest.raises(IntegrityError, match="names no version"):
        take(Images(tmp_path / "images"), folder, unsigned=True)


def test_what_a_dead_one_left_goes_with_the_next(tmp_path: Path) -> None:
    images = Images(tmp_path / "images")
    (images.base / ROLE / f".{VERSION}.new").mkdir(parents=True)
    (images.base / ROLE / f".{VERSION}.gone").mkdir()
    assert images.roles() == []
    take(images, make(tmp_path / "version"), unsigned=True)
    assert [path.name for path in (images.base / ROLE).iterdir()] == [VERSION]
    images.drop(ROLE, VERSION)
    assert list((images.base / ROLE).iterdir()) == []


def test_a_version_that_is_not_here_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="does not hold rhfs 20260131"):
        Images(tmp_path).find(ROLE, VERSION)


def test_versions_are_written_like_this(tmp_path: Path) -> None:
    assert parse("rhfs") == ("rhfs", "")
    assert parse(f"rhfs@{VERSION}") == parse(f"rhfs/{VERSION}") == (ROLE, VERSION)
    for text in ("", "rhfs@latest", "../x", "rhfs@" + VERSION[:-1]):
        with pytest.raises(UsageError):
            parse(text)


def test_an_image_says_what_state_it_runs_on(tmp_path: Path) -> None:
    assert schema(tmp_path) is None
    path = tmp_path / "usr/lib/backline/state.toml"
    path.parent.mkdir(parents=True)
    path.write_text('writes = "2"\nruns_on = ["1"]\n')
    assert schema(tmp_path) == Schema(writes="2", runs_on=["1"])
    path.write_text("writes = 2\n")
    with pytest.raises(InputError, match="cannot be read"):
        schema(tmp_path)


@pytest.mark.parametrize(
    ("old", "new", "runs"),
    [
        (None, None, False),
        (None, Schema(writes="1"), False),
        (Schema(writes="1"), None, False),
        (Schema(writes="1"), Schema(writes="1"), True),
        (Schema(writes="1"), Schema(writes="2"), False),
        (Schema(writes="1", runs_on=["2"]), Schema(writes="2"), True),
    ],
)
def test_an_old_version_runs_on_new_state_only_when_it_says_so(
    old: Schema | None, new: Schema | None, *, runs: bool
) -> None:
    assert runs_on_newer(old, new) is runs
