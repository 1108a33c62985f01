"""The service as systemd starts it, with a feed to follow; and its command, which speaks to it."""

from __future__ import annotations

import contextlib
import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from netboot.client import Netboot
from netboot.schema import NewPointer, NewVersion
from services.common import main
from services.common.codec import encode_json
from services.common.feed.wire import Item, Position, Snapshot, encode
from services.common.statement import Publication
from services.common.versions import Ref
from services.hostd.roots_seen import RootServer
from services.roots.client import RootsClient
from services.roots.schema import State
from tests.common.service_rig import Service, activated
from tests.netboot import rig as netboot_rig
from tests.netboot.rig import Pair, until
from tests.roots.rig import HALL, Hall, hall, same

ROOTS = [sys.executable, "-m", "services.common.main", "root", "serve"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hall]:
    with hall(tmp_path_factory.mktemp("roots")) as made:
        yield made


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    with netboot_rig.pair(tmp_path_factory.mktemp("gw")) as running:
        yield running


def feed(hall: Hall, *publications: Publication, revision: int = 1) -> None:
    """What the depot's feed answers: a snapshot, and the end of the stream; subscribers come back at once."""
    items = [
        Item(topic="publications", key=str(each.id), record=json.loads(encode_json(each))) for each in publications
    ]
    text = encode(
        "snapshot",
        encode_json(Snapshot(revision=revision, items=items, last=True)),
        position=Position("0123456789abcdef", revision),
    )
    path = hall.server.root / "v1/feed"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(text)


