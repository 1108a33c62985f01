"""The store: whole versions or none, whatever happens to the process, the disk and the bytes."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import stat
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.store import Store
from services.common import manifest as manifests
from services.common import signing
from services.common.errors import HostError, IntegrityError, MissingError, UsageError
from services.common.process import run
from services.common.signing import Signer
from services.common.versions import Ref, human, mentions, valid_version
from tests.builder import stock

PROJECT = Path(__file__).resolve().parents[2]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def ref(store: Store, tmp_path: Path) -> Ref:
    """A version that is in the store."""
    return put(store, tmp_path / "staged")


def put(store: Store, folder: Path, **options: object) -> Ref:
    ref = stock.stage(folder, **options)  # type: ignore[arg-type]
    store.add(ref.role, ref.version, folder)
    return ref


def damage(path: Path, change: Callable[[Path], object]) -> None:
    """Change a file of the store as a disk or an intruder would."""
    path.parent.chmod(0o755)
    if path.exists():
        path.chmod(0o644)
    change(path)


def nothing_aside(store: Store) -> bool:
    return not store.aside.root.exists() or not any(store.aside.root.iterdir())


# Adding


def test_an_added_version_is_whole_and_read_only(store: Store, ref: Ref) -> None:
    path = store.find(ref.role, ref.version)
    assert path == store.root / "images" / "gw" / ref.version
    assert sorted(os.listdir(path)) == [  # noqa: PTH208
        "manifest.json",
        "recipe.json",
        "root.erofs",
        "root.verity",
        "sbom.cdx.json",
        "tree.zst",
    ]
    assert stat.S_IMODE(path.stat().st_mode) == 0o555
    assert {stat.S_IMODE(file.stat().st_mode) for file in path.iterdir()} == {0o444}
    assert store.verify(ref.role, ref.version).version == ref.version
    assert nothing_aside(store)


def test_modes_do_not_depend_on_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        store = Store(tmp_path / "store")
        ref = put(store, tmp_path / "staged")
    finally:
        os.umask(before)
    path = store.find(ref.role, ref.version)
    assert stat.S_IMODE(path.stat().st_mode) == 0o555
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o755
    assert stat.S_IMODE((path / "root.erofs").stat().st_mode) == 0o444


def test_a_copied_folder_stays_as_it_was(store: Store, ref: Ref, tmp_path: Path) -> None:
    (tmp_path / "staged" / "root.erofs").write_bytes(b"other")
    store.verify(ref.role, ref.version)


def test_what_was_staged_in_the_store_is_renamed(store: Store) -> None:
    with store.staging() as folder:
        ref = stock.stage(folder)
        inode = (folder / "root.erofs").stat().st_ino
        path = store.add(ref.role, ref.version, folder)
        store.set_current(ref)  # not blocked by the staging folder's own lock
    assert (path / "root.erofs").stat().st_ino == inode
    assert nothing_aside(store)


def test_a_staging_folder_that_is_not_added_is_gone(store: Store) -> None:
    with pytest.raises(ZeroDivisionError), store.staging() as folder:  # noqa: PT012
        (folder / "big").write_bytes(b"x")
        raise ZeroDivisionError
    assert nothing_aside(store)


def test_adding_again_changes_nothing(store: Store, ref: Ref, tmp_path: Path) -> None:
    inode = store.find(ref.role, ref.version).stat().st_ino
    assert store.add(ref.role, ref.version, tmp_path / "staged").stat().st_ino == inode
    assert nothing_aside(store)


def test_other_bytes_under_the_same_version_are_a_conflict(store: Store, ref: Ref, tmp_path: Path) -> None:
    again = stock.stage(tmp_path / "again", root=b"not reproducible")
    assert again == ref
    with pytest.raises(IntegrityError) as caught:
        store.add(ref.role, ref.version, tmp_path / "again")
    assert caught.value.code == "store.conflict"
    store.verify(ref.role, ref.version)
    assert nothing_aside(store)


def test_signatures_of_a_fetched_version_come_along(store: Store, tmp_path: Path) -> None:
    ref = stock.stage(tmp_path / "staged")
    (tmp_path / "staged" / "manifest.json.anna.sig").write_bytes(b"armour")
    store.add(ref.role, ref.version, tmp_path / "staged")
    assert store.signatures(ref.role, ref.version) == {"anna": b"armour"}


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / "root.erofs").unlink(), "root.erofs: is missing"),
        (lambda folder: (folder / "root.erofs").write_bytes(b"short"), "5 bytes, the manifest says 5000"),
        (lambda folder: (folder / "root.erofs").write_bytes(b"erofS" * 1000), "root.erofs: sha256 is"),
        (lambda folder: (folder / "recipe.json").write_bytes(b"{}"), "recipe.json: sha256 is"),
        (lambda folder: (folder / "recipe.json").unlink(), "recipe.json: is missing"),
        (lambda folder: (folder / "manifest.json").write_bytes(b"{"), "not a manifest"),
        (lambda folder: (folder / "manifest.json").unlink(), "manifest.json: is missing"),
    ],
)
def test_a_staged_folder_that_is_not_its_manifest_is_refused(
    store: Store, tmp_path: Path, spoil: Callable[[Path], object], message: str
) -> None:
    ref = stock.stage(tmp_path / "staged")
    spoil(tmp_path / "staged")
    with pytest.raises(IntegrityError, match=message):
        store.add(ref.role, ref.version, tmp_path / "staged")
    assert store.listing().versions == []
    assert nothing_aside(store)


def test_a_link_is_no_artefact(store: Store, tmp_path: Path) -> None:
    ref = stock.stage(tmp_path / "staged")
    (tmp_path / "staged" / "root.erofs").rename(tmp_path / "elsewhere")
    (tmp_path / "staged" / "root.erofs").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(IntegrityError, match="not a regular file"):
        store.add(ref.role, ref.version, tmp_path / "staged")


def test_a_foreign_file_in_the_staging_folder_is_refused(store: Store) -> None:
    with store.staging() as folder:
        ref = stock.stage(folder)
        (folder / "notes.txt").write_text("x")
        with pytest.raises(IntegrityError, match=r"notes.txt: a file that the manifest does not name"):
            store.add(ref.role, ref.version, folder)


def test_a_manifest_cannot_name_paths(store: Store, tmp_path: Path) -> None:
    ref = stock.stage(tmp_path / "staged")
    path = tmp_path / "staged" / "manifest.json"
    path.write_text(path.read_text().replace('"root.erofs"', '"../root.erofs"'))
    with pytest.raises(IntegrityError, match="cannot name an artefact"):
        store.add(ref.role, ref.version, tmp_path / "staged")


def test_a_manifest_of_another_version_is_refused(store: Store, tmp_path: Path) -> None:
    ref = stock.stage(tmp_path / "staged")
    with pytest.raises(IntegrityError, match=f"it is the manifest of {ref}"):
        store.add("web", ref.version, tmp_path / "staged")


def test_many_adds_of_one_version_at_once_are_one_version(store: Store, tmp_path: Path) -> None:
    ref = stock.stage(tmp_path / "staged")
    with ThreadPoolExecutor(8) as pool:
        adds = [pool.submit(Store(store.root).add, ref.role, ref.version, tmp_path / "staged") for _ in range(16)]
    assert {add.result() for add in adds} == {store.path(ref.role, ref.version)}
    store.verify(ref.role, ref.version)
    assert nothing_aside(store)


# Names


@pytest.mark.parametrize("role", ["", "..", "gw/x", "GW", "-x", "a" * 33, "gw\n"])
def test_what_is_no_role_is_refused(store: Store, role: str) -> None:
    with pytest.raises(UsageError):
        store.path(role, "20260131.0123456789ab")


@pytest.mark.parametrize(
    "version", ["", "..", "20260131", "20261331.0123456789ab", "20260131.0123456789aB", "20260131.0123456789ab\n"]
)
def test_what_is_no_version_is_refused(store: Store, version: str) -> None:
    with pytest.raises(UsageError):
        store.path("gw", version)


versions = st.builds("{:%Y%m%d}.{}".format, st.dates(), st.text("0123456789abcdef", min_size=12, max_size=12)).filter(
    lambda version: len(version) == 21
)


@given(versions, st.sampled_from(["", "gw/", "\n", '"', "x ", "-"]))
def test_versions_are_found_in_any_text(version: str, around: str) -> None:
    assert valid_version(version)
    assert mentions(f"{around}{version}{around}") == [version]


@given(st.text())
def test_a_valid_version_has_the_one_shape(text: str) -> None:
    assert not valid_version(text) or (len(text) == 21 and text[8] == "." and text.isascii())


@given(st.text("0123456789abcdef.", max_size=30))
def test_near_versions_are_told_apart(text: str) -> None:
    date, _, digits = text.partition(".")
    assert not valid_version(text) or (len(date) == 8 and len(digits) == 12)


@given(st.integers(-(1 << 62), 1 << 62))
def test_sizes_for_people_are_short(size: int) -> None:
    assert len(human(size, signed=True)) <= 13 or abs(size) >= 1 << 50


def test_sizes_for_people() -> None:
    assert [human(0), human(1023), human(14234, signed=True), human(-2048), human(1 << 30)] == [
        "0 B",
        "1023 B",
        "+13.9 KiB",
        "-2.0 KiB",
        "1.0 GiB",
    ]


# Finding


def test_versions_are_found_by_recipe(store: Store, ref: Ref) -> None:
    recipe_id = store.manifest(ref.role, ref.version).recipe_id
    assert store.find_recipe("gw", recipe_id) == ref
    assert store.find_recipe("gw", recipe_id[:12] + "0" * 52) is None
    assert store.find_recipe("web", recipe_id) is None


def test_a_version_is_named_by_its_beginning(store: Store, ref: Ref, tmp_path: Path) -> None:
    other = put(store, tmp_path / "web", role="web", date="20260201")
    digits = ref.version.partition(".")[2]
    for text in (str(ref), ref.version, ref.version[:12], digits, digits[:6], "gw/202601", "20260131"):
        assert store.resolve(text) == ref
    assert store.resolve(other.version[:10], role="web") == other
    store.set_current(other)
    assert store.resolve("web") == other


def test_an_ambiguous_beginning_lists_what_it_could_be(store: Store, ref: Ref, tmp_path: Path) -> None:
    other = put(store, tmp_path / "web", role="web")
    with pytest.raises(UsageError) as caught:
        store.resolve("2026")
    assert caught.value.code == "store.ambiguous"
    assert str(ref) in caught.value.message
    assert str(other) in caught.value.message
    assert store.resolve("2026", role="web") == other


def test_an_unknown_version_comes_with_near_names(store: Store, ref: Ref) -> None:
    typo = ref.version[:-1] + ("0" if ref.version[-1] != "0" else "1")
    for call in (lambda: store.resolve(typo), lambda: store.find("gw", typo), lambda: store.verify("gw", typo)):
        with pytest.raises(MissingError) as caught:
            call()
        assert caught.value.code == "store.unknown"
        assert ref.version in (caught.value.hint or "")


def test_an_empty_store_says_so(store: Store) -> None:
    with pytest.raises(MissingError) as caught:
        store.resolve("2026")
    assert caught.value.hint == "the store is empty"
    assert store.listing().versions == []
    assert not store.root.exists()


@pytest.mark.parametrize("text", ["", "/", "gw/", "../../etc", "\0", "%", "gw/../web"])
def test_odd_names_are_unknown(store: Store, ref: Ref, text: str) -> None:
    with pytest.raises(MissingError):
        store.resolve(text)


# Listing


def test_a_listing_is_by_role_date_and_time_of_adding(store: Store, tmp_path: Path) -> None:
    late = put(store, tmp_path / "1", date="20260301")
    second = put(store, tmp_path / "2", date="20260201", recipe={"settings": {"n": "2"}})
    first = put(store, tmp_path / "3", date="20260201", recipe={"settings": {"n": "3"}})
    os.utime(store.find("gw", first.version) / "manifest.json", (1, 1))
    base = put(store, tmp_path / "4", role="base")
    assert [stored.ref for stored in store.listing().versions] == [base, first, second, late]


def test_a_signature_does_not_change_the_time_of_adding(store: Store, ref: Ref, signed: bytes) -> None:
    before = store.listing().versions[0].added
    store.add_signature("gw", ref.version, "anna", signed)
    after = store.listing().versions[0]
    assert (after.added, after.signatures) == (before, ["anna"])


def test_junk_is_reported_and_never_fatal(store: Store, ref: Ref) -> None:
    images = store.root / "images"
    (images / "gw" / "20260131.aaaaaaaaaaaa").mkdir()
    (images / "gw" / "20260131.bbbbbbbbbbbb").mkdir()
    (images / "gw" / "20260131.bbbbbbbbbbbb" / "manifest.json").write_text("{}")
    (images / "gw" / "20260131.cccccccccccc").symlink_to("nowhere")
    (images / "gw" / "20260131.dddddddddddd").write_text("a file")
    (images / "gw" / "20260131.eeeeeeeeeeee").symlink_to(ref.version)
    (images / "gw" / "lost+found").mkdir()
    (images / "README").write_text("hello")
    (images / "UPPER").mkdir()
    listing = store.listing()
    assert [stored.ref for stored in listing.versions] == [ref]
    assert len(listing.problems) == 8
    assert store.resolve(ref.version[:12]) == ref


names = st.sampled_from(["gw", "web", "20260131.0123456789ab", "manifest.json", ".x", "lost+found", "é"])


@given(st.lists(st.tuples(names, names, names, st.sampled_from(["file", "folder", "link", "loop"])), max_size=6))
def test_any_tree_can_be_listed(
    tmp_path_factory: pytest.TempPathFactory, entries: list[tuple[str, str, str, str]]
) -> None:
    store = Store(tmp_path_factory.mktemp("any"))
    for role, version, name, kind in entries:
        path = store.images / role / version / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            match kind:
                case "file":
                    path.write_bytes(b"\xff{")
                case "folder":
                    path.mkdir()
                case "link":
                    path.symlink_to("..")
                case _:
                    path.symlink_to(path)
        except OSError:
            continue
    listing = store.listing()
    assert listing.versions == []
    assert store.refs() == [] or listing.problems


# Checking


@pytest.mark.parametrize("name", ["root.erofs", "root.verity", "tree.zst", "sbom.cdx.json", "recipe.json"])
def test_a_flipped_byte_is_named(store: Store, ref: Ref, name: str) -> None:
    def flip(path: Path) -> None:
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)

    damage(store.path("gw", ref.version) / name, flip)
    with pytest.raises(IntegrityError) as caught:
        store.verify("gw", ref.version)
    assert caught.value.code == "store.tampered"
    assert caught.value.where == str(store.path("gw", ref.version) / name)


@pytest.mark.parametrize(
    "change", [lambda path: os.truncate(path, 10), lambda path: path.unlink(), lambda path: path.write_bytes(b"")]
)
def test_the_quick_check_sees_missing_and_short_files(store: Store, ref: Ref, change: Callable[[Path], object]) -> None:
    recipe_id = store.manifest("gw", ref.version).recipe_id
    damage(store.path("gw", ref.version) / "root.erofs", change)
    for check in (store.check, store.verify, lambda role, _: store.find_recipe(role, recipe_id)):
        with pytest.raises(IntegrityError, match=r"root\.erofs") as caught:
            check("gw", ref.version)
        assert caught.value.code == "store.tampered"


def test_a_manifest_that_was_changed_is_seen(store: Store, ref: Ref) -> None:
    other = ref.version[:-1] + ("0" if ref.version[-1] != "0" else "1")
    shutil.copytree(store.path("gw", ref.version), store.path("gw", other))
    with pytest.raises(IntegrityError, match="it is the manifest of"):
        store.check("gw", other)


def test_a_foreign_file_in_a_version_is_seen_by_the_full_check(store: Store, ref: Ref) -> None:
    damage(store.path("gw", ref.version) / "backdoor", lambda path: path.write_text("x"))
    store.check("gw", ref.version)
    with pytest.raises(IntegrityError, match="backdoor"):
        store.verify("gw", ref.version)


def test_the_quick_check_is_quick(store: Store, tmp_path: Path) -> None:
    packages = [stock.package(f"package-{number}") for number in range(800)]
    ref = put(store, tmp_path / "many", packages=packages)
    recipe_id = store.manifest("gw", ref.version).recipe_id
    times = []
    for _ in range(20):
        start = time.perf_counter()
        assert store.find_recipe("gw", recipe_id) == ref
        times.append(time.perf_counter() - start)
    assert min(times) < 0.005


# Signatures


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("keys")
    for name in ("anna", "ben", "eve"):
        signing.new_key(folder / name, comment=name)
    return {name: folder / name for name in ("anna", "ben", "eve")}


@pytest.fixture
def signers(keys: dict[str, Path]) -> list[Signer]:
    return [Signer(name, signing.read_public(keys[name])) for name in ("anna", "ben")]


@pytest.fixture
def signed(store: Store, ref: Ref, keys: dict[str, Path]) -> bytes:
    """Anna's signature over the version."""
    data = (store.path("gw", ref.version) / "manifest.json").read_bytes()
    return signing.sign(data, keys["anna"], manifests.SIGNATURE_NAMESPACE)


