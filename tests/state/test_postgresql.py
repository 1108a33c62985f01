"""A database in a real PostgreSQL (of the gw image): one snapshot while somebody writes, and back as a whole."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec
import psycopg
import pytest

from builder.image import Shop
from e2e.sandbox import KEEPER
from services.common.database import Database
from services.common.errors import HostError, IntegrityError
from services.mdb.store import MIGRATIONS
from services.state import save
from services.state.archive import open_archive, read_manifest
from services.state.restore import Restore
from services.state.schema import Databases, Kind, Settings
from tests.state import rig

pytestmark = [pytest.mark.images, pytest.mark.needs("podman", "root", "cgroup2", "namespaces", "overlayfs")]


@pytest.fixture(scope="module")
def tools(postgresql_server: object, shop: Shop, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """pg_dump and pg_restore of the gw image, as this host can run them: its own may be older than the server."""
    del postgresql_server
    version = shop.store.current("gw")
    assert version is not None
    tree, programs = tmp_path_factory.mktemp("tree"), tmp_path_factory.mktemp("programs")
    image = shop.store.find(version.role, version.version) / "root.erofs"
    argv: list[str | Path] = [sys.executable, "-I", "-S", KEEPER, "--erofs", image, tree]
    done = subprocess.run(argv, capture_output=True, check=False)
    if done.returncode != 0:
        pytest.skip("missing capability: mounting EROFS from a file")
    try:
        (bin_folder,) = tree.glob("usr/lib/postgresql/*/bin")
        loader = f"{tree}/usr/lib64/ld-linux-x86-64.so.2 --library-path {tree}/usr/lib/x86_64-linux-gnu"
        for name in ("pg_dump", "pg_restore"):
            (programs / name).write_text(f'#!/bin/sh\nexec {loader} {bin_folder}/{name} "$@"\n')
            (programs / name).chmod(0o755)
        yield programs
    finally:
        subprocess.run(["umount", tree], check=True)


@pytest.fixture
def url(postgresql: str, tools: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """An empty database with mdb's schema and a word in it."""
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    with Database(postgresql) as opened:
        opened.migrate(MIGRATIONS)
    with psycopg.connect(postgresql) as connection:
        connection.execute("CREATE TABLE words (word TEXT)")
        connection.execute("INSERT INTO words VALUES ('saved')")
        connection.execute("INSERT INTO feed_counter VALUES ('feed', '0123456789abcdef', 7)")
    return postgresql


def settings(root: Path, url: str) -> Settings:
    return msgspec.structs.replace(rig.settings(root), databases=Databases(mdb=url))


def saved(root: Path, url: str) -> Path:
    made = settings(root, url)
    done = save.save(made, why="a test", key=rig.KEY, identity=rig.IDENTITY, root=root)
    return made.folder / done.name


def words(url: str) -> list[str]:
    with psycopg.connect(url) as connection:
        return [word for (word,) in connection.execute("SELECT word FROM words ORDER BY word").fetchall()]


def test_it_comes_back_and_what_was_there_is_kept(old: Path, new: Path, url: str, tmp_path: Path) -> None:
    archive = saved(old, url)
    manifest = read_manifest(archive, tmp_path, rig.KEY)
    (entry,) = [e for part in manifest.parts if part.name == "mdb" for e in part.entries if e.kind is Kind.DATABASE]
    assert (entry.dialect, entry.revision) == ("postgresql", "0001")
    with psycopg.connect(url) as connection:
        connection.execute("INSERT INTO words VALUES ('later')")
        connection.execute("CREATE TABLE newer (n INTEGER)")  # what a newer schema would have
    one = Restore(settings(new, url), rig.Units(), root=new)
    one.begin(archive, rig.KEY, numbers={})
    assert words(url) == ["later", "saved"], "not before everything is ready"
    kept = one.finish().kept
    assert words(url) == ["saved"]
    with psycopg.connect(url) as connection:
        assert connection.execute("SELECT to_regclass('newer')").fetchone() == (None,)
        found = connection.execute("SELECT log <> '0123456789abcdef', revision FROM feed_counter").fetchone()
        assert found == (True, 7)
    (aside,) = [Path(path) for path in kept if "backline-mdb" in path]
    assert (aside / "mdb.dump").read_bytes().startswith(b"PGDMP")


def test_a_restore_that_stopped_is_taken_back(old: Path, new: Path, url: str) -> None:
    archive = saved(old, url)
    with psycopg.connect(url) as connection:
        connection.execute("INSERT INTO words VALUES ('later')")

    def step(name: str) -> None:
        if name == "mdb is in its place":
            raise HostError("state.disk", "here it stops")

    one = Restore(settings(new, url), rig.Units(), root=new, step=step)
    one.begin(archive, rig.KEY, numbers={})
    with pytest.raises(HostError):
        one.finish()
    assert words(url) == ["saved"]
    Restore(settings(new, url), rig.Units(), root=new).abandon()
    assert words(url) == ["later", "saved"]


def test_a_copy_is_one_snapshot_while_somebody_writes(old: Path, url: str, tmp_path: Path) -> None:
    with psycopg.connect(url) as connection:
        connection.execute("CREATE TABLE a (n INTEGER)")
        connection.execute("CREATE TABLE b (n INTEGER)")
    stop = threading.Event()
    written: list[int] = []

    def write() -> None:
        with psycopg.connect(url) as connection:
            while not stop.is_set():
                with connection.transaction():
                    connection.execute("INSERT INTO a VALUES (1)")
                    connection.execute("INSERT INTO b VALUES (1)")
                written.append(1)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        while len(written) < 10:
            assert thread.is_alive()
        archive = saved(old, url)
    finally:
        stop.set()
        thread.join()
    one = Restore(settings(old, url), rig.Units(), root=old)
    one.begin(archive, rig.KEY, numbers={})
    one.finish()
    with psycopg.connect(url) as connection:
        (a,), (b,) = (connection.execute(f"SELECT count(*) FROM {table}").fetchone() or (0,) for table in ("a", "b"))
    assert a == b
    assert 10 <= a < len(written) + 1


def test_sqlite_s_does_not_go_into_postgresql(old: Path, new: Path, archive: Path, url: str) -> None:
    with pytest.raises(IntegrityError) as caught:
        Restore(settings(new, url), rig.Units(), root=new).begin(archive, rig.KEY, numbers={})
    assert caught.value.code == "state.dialect"
    assert words(url) == ["saved"]


def test_a_password_is_on_no_command_line(
    old: Path, url: str, tools: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spy = tmp_path / "spy"
    spy.mkdir()
    for name in ("pg_dump", "pg_restore"):
        (spy / name).write_text(f'#!/bin/sh\necho "$@" >>{spy}/said\nexec {tools}/{name} "$@"\n')
        (spy / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{spy}:{os.environ['PATH']}")
    archive = saved(old, url)
    open_archive(archive, _empty(tmp_path / "out"), rig.KEY)
    password = url.split(":")[2].split("@")[0]
    said = (spy / "said").read_text()
    assert "--snapshot=" in said
    assert password not in said


def _empty(path: Path) -> Path:
    path.mkdir()
    return path
