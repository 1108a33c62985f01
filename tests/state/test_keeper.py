"""Copies: brought by gw's service, kept by a root file server's; real services, real sockets."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from services.common.errors import BacklineError
from services.common.process import run
from services.state.client import StateClient
from services.state.copying import Copying
from services.state.kept import LINES, Kept, newest
from services.state.schema import Copy, Settings
from tests.common.service_rig import Service, activated
from tests.state import rig

SERVE = [sys.executable, "-m", "services.common.main", "state", "serve", "--config"]


@contextlib.contextmanager
def serving(place: Path, **settings: object) -> Iterator[Service]:
    place.mkdir(exist_ok=True)
    (place / "kept").mkdir(exist_ok=True)
    config = {"host": "rhfs01", "kept": str(place / "kept"), "roots": str(place / "roots.json"), **settings}
    (place / "state.toml").write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in config.items()))
    (place / "service.sock").unlink(missing_ok=True)
    (place / "notify").unlink(missing_ok=True)
    with activated(place, [*SERVE, str(place / "state.toml")]) as running:
        yield running


@pytest.fixture
def rhfs(tmp_path: Path) -> Iterator[Service]:
    with serving(tmp_path / "rhfs", archive_bytes=4 * 1024 * 1024, reserve_bytes=0) as running:
        yield running


def kept(rhfs: Service) -> list[str]:
    """Everything that lies in the server's folder."""
    folder = rhfs.errors.parent / "kept"
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_a_copy_comes_back_as_it_was_brought(rhfs: Service, archive: Path, tmp_path: Path) -> None:
    with StateClient(rhfs.unix) as client:
        copy = client.put("gw", archive)
        assert (copy.name, copy.size) == (archive.name, archive.stat().st_size)
        assert client.copies("gw").copies == [copy]
        client.get(copy, tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == archive.read_bytes()
    assert kept(rhfs) == [f"gw/{archive.name}"]


def test_what_is_no_sealed_archive_of_that_host_is_not_kept(rhfs: Service, old: Path, archive: Path) -> None:
    plain = rig.settings(old).folder / rig.saved(old, key=None, at=rig.NOW.timestamp() + 60).name
    nothing = archive.with_name("gw-00000000-20260601T120000Z.state")
    nothing.write_bytes(b"something")
    large = archive.with_name("gw-11111111-20260601T120000Z.state")
    large.write_bytes(archive.read_bytes() + bytes(5 * 1024 * 1024))
    with StateClient(rhfs.unix) as client:
        for host, path, code in (
            ("gw", plain, "state.plain"),
            ("gw", nothing, "state.form"),
            ("web", archive, "state.name"),
            ("gw", large, "request.size"),
        ):
            with pytest.raises(BacklineError) as caught:
                client.put(host, path)
            assert caught.value.code == code
    assert kept(rhfs) == []


def test_over_the_network_without_a_certificate_nobody_has_copies(rhfs: Service) -> None:
    for path in ("/v1/copies/gw", "/v1/sequences", "/v1/copies/gw/gw-00000000-20260601T120000Z.state"):
        assert httpx2.get(f"{rhfs.http}{path}").status_code == 401


def cut(rhfs: Service, archive: Path, part: int) -> socket.socket:
    """Begin to bring a copy, and get no further than so many bytes."""
    content = archive.read_bytes()
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(rhfs.unix.removeprefix("unix:"))
    path = f"/v1/copies/gw/{archive.name}?sha256={'0' * 64}"
    head = [f"PUT {path} HTTP/1.1", "Host: x", f"Content-Length: {len(content)}", "", ""]
    connection.sendall("\r\n".join(head).encode() + content[:part])
    return connection


def test_what_is_cut_off_or_changed_on_its_way_leaves_nothing(rhfs: Service, archive: Path) -> None:
    with cut(rhfs, archive, 1000):
        pass
    answer = "409"
    while "409" in answer:  # until it has noticed that the first one is gone: one copy at a time
        with cut(rhfs, archive, archive.stat().st_size) as whole:  # under a hash that is not its own
            answer = whole.recv(4096).decode().split("\r\n")[0]
    assert "422" in answer
    assert kept(rhfs) == []
    with StateClient(rhfs.unix) as client:
        client.put("gw", archive)
    assert kept(rhfs) == [f"gw/{archive.name}"]


def test_a_server_that_is_killed_meanwhile_has_no_half(tmp_path: Path, archive: Path) -> None:
    with serving(tmp_path / "rhfs") as first, cut(first, archive, 1000):
        folder = tmp_path / "rhfs/kept/gw"
        with StateClient(first.unix) as client:
            while not folder.is_dir() or not list(folder.iterdir()):
                assert client.copies("gw").copies == []
        first.process.kill()
        first.process.wait()
    with serving(tmp_path / "rhfs") as second, StateClient(second.unix) as client:
        assert client.copies("gw").copies == []
        client.put("gw", archive)
        assert kept(second) == [f"gw/{archive.name}"]


def test_a_full_server_says_so_and_keeps_what_it_has(tmp_path: Path, old: Path) -> None:
    (old / "var/lib/backline-netboot/mdb.json").write_bytes(os.urandom(60_000))
    archive = rig.settings(old).folder / rig.saved(old).name
    place = tmp_path / "rhfs/kept"
    place.mkdir(parents=True)
    run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place)])
    try:
        with serving(tmp_path / "rhfs", reserve_bytes=0) as running, StateClient(running.unix) as client:
            (place / "gw").mkdir()
            before = place / "gw/gw-00000000-20260101T120000Z.state"
            before.write_bytes(archive.read_bytes()[:40000])
            with pytest.raises(BacklineError) as caught:
                client.put("gw", archive)
            assert caught.value.code == "state.full"
            assert kept(running) == [f"gw/{before.name}"]
    finally:
        run(["umount", str(place)])