def refused(store: Store, ref: Ref, signers: list[Signer], *, needed: int = 1) -> IntegrityError:
    with pytest.raises(IntegrityError) as caught:
        store.require_signed("gw", ref.version, signers, needed=needed)
    assert ref.version in str(caught.value)
    return caught.value


def test_a_signed_version_names_its_signers(store: Store, ref: Ref, signers: list[Signer], signed: bytes) -> None:
    path = store.add_signature("gw", ref.version, "anna", signed)
    assert path.name == "manifest.json.anna.sig"
    assert stat.S_IMODE(path.stat().st_mode) == 0o444
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o555
    assert store.require_signed("gw", ref.version, signers) == ["anna"]
    store.verify("gw", ref.version)


def test_an_unsigned_version_is_refused(store: Store, ref: Ref, signers: list[Signer]) -> None:
    assert refused(store, ref, signers).code == "signature.missing"


def test_a_stranger_is_refused(store: Store, ref: Ref, signers: list[Signer], keys: dict[str, Path]) -> None:
    data = (store.path("gw", ref.version) / "manifest.json").read_bytes()
    store.add_signature("gw", ref.version, "anna", signing.sign(data, keys["eve"], manifests.SIGNATURE_NAMESPACE))
    error = refused(store, ref, signers)
    assert error.code == "signature.untrusted"
    assert signing.read_public(keys["eve"]).fingerprint() in error.message


