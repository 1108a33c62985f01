"""What was saved comes back as a whole; what does not fit is refused before it is touched; who dies is followed."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from services.common.errors import BacklineError, BusyError, HostError, MissingError
from services.state import databases
from services.state.archive import open_archive
from services.state.parts import PARTS
from services.state.restore import AREA, REPLACED
from services.state.schema import Manifest
from services.state.seal import seal
from services.state.shelf import JOURNAL
from tests.crash import Victims
from tests.state import rig


def restore(root: Path, archive: Path, **numbers: int) -> list[str]:
    """Restore, as the command does with its unit. Returns what was kept."""
    one = rig.restore_of(root)
    one.begin(archive, rig.KEY, numbers=numbers)
    return one.finish().kept


def assert_new_only(root: Path) -> None:
    """Nothing of a restore is left but what it keeps."""
    assert not list(root.rglob(AREA))
    assert not (rig.settings(root).folder / JOURNAL).exists()
    assert not list(rig.settings(root).folder.glob(".work-*"))


def test_everything_is_as_it_was_saved(new: Path, archive: Path, old: Path) -> None:
    wanted, before = rig.words(old), rig.words(new)
    assert before.keys() == wanted.keys()
    assert not set(before.values()) & set(wanted.values())
    kept = restore(new, archive)
    assert rig.words(new) == wanted
    assert_new_only(new)
    assert (new / "etc/ssh/sshd_config").read_text() == "the image's"
    assert (new / "var/lib/backline-dns/lock").exists()
    assert len(kept) == len([part for part in PARTS if part.name not in ("host", "authority")])
    (aside,) = [Path(path) for path in kept if "backline-mdb" in path]
    with contextlib.closing(sqlite3.connect(aside / "mdb.db")) as connection:
        assert connection.execute("SELECT word FROM words").fetchone() == ("new",)


def test_owners_and_modes_come_back(new: Path, archive: Path) -> None:
    restore(new, archive)
    key = new / "var/lib/backline/access.key"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert key.stat().st_uid == os.geteuid()
    (kept,) = (new / "var/lib/backline").glob(f"{REPLACED}*")
    assert stat.S_IMODE(kept.stat().st_mode) == 0o700, "what was replaced is nobody else's to read"


def test_it_works_where_nothing_was_yet(tmp_path: Path, archive: Path, old: Path) -> None:
    wanted = rig.words(old)
    root = tmp_path / "empty"
    (root / "etc/ssh").mkdir(parents=True)
    assert restore(root, archive) == []
    assert rig.words(root) == wanted
    assert_new_only(root)


def test_feeds_begin_another_history_and_ids_of_publications_are_not_given_out_again(new: Path, archive: Path) -> None:
    restore(new, archive)
    for name in ("mdb", "udb", "netboot", "depot"):
        with contextlib.closing(sqlite3.connect(rig.database(new, name))) as connection:
            ((log, revision),) = connection.execute("SELECT log, revision FROM feed_counter").fetchall()
            assert log != "0123456789abcdef"
            assert revision == 7
            assert connection.execute("SELECT count(*) FROM feed_changes").fetchone() == (0,)


def test_numbers_of_channels_do_not_go_back(new: Path, archive: Path, tmp_path: Path) -> None:
    restore(new, archive, stable=7, exam=2)
    assert rig.numbers(new) == {"stable": 7, "exam": 2}
    again = rig.settings(new).folder / rig.saved(new, at=rig.NOW.timestamp() + 60).name
    shutil.copy(again, tmp_path / again.name)
    restore(new, tmp_path / again.name, stable=5, exam=4)
    assert rig.numbers(new) == {"stable": 7, "exam": 4}


def test_services_are_stopped_once_and_started_once(new: Path, archive: Path) -> None:
    units = rig.Units()
    one = rig.restore_of(new, units)
    one.begin(archive, rig.KEY, numbers={})
    assert units.asked == []
    one.finish()
    assert units.asked == ["stop", "start"]


# What is refused


def altered(archive: Path, folder: Path, **changed: object) -> Path:
    """The same archive under another manifest, well sealed: what another hall or a newer image would have made."""
    into = folder / "altered"
    into.mkdir()
    manifest = open_archive(archive, into, rig.KEY)
    manifest = msgspec.structs.replace(manifest, **changed)
    _pack_again(manifest, into)
    target = folder / archive.name
    with target.open("wb") as file:
        seal(into / "archive", file, rig.KEY)
    return target


def _pack_again(manifest: Manifest, into: Path) -> None:
    from services.state.save import _pack

    (into / "parts").mkdir()
    for part in manifest.parts:
        if (into / part.name).exists():
            (into / part.name).rename(into / "parts" / part.name)
    _pack(manifest, into)


def with_revision(manifest: Manifest, revision: str) -> list[object]:
    return [
        msgspec.structs.replace(
            part,
            entries=[
                msgspec.structs.replace(entry, revision=revision) if entry.path == "netboot.db" else entry
                for entry in part.entries
            ],
        )
        for part in manifest.parts
    ]


@contextlib.contextmanager
def untouched(root: Path, code: str, *, says: str = "") -> Iterator[None]:
    """A refusal with that code, after which everything is as it was."""
    before = rig.tree(root)
    with pytest.raises(BacklineError) as caught:
        yield
    assert caught.value.code == code
    assert says in caught.value.message
    assert caught.value.hint or code in ("state.form", "state.damaged")
    assert rig.tree(root) == before
    assert_new_only(root)


def test_another_hall_s_is_refused(new: Path, archive: Path, tmp_path: Path) -> None:
    with untouched(new, "state.hall"):
        restore(new, altered(archive, tmp_path, hall="finals"))


def test_a_newer_schema_is_refused_by_name(new: Path, archive: Path, tmp_path: Path, monkeypatch: object) -> None:
    known = databases.revisions

    def older(service: str, *, code: Path) -> list[str]:
        return known(service, code=code)[:1]

    monkeypatch.setattr(databases, "revisions", older)  # type: ignore[attr-defined]
    with untouched(new, "state.newer", says="the schema 0002 of netboot is newer"):
        restore(new, archive)


def test_a_truncated_or_changed_one_is_refused(new: Path, archive: Path, tmp_path: Path) -> None:
    content = archive.read_bytes()
    bad = tmp_path / archive.name
    for broken in (content[:-1], content[: len(content) // 2], content[:-20] + b"x" + content[-19:]):
        bad.write_bytes(broken)
        with untouched(new, "state.damaged"):
            restore(new, bad)
    bad.write_bytes(b"something else")
    with untouched(new, "state.form"):
        restore(new, bad)


def test_the_wrong_key_is_refused(new: Path, archive: Path) -> None:
    for key in (None, rig.OTHER_KEY):
        with untouched(new, "state.key"):
            rig.restore_of(new).begin(archive, key, numbers={})


@pytest.mark.parametrize("path", ["../../etc/passwd", "/etc/passwd", "a/../../b", "a//b", "."])
def test_a_path_that_leads_out_of_its_part_is_refused(new: Path, archive: Path, tmp_path: Path, path: str) -> None:
    with contextlib.ExitStack() as stack:
        into = tmp_path / "in"
        into.mkdir()
        manifest = open_archive(archive, into, rig.KEY)
        parts = [
            msgspec.structs.replace(part, entries=[msgspec.structs.replace(each, path=path) for each in part.entries])
            if part.name == "rollout"
            else part
            for part in manifest.parts
        ]
        import io
        import tarfile

        from services.common.codec import encode_json
        from services.state.save import MANIFEST

        data = encode_json(msgspec.structs.replace(manifest, parts=parts))
        with tarfile.open(tmp_path / "evil", "w:gz") as tar:
            info = tarfile.TarInfo(MANIFEST)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
        bad = tmp_path / archive.name
        with bad.open("wb") as file:
            seal(tmp_path / "evil", file, rig.KEY)
        stack.enter_context(untouched(new, "state.form"))
        restore(new, bad)


def test_a_database_that_is_not_what_it_should_be_is_refused(
    new: Path, old: Path, archive: Path, tmp_path: Path
) -> None:
    into = tmp_path / "out"
    into.mkdir()
    manifest = open_archive(archive, into, rig.KEY)
    bad = altered(archive, tmp_path, parts=with_revision(manifest, "0001"))
    with untouched(new, "state.damaged"):
        restore(new, bad)


def test_there_is_no_such_archive(new: Path, tmp_path: Path) -> None:
    with untouched(new, "state.archive"):
        restore(new, tmp_path / "gw-00000000-20260601T120000Z.state")


def test_another_restore_is_not_begun_amid_one(new: Path, archive: Path) -> None:
    one = rig.restore_of(new)
    one.begin(archive, rig.KEY, numbers={})
    with pytest.raises(BusyError) as caught:
        one.begin(archive, rig.KEY, numbers={})
    assert caught.value.code == "state.restoring"
    one.finish()
    with pytest.raises(MissingError) as missing:
        one.finish()
    assert missing.value.code == "state.nothing"


def test_a_full_disk_is_noticed_before_anything_is_touched(new: Path, archive: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("missing capability: root")
    depot = new / "var/lib/backline-depot"
    shutil.rmtree(depot)
    depot.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", depot], check=True)
    try:
        before = rig.tree(new)
        with pytest.raises(HostError) as caught:
            restore(new, archive)
        assert caught.value.code == "state.full"
        assert rig.tree(new) == before
        assert_new_only(new)
    finally:
        subprocess.run(["umount", depot], check=True)


# Who dies


@pytest.fixture(scope="module")
def victims() -> Iterator[Victims]:
    with Victims("tests.state.dying") as made:
        yield made


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory where there is one: SIGKILL does not need a disk, and a busy one makes each step slow."""
    shared = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shared if shared.is_dir() else tmp_path) as made:
        yield Path(made)