def keep(folder: Path, **changed: object) -> tuple[Kept, Path]:
    settings = Settings(kept=folder, reserve_bytes=0, **changed)  # type: ignore[arg-type]
    (folder / "gw").mkdir(parents=True)
    return Kept(settings), folder / "gw"


def put(folder: Path, line: str, at: str, received: int, size: int = 100) -> str:
    path = folder / f"gw-{line}-{at}.state"
    path.write_bytes(b"x" * size)
    os.utime(path, (received, received))
    return path.name


def test_lives_are_bounded_and_the_newest_of_each_outlives_the_bytes(tmp_path: Path) -> None:
    one, folder = keep(tmp_path / "kept", kept_bytes=250)
    old = [put(folder, "aaaaaaaa", f"20260601T{hour:02}0000Z", hour) for hour in range(10)]
    for number in range(LINES):
        put(folder, f"0000000{number}", "20260601T000000Z", 100 + number)
    one.let_go("gw")
    left = {path.name for path in folder.iterdir()}
    assert len(left) == LINES
    assert not left & set(old), "more lives than are kept: the one that was heard last the longest ago goes"
    put(folder, "00000003", "20260601T010000Z", 200)
    put(folder, "00000003", "20260601T020000Z", 201)
    one.let_go("gw")
    names = sorted(path.name for path in folder.iterdir() if "00000003" in path.name)
    assert names == ["gw-00000003-20260601T010000Z.state", "gw-00000003-20260601T020000Z.state"]


def test_a_new_gw_fetches_what_the_lost_one_has_left() -> None:
    def copy(line: str, received: float) -> Copy:
        return Copy(host="gw", name=f"gw-{line}-20260601T120000Z.state", size=1, sha256="", received=received)

    lost, own = copy("aaaaaaaa", 1), copy("bbbbbbbb", 2)
    assert newest([own, lost], not_of="bbbbbbbb") == lost
    assert newest([own], not_of="bbbbbbbb") == own
    assert newest([], not_of="bbbbbbbb") is None