def test_a_signature_over_another_manifest_is_refused(
    store: Store, ref: Ref, signers: list[Signer], keys: dict[str, Path]
) -> None:
    other = signing.sign(b"another manifest", keys["anna"], manifests.SIGNATURE_NAMESPACE)
    store.add_signature("gw", ref.version, "anna", other)
    assert refused(store, ref, signers).code == "signature.bad"


def test_a_signature_for_something_else_is_not_even_filed(store: Store, ref: Ref, keys: dict[str, Path]) -> None:
    data = (store.path("gw", ref.version) / "manifest.json").read_bytes()
    with pytest.raises(IntegrityError, match="backline-hall"):
        store.add_signature("gw", ref.version, "anna", signing.sign(data, keys["anna"], "backline-hall"))
    assert store.signatures("gw", ref.version) == {}


def test_a_signature_for_something_else_that_was_put_there_is_refused(
    store: Store, ref: Ref, signers: list[Signer], keys: dict[str, Path]
) -> None:
    path = store.path("gw", ref.version)
    data = signing.sign((path / "manifest.json").read_bytes(), keys["anna"], "backline-hall")
    damage(path / "manifest.json.anna.sig", lambda file: file.write_bytes(data))
    assert refused(store, ref, signers).code == "signature.bad"


def test_an_empty_signature_file_is_refused(store: Store, ref: Ref, signers: list[Signer]) -> None:
    damage(store.path("gw", ref.version) / "manifest.json.anna.sig", lambda file: file.write_bytes(b""))
    assert refused(store, ref, signers).code in ("signature.missing", "signature.untrusted")


