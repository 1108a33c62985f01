"""What is saved, by whom it can be read, and what stands in the way."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import stat
import subprocess
import threading
from pathlib import Path

import pytest

from services.common.errors import BusyError, HostError
from services.state import retention, save
from services.state.archive import open_archive, read_manifest
from services.state.schema import Kind, parse_name
from services.state.shelf import JOURNAL, listing, locked
from tests.state import rig


def opened(archive: Path, into: Path, key: object = rig.KEY) -> dict[str, bytes]:
    """Files of an archive by part and path."""
    into.mkdir(exist_ok=True)
    open_archive(archive, into, key)  # type: ignore[arg-type]
    return {str(path.relative_to(into)): path.read_bytes() for path in into.rglob("*") if path.is_file()}


def test_an_archive_holds_every_part_and_says_what_it_is(archive: Path, tmp_path: Path) -> None:
    found = opened(archive, tmp_path / "out")
    assert found["dns/zones/hall/prolo.zone"] == b"old"
    assert found["kea/kea-leases4.csv"] == b"address\nold\n", "half a line is no line"
    assert set(found) >= {
        "mdb/mdb.db",
        "netboot/netboot.db",
        "depot/depot.db",
        "tokens/access.key",
        "tokens/udb.key",
        "rollout/1.json",
    }
    assert not {name for name in found if "sshd_config" in name or name.endswith("lock")}
    manifest = read_manifest(archive, tmp_path, rig.KEY)
    assert (manifest.hall, manifest.role, manifest.version, manifest.why) == (
        "lab",
        "gw",
        rig.IDENTITY.version,
        "a test",
    )
    schemas = {
        part.name: each.revision for part in manifest.parts for each in part.entries if each.kind is Kind.DATABASE
    }
    assert schemas == {"mdb": "0001", "udb": "0001", "netboot": "0002", "depot": "0001"}
    assert manifest.hall_toml == "[site]\n"


def test_who_refers_to_a_part_is_saved_before_it(archive: Path, tmp_path: Path) -> None:
    order = [part.name for part in read_manifest(archive, tmp_path, rig.KEY).parts]
    assert order.index("rollout") < order.index("depot") < order.index("netboot") < order.index("mdb")


def test_its_name_tells_one_life_of_gw_from_another(old: Path, new: Path) -> None:
    names = [parse_name(rig.saved(root).name) for root in (old, new)]
    assert None not in names
    assert len({name.line for name in names if name}) == 2
    assert {name.at for name in names if name} == {"20260601T120000Z"}


def test_without_a_key_it_is_for_root_alone(old: Path) -> None:
    done = rig.saved(old, key=None)
    path = rig.settings(old).folder / done.name
    assert not done.sealed
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert b"plain" in path.read_bytes()[:40]


def test_a_sealed_one_gives_nothing_away(archive: Path) -> None:
    content = archive.read_bytes()
    assert content.startswith(b"backline state 1 sealed ")
    for word in (b"manifest", b"SQLite", b"\x1f\x8b", b"ustar"):
        assert word not in content[:4096]


def test_databases_are_one_snapshot_while_somebody_writes(old: Path, tmp_path: Path) -> None:
    """Two tables that are always written together are never apart in a copy."""
    path = rig.database(old, "mdb")
    with contextlib.closing(sqlite3.connect(path)) as setup:
        setup.execute("PRAGMA journal_mode=WAL")
        setup.execute("CREATE TABLE a (n INTEGER)")
        setup.execute("CREATE TABLE b (n INTEGER, filler TEXT)")
        setup.commit()
    stop = threading.Event()
    written = 0

    def write() -> None:
        nonlocal written
        with contextlib.closing(sqlite3.connect(path, timeout=20, isolation_level=None)) as writing:
            while not stop.is_set():
                writing.execute("BEGIN IMMEDIATE")
                writing.execute("INSERT INTO a VALUES (?)", [written])
                writing.execute("INSERT INTO b VALUES (?, ?)", [written, "x" * 2000])
                writing.execute("COMMIT")
                written += 1

    thread = threading.Thread(target=write)
    thread.start()
    seen = []
    try:
        for number in range(4):
            done = rig.saved(old, at=rig.NOW.timestamp() + 3600 * number)
            open_archive(rig.settings(old).folder / done.name, _empty(tmp_path / f"out{number}"), rig.KEY)
            with contextlib.closing(sqlite3.connect(tmp_path / f"out{number}/mdb/mdb.db")) as copy:
                (a,), (b,) = (copy.execute(f"SELECT count(*) FROM {table}").fetchone() for table in ("a", "b"))
            assert a == b
            seen.append(a)
    finally:
        stop.set()
        thread.join()
    assert seen == sorted(seen)
    assert seen[-1] > seen[0], "nobody was writing"


def _empty(path: Path) -> Path:
    path.mkdir()
    return path


@pytest.mark.skipif(os.geteuid() != 0, reason="missing capability: root")
def test_what_belongs_to_a_service_still_does(old: Path) -> None:
    """Root's reading leaves nothing in the service's folder that the service could not open."""
    folder = rig.database(old, "netboot").parent
    for path in (folder, *folder.iterdir()):
        os.chown(path, 20020, 20020)
    folder.chmod(0o700)
    for above in folder.parents:
        if above.stat().st_uid == 0 and str(above).startswith("/tmp/"):
            above.chmod(0o755)
    with contextlib.closing(sqlite3.connect(rig.database(old, "netboot"))) as writing:
        writing.execute("PRAGMA journal_mode=WAL")
        writing.execute("INSERT INTO words VALUES ('more')")
        writing.commit()
        for path in folder.iterdir():
            os.chown(path, 20020, 20020)
        rig.saved(old)
        assert {path.stat().st_uid for path in folder.iterdir()} == {20020}


def test_a_full_disk_leaves_what_was_there(old: Path) -> None:
    """At whatever point it is full: the disk is a little larger each time, until it is large enough."""
    if os.geteuid() != 0:
        pytest.skip("missing capability: root")
    folder = rig.settings(old).folder
    folder.mkdir()
    before = rig.tree(old)
    full = 0
    for size in range(64, 2048, 128):
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}k", "tmpfs", folder], check=True)
        try:
            (folder / "gw-00000000-20260531T120000Z.state").write_bytes(
                b"backline state 1 plain - " + b"0" * 64 + b"\n"
            )
            codes = []
            try:
                rig.saved(old)
            except HostError as error:
                codes.append(error.code)
            if not codes:
                break
            assert codes == ["state.full"]
            assert sorted(path.name for path in folder.iterdir()) == ["gw-00000000-20260531T120000Z.state", "lock"]
            full += 1
        finally:
            subprocess.run(["umount", folder], check=True)
        assert rig.tree(old) == before
    else:
        raise AssertionError("it never fits")
    assert full > 2


def test_two_come_one_after_the_other(old: Path) -> None:
    threads = [threading.Thread(target=rig.saved, args=(old,)) for _ in range(2)]
    with locked(rig.settings(old).folder):
        for thread in threads:
            thread.start()
        assert listing(rig.settings(old).folder) == []
    for thread in threads:
        thread.join()
    assert len(listing(rig.settings(old).folder)) == 2


def test_nothing_is_saved_amid_a_restore(old: Path) -> None:
    rig.settings(old).folder.mkdir()
    (rig.settings(old).folder / JOURNAL).write_text("{}")
    with pytest.raises(BusyError) as caught:
        rig.saved(old)
    assert caught.value.code == "state.restoring"


def test_where_there_is_no_gw_nothing_is_saved(tmp_path: Path) -> None:
    (tmp_path / "etc/ssh").mkdir(parents=True)
    (tmp_path / "etc/ssh/ssh_host_rsa_key").write_text("a key")
    with pytest.raises(HostError) as caught:
        rig.saved(tmp_path)
    assert caught.value.code == "state.empty"


def test_a_part_that_is_not_there_yet_is_left_out(old: Path, tmp_path: Path) -> None:
    (old / "var/lib/backline-rollout/1.json").unlink()
    (old / "var/lib/backline-rollout").rmdir()
    rig.database(old, "depot").unlink()
    done = rig.saved(old)
    manifest = read_manifest(rig.settings(old).folder / done.name, tmp_path, rig.KEY)
    assert "rollout" not in {part.name for part in manifest.parts}
    assert [part.entries for part in manifest.parts if part.name == "depot"] == [[]]


def test_a_generation_that_is_switched_meanwhile_is_read_again(old: Path, tmp_path: Path, monkeypatch: object) -> None:
    """The link is read before the switch, the folder that it leads to is gone after it."""
    dhcp = old / "var/lib/backline-dhcp"
    real = save._walk
    switched: list[Path] = []

    def walk(part: object, owner: object, folder: Path, path: Path, place: Path):  # type: ignore[no-untyped-def]
        yield from real(part, owner, folder, path, place)  # type: ignore[arg-type]
        if str(path) == "current" and folder == dhcp and not switched:
            switched.append(path)
            (dhcp / "generations/1").rename(dhcp / "generations/2")
            for link in ("current", "proved"):
                (dhcp / link).unlink()
                (dhcp / link).symlink_to("generations/2")

    monkeypatch.setattr(save, "_walk", walk)  # type: ignore[attr-defined]
    done = rig.saved(old)
    assert switched
    manifest = read_manifest(rig.settings(old).folder / done.name, tmp_path, rig.KEY)
    (part,) = [part for part in manifest.parts if part.name == "dhcp"]
    assert {entry.target for entry in part.entries if entry.kind is Kind.LINK} == {"generations/2"}
    assert "generations/2/kea-dhcp4.json" in {entry.path for entry in part.entries}


def test_old_ones_are_let_go(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "RECENT", 1)
    for hour in range(6):
        rig.saved(old, at=rig.NOW.timestamp() + 3600 * hour, hourly=3, daily=1)
    left = [each.name.rpartition("-")[2] for each in listing(rig.settings(old).folder)]
    assert left == ["20260601T170000Z.state", "20260601T160000Z.state", "20260601T150000Z.state"]