# gw's side


def test_every_server_gets_the_newest_archive_and_one_that_is_away_later(
    tmp_path: Path, old: Path, archive: Path
) -> None:
    clock = [rig.NOW.timestamp() + 60]
    names = ["rhfs01", "rhfs23"]
    settings = rig.settings(old, receivers=[f"{name}=unix:{tmp_path}/{name}/service.sock" for name in names])
    copying = Copying(settings, clock=lambda: clock[0], monotonic=lambda: clock[0])
    with serving(tmp_path / "rhfs01") as first:
        copying.copy()
        assert kept(first) == [f"gw/{archive.name}"]
        told = {each.host: each for each in copying.state().receivers}
        assert told["rhfs01"].newest == archive.name
        assert "cannot be reached" in (told["rhfs23"].problem or "")
        assert copying.copy_age("rhfs01") == 60
        assert copying.copy_age("rhfs23") is None
        assert [problem.split()[0] for problem in copying.problems()] == ["rhfs23"]
        with serving(tmp_path / "rhfs23") as second:
            copying.copy()
            assert kept(second) == [f"gw/{archive.name}"]
            assert copying.problems() == []
        clock[0] += 3 * 3600
        assert len(copying.problems()) == 3, "the archive, and the copy of each server"
        assert "3.0 hours old" in copying.problems()[0]


def test_what_is_not_sealed_stays_here_and_that_is_said(tmp_path: Path, old: Path) -> None:
    with serving(tmp_path / "rhfs01") as rhfs:
        copying = Copying(rig.settings(old, receivers=[f"rhfs01={rhfs.unix}"]), clock=lambda: rig.NOW.timestamp())
        rig.saved(old, key=None)
        copying.copy()
        assert kept(rhfs) == []
        assert "not sealed" in " ".join(copying.problems())


def test_health_and_metrics_of_gw_say_how_old_its_archives_are(tmp_path: Path, old: Path, archive: Path) -> None:
    folder = str(rig.settings(old).folder)
    with serving(tmp_path / "rhfs01") as rhfs:
        settings = {"host": "gw", "folder": folder, "receivers": [f"rhfs01={rhfs.unix}"]}
        with serving(tmp_path / "gw", **settings) as gw:
            with StateClient(gw.unix) as client:
                while client.state().receivers[0].newest != archive.name:
                    assert gw.process.poll() is None
            metrics = httpx2.get(f"{gw.http}/metrics").text
            assert 'backline_state_copy_age_seconds{host="rhfs01"}' in metrics
            age = next(line for line in metrics.splitlines() if line.startswith("backline_state_save_age_seconds "))
            health = httpx2.get(f"{gw.http}/healthz")
            assert float(age.split()[1]) != float("nan")
            late = float(age.split()[1]) > Settings().overdue_seconds
            assert health.status_code == (503 if late else 200)
            if late:
                assert "the newest archive is" in health.json()["detail"]
        lines = httpx2.get(f"{rhfs.http}/metrics").text.splitlines()
        received = next(line for line in lines if line.startswith("backline_state_received_seconds "))
        assert float(received.split()[1]) > 0


def test_what_a_root_file_server_has_accepted_is_told(tmp_path: Path) -> None:
    with serving(tmp_path / "rhfs") as rhfs, StateClient(rhfs.unix) as client:
        assert client.sequences().channels == {}
        (tmp_path / "rhfs/roots.json").write_text('{"channels":{"stable":{"sequence":7,"wants":{"nfsroot":3}}}}')
        assert client.sequences().channels == {"stable": 7}
        (tmp_path / "rhfs/roots.json").write_text("{")
        with pytest.raises(BacklineError) as caught:
            client.sequences()
        assert caught.value.code == "state.roots"
    shutil.rmtree(tmp_path / "rhfs")