def test_two_signatures_of_one_signer_count_once(store: Store, ref: Ref, signers: list[Signer], signed: bytes) -> None:
    store.add_signature("gw", ref.version, "anna", signed)
    store.add_signature("gw", ref.version, "ben", signed)
    assert refused(store, ref, signers, needed=2).code == "signature.few"


def test_two_signers_count_twice(
    store: Store, ref: Ref, signers: list[Signer], signed: bytes, keys: dict[str, Path]
) -> None:
    data = (store.path("gw", ref.version) / "manifest.json").read_bytes()
    store.add_signature("gw", ref.version, "anna", signed)
    store.add_signature("gw", ref.version, "ben", signing.sign(data, keys["ben"], manifests.SIGNATURE_NAMESPACE))
    store.add_signature("gw", ref.version, "eve", signing.sign(data, keys["eve"], manifests.SIGNATURE_NAMESPACE))
    assert store.require_signed("gw", ref.version, signers, needed=2) == ["anna", "ben"]


# Pointers


def test_pins_and_the_current_version_are_roots(store: Store, ref: Ref) -> None:
    store.pin("final", ref)
    store.set_current(ref)
    channel = store.root / "published" / "stable"
    channel.mkdir(parents=True)
    (channel / "gw").write_text(f'{{"channel": "stable", "version": "{ref.version}"}}')
    assert store.pins() == {"final": ref}
    assert store.current("gw") == ref
    roots = store.wanted.roots()
    assert roots.reasons == {ref.version: ["pinned as final", "current", "published on stable"]}
    assert roots.unreadable == {}
    assert store.unpin("final") == ref
    assert store.pins() == {}