def lay_out(molds: dict[str, Path], archive: Path, folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(molds["new"], folder / "new", symlinks=True)
    shutil.copy(archive, folder)
    return folder


@pytest.mark.parametrize("every", [5, pytest.param(1, marks=pytest.mark.full)])
def test_killed_at_any_step_it_is_finished_or_never_began(
    molds: dict[str, Path], archive: Path, memory: Path, victims: Victims, every: int
) -> None:
    old, new = rig.words(molds["old"]), rig.words(molds["new"])
    steps = victims.steps(lay_out(molds, archive, memory / "all"), "restore")
    assert len(steps) > 40
    assert rig.words(memory / "all/new") == old
    began = steps.index("staged: noted")
    for number in range(0, len(steps), every):
        folder = lay_out(molds, archive, memory / "one")
        victims.kill(folder, number, "restore")
        journal = rig.settings(folder / "new").folder / JOURNAL
        if number < began:
            assert not journal.exists(), steps[number]
            assert rig.words(folder / "new") == new, steps[number]
            victims.steps(folder, "restore")  # what was laid ready is in nobody's way
        elif number < len(steps) - 1:
            assert journal.exists(), steps[number]
            victims.steps(folder, "finish")
        assert rig.words(folder / "new") == old, steps[number]
        assert_new_only(folder / "new")
        assert rig.numbers(folder / "new") == {"stable": 7}


def test_killed_again_and_again_it_gets_to_its_end(
    molds: dict[str, Path], archive: Path, memory: Path, victims: Victims
) -> None:
    folder = lay_out(molds, archive, memory / "one")
    rig.restore_of(folder / "new").begin(archive, rig.KEY, numbers={})
    for number in (0, 3, 9, 12, 14):
        with contextlib.suppress(AssertionError):  # it may be over before
            victims.kill(folder, number, "finish")
    if (rig.settings(folder / "new").folder / JOURNAL).exists():
        victims.steps(folder, "finish")
    assert rig.words(folder / "new") == rig.words(molds["old"])
    assert_new_only(folder / "new")


def test_what_stopped_anywhere_can_be_taken_back_also_when_that_is_killed(
    molds: dict[str, Path], archive: Path, memory: Path, victims: Victims
) -> None:
    new = rig.words(molds["new"])
    before = rig.tree(molds["new"])
    steps = victims.steps(lay_out(molds, archive, memory / "all"), "restore")
    for number in range(steps.index("staged: noted"), steps.index("placed: noted"), 11):
        folder = lay_out(molds, archive, memory / "one")
        victims.kill(folder, number, "restore")
        last = 2 * (number % 9)
        with contextlib.suppress(AssertionError):  # it may be over before
            victims.kill(folder, last, "abandon")
        if (rig.settings(folder / "new").folder / JOURNAL).exists():
            victims.steps(folder, "abandon")
        assert rig.words(folder / "new") == new, (steps[number], last)
        assert rig.tree(folder / "new") == before, (steps[number], last)
        assert_new_only(folder / "new")