@pytest.fixture(scope="module")
def service(place: Hall, pair: Pair, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("service")
    (folder / "roots.toml").write_text(
        f'folder = "{place.held.root}"\nhost = "rhfs01"\nnumbers = [1]\nhall = "{HALL}"\nreserve_bytes = 0\nkeep = 0\n'
        f'depot = "{place.server.url}"\nnetboot = "{pair.netboot.unix}"\nsigners = "{place.signers}"\n'
    )
    feed(place)
    with activated(folder, [*ROOTS, "--config", str(folder / "roots.toml")]) as running:
        yield running
        assert running.stop() == 0


@pytest.fixture(scope="module")
def versions(service: Service, place: Hall, pair: Pair) -> list[Ref]:
    """Two versions: the first was published and superseded, both are here."""
    found, publications = [], []
    with Netboot(pair.netboot.unix) as netboot, RootsClient(service.unix) as client:
        for number in (1, 2):
            ref = place.version()
            netboot.add_version(NewVersion(version=ref.version, root_hash="0" * 64))
            publications.append(place.publication(ref, id=number, sequence=number))
            feed(place, *publications, revision=number + 1)
            found.append(ref)
            until(
                lambda ref=ref: any(  # type: ignore[misc]
                    root.version == ref.version and root.state is State.HELD and root.confirmed
                    for root in client.roots().roots
                ),
                seconds=40,
            )
    return found


def command(*words: str) -> tuple[int, str, str]:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main.backline(["root", *words])
    return code, out.getvalue(), err.getvalue()


def test_what_is_published_is_followed_pulled_and_confirmed(versions: list[Ref], place: Hall, pair: Pair) -> None:
    assert all(same(place, place.held, ref) for ref in versions)
    with Netboot(pair.netboot.unix) as netboot:
        assert {(each.rfs, each.version) for each in netboot.holdings().holdings} == {
            (1, ref.version) for ref in versions
        }


def test_list_shows_versions_and_how_it_stands_with_them(versions: list[Ref], service: Service) -> None:
    code, out, _ = command("list", "--address", service.unix)
    assert code == 0
    for ref in versions:
        assert f"{ref}" in out
    assert out.count("held, confirmed") == 2
    assert "free" in out


def test_switch_and_rollback_move_the_pointer_and_nothing_here(
    versions: list[Ref], pair: Pair, service: Service
) -> None:
    first, second = versions
    for ref in (first, second):
        code, out, err = command("switch", ref.version, "--why", "a try", "--address", pair.netboot.unix)
        assert (code, err) == (0, "")
        assert ref.version in out
    code, out, _ = command("rollback", "--address", pair.netboot.unix)
    assert code == 0
    assert f"channel stable: {first.version}" in out
    with RootsClient(service.unix) as client:
        assert len(client.roots().roots) == 2


def test_a_rollback_that_cannot_be_is_an_error(versions: list[Ref], pair: Pair) -> None:
    del versions
    code, _, err = command("rollback", "--channel", "nowhere", "--address", pair.netboot.unix)
    assert code != 0
    assert "no channel nowhere" in err


def test_rm_names_who_uses_a_version(versions: list[Ref], service: Service, pair: Pair) -> None:
    with Netboot(pair.netboot.unix) as netboot:
        netboot.switch_channel("exam", NewPointer(version=versions[1].version))
    code, _, err = command("rm", str(versions[1]), "--address", service.unix)
    assert code != 0
    assert "channel exam" in err
    assert "newest on channel stable" in err


def test_stage_of_what_is_here_says_so(versions: list[Ref], service: Service) -> None:
    code, out, _ = command("stage", versions[0].version, "--address", service.unix)
    assert (code, out) == (0, f"{versions[0]} is here, and confirmed\n")


def test_a_hosts_supervisor_sees_holds_and_stages(versions: list[Ref], service: Service) -> None:
    server = RootServer(service.unix)
    name = str(versions[0]).replace("/", "@")
    seen = server.seen(exports=False)
    assert seen is not None
    assert name in seen.held
    assert (seen.holds, seen.exports, seen.silent) == ([], None, False)
    server.hold([name])
    server.stage(name)
    after = server.seen(exports=False)
    assert after is not None
    assert after.holds == [name]
    assert server.roots().holds == [str(versions[0])]
    server.hold([])


def test_gc_with_a_plan_only_says_what_it_would_do(versions: list[Ref], service: Service, place: Hall) -> None:
    code, out, _ = command("gc", "--plan", "--address", service.unix)
    assert code == 0
    assert f"kept {versions[1]}" in out
    assert place.held.have(versions[0])


@pytest.mark.parametrize("words", [["rm", "nonsense"], ["stage", "../20260131.0123456789ab"], ["gc", "--keep", "-1"]])
def test_what_is_no_version_or_number_is_refused_at_once(words: list[str], service: Service) -> None:
    code, _, _ = command(*words, "--address", service.unix)
    assert code == 2


def test_it_is_well_and_tells_its_numbers(versions: list[Ref], service: Service) -> None:
    import httpx2

    del versions
    transport = httpx2.HTTPTransport(uds=str(service.socket))
    with httpx2.Client(transport=transport, base_url="http://roots") as http:
        assert 'backline_roots_versions{state="held"} 2.0' in http.get("/metrics").text
        assert http.get("/openapi.json").json()["info"]["title"] == "Backline roots"


def test_others_may_look_and_not_change(service: Service, versions: list[Ref], tmp_path: Path) -> None:
    import subprocess

    del tmp_path
    folder = service.socket.parent
    folder.chmod(0o711)
    argv = [
        "setpriv",
        "--reuid=33",
        "--regid=33",
        "--clear-groups",
        "curl",
        "-s",
        "-o",
        "/dev/null",
        "-w",
        "%{http_code}",
    ]
    import os

    descriptor = os.open(folder, os.O_PATH)
    try:
        at = ["--unix-socket", f"/proc/self/fd/{descriptor}/{service.socket.name}"]
        for method, path, wanted in (
            ("GET", "/v1/roots", "200"),
            ("DELETE", f"/v1/roots/{versions[0].role}/{versions[0].version}", "401"),
        ):
            call = [*argv, "-X", method, *at, "-H", "X-Real-IP: 192.168.0.1", f"http://roots{path}"]
            done = subprocess.run(call, pass_fds=[descriptor], stdout=subprocess.PIPE, text=True, check=True)
            assert done.stdout == wanted
    finally:
        os.close(descriptor)