def test_a_pin_needs_its_version(store: Store, ref: Ref) -> None:
    with pytest.raises(MissingError):
        store.pin("x", Ref("gw", "20260131.000000000000"))
    with pytest.raises(UsageError):
        store.pin("../x", ref)
    with pytest.raises(MissingError) as caught:
        store.unpin("x")
    assert caught.value.code == "store.pin"


def test_an_unreadable_root_holds_its_role(store: Store, ref: Ref) -> None:
    (store.root / "published" / "stable").mkdir(parents=True)
    (store.root / "published" / "stable" / "gw").write_bytes(b"\xff\xfe")
    (store.root / "pins").mkdir()
    (store.root / "pins" / "odd").write_text("")
    assert set(store.wanted.roots().unreadable) == {"gw", ""}


def test_the_current_version_is_written_only_when_it_changes(store: Store, ref: Ref) -> None:
    store.set_current(ref)
    inode = (store.root / "current" / "gw").stat().st_ino
    store.set_current(ref)
    assert (store.root / "current" / "gw").stat().st_ino == inode


# Death


def steps_of(tmp_path: Path, mode: str) -> list[str]:
    steps: list[str] = []
    store = Store(tmp_path / "counted", hook=steps.append)
    ref = stock.stage(tmp_path / "staged")
    if mode == "rename":
        with store.staging() as folder:
            shutil.copytree(tmp_path / "staged", folder, dirs_exist_ok=True)
            store.add(ref.role, ref.version, folder)
    else:
        store.add(ref.role, ref.version, tmp_path / "staged")
    store.set_current(ref)
    store.pin("keep", ref)
    return steps


@pytest.mark.parametrize("mode", ["copy", "rename"])
def test_a_kill_at_any_step_leaves_no_version_or_a_whole_one(tmp_path: Path, mode: str) -> None:
    steps = steps_of(tmp_path, mode)
    ref = stock.stage(tmp_path / "staged")
    seen = set()
    for step in range(len(steps)):
        root = tmp_path / f"store-{step}"
        argv: list[str | Path] = [
            sys.executable,
            "-m",
            "tests.builder.dying_add",
            root,
            tmp_path / "staged",
            *ref_words(ref),
            str(step),
        ]
        died = subprocess.run([*argv, mode], cwd=PROJECT, check=False)
        assert died.returncode == -signal.SIGKILL, steps[step]
        store = Store(root)
        listing = store.listing()
        assert listing.problems == [], steps[step]
        seen.add(len(listing.versions))
        for stored in listing.versions:
            store.verify(stored.role, stored.version)
        assert store.wanted.roots().unreadable == {}
        # The next run: the same work succeeds, and nothing of the dead one is left.
        store.add(ref.role, ref.version, tmp_path / "staged")
        store.set_current(ref)
        store.pin("keep", ref)
        store.verify(ref.role, ref.version)
        assert nothing_aside(store), steps[step]
        assert store.current("gw") == ref
        assert stat.S_IMODE(store.path("gw", ref.version).stat().st_mode) == 0o555
    assert seen == {0, 1}


def ref_words(ref: Ref) -> list[str]:
    return [ref.role, ref.version]


def test_what_living_processes_write_is_left_alone(store: Store) -> None:
    with store.staging() as folder:
        (folder / "half").write_bytes(b"x")
        assert Store(store.root).aside.clean() == []
        assert Store(store.root).aside.leftovers() == []
        assert (folder / "half").exists()


def test_leftovers_of_any_kind_are_removed(store: Store, ref: Ref) -> None:
    incoming = store.aside.root
    (incoming / "1-dead" / "deep").mkdir(parents=True)
    (incoming / "1-dead" / "deep" / "file").write_text("x")
    (incoming / "1-dead" / "deep").chmod(0o500)
    (incoming / "stray").write_text("x")
    (incoming / "link").symlink_to("/")
    assert len(store.aside.leftovers()) == 3
    assert sorted(store.aside.clean()) == ["1-dead", "link", "stray"]
    assert nothing_aside(store)


# A full disk


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    if os.geteuid() != 0:
        pytest.skip("needs root to mount a tmpfs")
    disk = tmp_path / "disk"
    disk.mkdir()
    run(["mount", "-t", "tmpfs", "-o", "size=8k", "tmpfs", disk])
    try:
        yield disk
    finally:
        run(["umount", disk])


def test_a_full_disk_at_any_point_says_what_to_do_and_leaves_nothing(small_disk: Path, tmp_path: Path) -> None:
    ref = stock.stage(tmp_path / "staged", root=os.urandom(40_000))
    store = Store(small_disk / "store")
    refusals = 0
    for pages in range(2, 100):
        run(["mount", "-o", f"remount,size={4 * pages}k", small_disk])
        try:
            store.add(ref.role, ref.version, tmp_path / "staged")
            break
        except HostError as error:
            refusals += 1
            assert error.code == "store.full"  # noqa: PT017
            assert "build gc" in (error.hint or "")  # noqa: PT017
        assert store.listing().versions == []
        assert store.listing().problems == []
        assert nothing_aside(store)
    assert refusals > 3
    store.verify(ref.role, ref.version)


def test_a_disk_without_inodes_is_full_too(small_disk: Path, tmp_path: Path) -> None:
    ref = stock.stage(tmp_path / "staged")
    store = Store(small_disk / "store")
    for inodes in range(3, 40):
        run(["mount", "-o", f"remount,size=1m,nr_inodes={inodes}", small_disk])
        try:
            store.add(ref.role, ref.version, tmp_path / "staged")
            break
        except HostError as error:
            assert error.code == "store.full"  # noqa: PT017
        assert store.listing().versions == []
    store.verify(ref.role, ref.version)


def test_a_pin_on_a_full_disk_leaves_the_old_pin(small_disk: Path, tmp_path: Path) -> None:
    run(["mount", "-o", "remount,size=1m", small_disk])
    store = Store(small_disk / "store")
    first = put(store, tmp_path / "1")
    second = put(store, tmp_path / "2", recipe={"settings": {"n": "2"}})
    store.pin("keep", first)
    (small_disk / "fill").touch()
    with contextlib.suppress(OSError), (small_disk / "fill").open("wb", buffering=0) as file:
        while file.write(b"x" * 4096):
            pass
    with pytest.raises(HostError) as caught:
        store.pin("keep", second)
    assert caught.value.code == "store.full"
    assert store.pins() == {"keep": first}


def test_an_unprivileged_owner_can_do_everything(tmp_path: Path) -> None:
    """Renaming and opening read-only folders is another matter without root's capabilities."""
    if os.geteuid() != 0:
        pytest.skip("needs root to become someone else")
    ref = stock.stage(tmp_path / "staged")
    home = tmp_path / "home"
    home.mkdir()
    shutil.copytree(tmp_path / "staged", home / "staged")
    run(["chown", "-R", "65534:65534", home])
    program = (
        "import sys; from pathlib import Path; from builder.store import Store\n"
        "from services.common.versions import Ref\n"
        "from services.common import signing; from builder import gc\n"
        "home, role, version = Path(sys.argv[1]), sys.argv[2], sys.argv[3]\n"
        "store = Store(home / 'store'); path = store.add(role, version, home / 'staged')\n"
        "signing.new_key(home / 'key', comment='x')\n"
        "data = (path / 'manifest.json').read_bytes()\n"
        "for _ in range(2):\n"
        "    store.add_signature(role, version, 'x', signing.sign(data, home / 'key', 'backline-image'))\n"
        "store.pin('p', Ref(role, version)); store.unpin('p')\n"
        "done = gc.execute(gc.plan(gc.gather(store, None), gc.Policy(days=0)), store)\n"
        "assert store.refs() == [], store.refs()\n"
        "assert [one.name for one in done.deleted] == [role + '/' + version], done\n"
    )
    for folder in [tmp_path, *tmp_path.parents]:
        if not folder.stat().st_mode & 0o001:
            folder.chmod(folder.stat().st_mode | 0o011)
    # The checkout may lie where only root can look: it is shown in a mount namespace of the test's own.
    places = {PROJECT: tmp_path / "code", Path(sysconfig.get_path("platlib")): tmp_path / "site"}
    mounts = ""
    for source, place in places.items():
        place.mkdir()
        mounts += f"mount --bind {shlex.quote(str(source))} {shlex.quote(str(place))} && "
    become = 'exec setpriv --reuid=65534 --regid=65534 --clear-groups "$@"'
    argv = [
        "unshare",
        "--mount",
        "sh",
        "-c",
        mounts + become,
        "sh",
        os.path.realpath(sys.executable),
        "-B",
        "-c",
        program,
    ]
    environment = {"PYTHONPATH": ":".join(map(str, places.values())), "PATH": os.environ["PATH"]}
    run([*argv, home, *ref_words(ref)], env=environment)
