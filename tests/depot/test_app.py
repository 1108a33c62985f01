"""The depot over its sockets, beside a real netboot: uploads that are cut, who may do what, and a service that dies."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import msgspec
import pytest

from netboot.client import Netboot
from services.common import statement
from services.common.codec import convert
from services.common.errors import BacklineError
from services.common.feed.client import Batch, Follower
from services.common.problem import RemoteError
from services.depot.client import Depot
from services.depot.schema import NewProgress, State, Version
from tests.depot.rig import (
    ONE,
    THREE,
    TWO,
    Hall,
    Image,
    People,
    bring,
    delta_of,
    hall,
    image,
    publication,
    says,
    serving,
)
from tests.netboot.rig import ask, until


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, people: People) -> Iterator[Hall]:
    with hall(tmp_path_factory.mktemp("hall"), people) as made:
        with Depot(made.depot.unix) as depot:
            bring(depot, image(ONE), people)
            bring(depot, image(TWO), people)
        yield made


@pytest.fixture
def depot(running: Hall) -> Iterator[Depot]:
    with Depot(running.depot.unix) as client:
        yield client


def refusal(call: object, *arguments: object) -> str:
    with pytest.raises(BacklineError) as caught:
        call(*arguments)  # type: ignore[operator]
    return caught.value.code


def test_what_was_brought_is_served_with_deltas_from_the_versions_before(running: Hall, depot: Depot) -> None:
    found = depot.version("nfsroot", TWO, wait=20)
    assert found.pending == 0
    assert {(delta.from_version, delta.name) for delta in found.deltas} == {(ONE, "root.erofs"), (ONE, "root.verity")}
    assert (running.served / f"images/nfsroot/{TWO}/root.erofs").read_bytes() == image(TWO).files["root.erofs"]
    assert delta_of(running.served, image(TWO).ref, ONE, "root.erofs")["result_bytes"] == 300_000
    assert [each.version for each in depot.versions().versions if each.role == "nfsroot"][:2] != []


def test_a_version_that_nobody_trusted_has_signed_is_not_taken(running: Hall, depot: Depot) -> None:
    made = image(THREE)
    assert refusal(depot.begin, made.announce(running.people, by="eve")) == "depot.signature"
    signed = made.announce(running.people)
    changed = msgspec.structs.replace(signed, manifest=signed.manifest.replace("c" * 64, "d" * 64))
    assert refusal(depot.begin, changed) == "depot.signature"
    renamed = msgspec.structs.replace(signed, version=TWO)
    assert refusal(depot.begin, renamed) == "depot.manifest"


def test_bytes_that_were_changed_on_the_way_are_refused_and_can_be_brought_again(running: Hall, depot: Depot) -> None:
    made = image("20261124.aaaaaaaaaaaa")
    tampered = Image(made.ref, {**made.files, "root.erofs": made.files["root.erofs"][::-1]})
    tampered.manifest = made.manifest
    assert refusal(bring, depot, tampered, running.people) == "depot.hash"
    assert refusal(depot.version, "nfsroot", made.ref.version) == "depot.unknown"
    assert not (running.served / f"images/nfsroot/{made.ref.version}").exists()
    assert bring(depot, made, running.people).bytes == 355_000


def put_and_break(running: Hall, made: Image, name: str, *, promised: int, sent: int) -> None:
    """A request that promises a body and is cut off in the middle of it."""
    path = f"/v1/versions/{made.ref.role}/{made.ref.version}/{name}?offset=0"
    head = f"PUT {path} HTTP/1.1\r\nHost: depot\r\nContent-Length: {promised}\r\n"
    head += "Content-Type: application/octet-stream\r\n\r\n"
    incoming = running.folder / f"state/incoming/{made.ref.role}/{made.ref.version}/{name}"
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(running.depot.socket))
        connection.sendall(head.encode() + made.files[name][:sent])
        until(lambda: incoming.exists() and incoming.stat().st_size > sent // 2)


def test_an_upload_that_was_cut_goes_on_where_it_was(running: Hall, depot: Depot) -> None:
    made = image("20261124.bbbbbbbbbbbb", size=5_000_000)
    depot.begin(made.announce(running.people))
    put_and_break(running, made, "root.erofs", promised=4_000_000, sent=3_000_000)
    until(lambda: resumed(depot, made, running.people))
    bring(depot, made, running.people)
    assert (running.served / f"images/nfsroot/{made.ref.version}/root.erofs").read_bytes() == made.files["root.erofs"]


def resumed(depot: Depot, made: Image, people: People) -> bool:
    """Whether the next piece is taken: it is as soon as the depot has noticed that the connection was cut."""
    here = depot.begin(made.announce(people)).missing["root.erofs"]
    assert 1_500_000 < here <= 3_000_000
    piece = made.files["root.erofs"][here : here + 1000]
    try:
        return depot.put("nfsroot", made.ref.version, "root.erofs", here, piece).bytes == here + 1000
    except RemoteError as error:
        if error.code != "depot.receiving":
            raise
        return False


def test_a_piece_is_not_larger_than_was_agreed(running: Hall, depot: Depot) -> None:
    made = image("20261124.cccccccccccc")
    depot.begin(made.announce(running.people))
    answer = httpx2.put(f"{running.depot.http}/v1/versions/nfsroot/{made.ref.version}/initrd", content=b"", timeout=10)
    assert answer.status_code == 401  # over TCP nobody is known
    assert refusal(depot.put, "nfsroot", made.ref.version, "initrd", 0, bytes(65 * 1024 * 1024)) == "request.size"


def test_who_is_not_root_reads_and_does_not_write(running: Hall) -> None:
    for method, path in (
        ("POST", "/v1/versions"),
        ("PUT", f"/v1/versions/nfsroot/{ONE}/initrd?offset=0"),
        ("POST", f"/v1/versions/nfsroot/{ONE}/complete"),
        ("DELETE", f"/v1/versions/nfsroot/{ONE}"),
        ("POST", "/v1/publications"),
        ("PUT", "/v1/publications/1/progress/rhfs1"),
    ):
        assert ask(running.depot, path, method=method, body={}).code == "auth.anonymous", path
    for path in ("/v1/versions", f"/v1/versions/nfsroot/{ONE}", "/v1/channels/stable", "/v1/publications"):
        assert ask(running.depot, path).status == 200, path


def test_a_publication_is_told_to_netboot_and_to_whoever_follows(running: Hall, depot: Depot) -> None:
    seen: list[statement.Publication] = []

    async def follow() -> None:
        async for batch in Follower(running.depot.unix, topics=["publications"]).batches():
            _take(batch, seen)
            if seen:
                return

    made = depot.publish(publication(running.people, says(image(ONE), 1, channel="told")))
    asyncio.run(asyncio.wait_for(follow(), 10))
    found = next(each for each in seen if each.id == made.id)
    said = statement.verify(found, running.people.signers(), last_sequence=0, hall="pasteur")
    assert said.version == ONE
    with Netboot(running.netboot.unix) as netboot:
        known = {each.version: each for each in netboot.versions().versions}
    assert (known[ONE].root_hash, known[ONE].size, known[ONE].role) == ("c" * 64, 355_000, "nfsroot")
    # The manifest that is served is the one that was meant.
    data = (running.served / f"images/nfsroot/{ONE}/manifest.json").read_bytes()
    assert statement.check_manifest(said, data).version == ONE


def _take(batch: Batch, seen: list[statement.Publication]) -> None:
    for record in batch.state.values():
        seen.append(convert(record, statement.Publication))


def test_a_version_without_a_kernel_is_none_for_netboot(running: Hall, depot: Depot) -> None:
    made = image("20261124.dddddddddddd", role="web")
    made = Image(made.ref, {name: data for name, data in made.files.items() if name.startswith("root")})
    bring(depot, made, running.people)
    depot.publish(publication(running.people, says(made, 1, channel="servers")))
    with Netboot(running.netboot.unix) as netboot:
        assert made.ref.version not in {each.version for each in netboot.versions().versions}


def test_what_a_channel_got_last_cannot_be_deleted(running: Hall, depot: Depot) -> None:
    one, other = image("20261124.eeeeeeeeeeee"), image("20261125.ffffffffffff")
    for number, made in enumerate((one, other), 1):
        bring(depot, made, running.people)
        depot.publish(publication(running.people, says(made, number, channel="deleting")))
    assert refusal(depot.remove_version, "nfsroot", other.ref.version) == "depot.published"
    depot.remove_version("nfsroot", one.ref.version)
    assert refusal(depot.version, "nfsroot", one.ref.version) == "depot.unknown"


def test_whoever_waits_for_a_receiver_hears_it_at_once(running: Hall, depot: Depot) -> None:
    made = depot.publish(publication(running.people, says(image(ONE), 1, channel="waiting"), to=["rhfs2"]))
    assert depot.publication(made.id, revision=0, wait=0).progress == []
    word = NewProgress(bytes=5, total=10, full=100, state=State.PULLING, detail="from nearby")

    def speak() -> None:
        with Depot(running.depot.unix) as other:
            other.progress(made.id, "rhfs2", word)

    timer = threading.Timer(0.5, speak)
    timer.start()
    began = time.monotonic()
    found = depot.publication(made.id, revision=made.revision, wait=20)
    timer.join()
    assert time.monotonic() - began < 10
    assert [(each.host, each.bytes, each.detail) for each in found.progress] == [("rhfs2", 5, "from nearby")]


def test_killed_in_an_upload_it_goes_on_after_a_restart(tmp_path: Path, people: People) -> None:
    made = image(ONE, size=8_000_000)
    with serving(tmp_path, people) as first:
        with Depot(first.unix) as depot:
            depot.begin(made.announce(people))
            depot.put("nfsroot", ONE, "root.erofs", 0, made.files["root.erofs"][:3_000_000])
        first.process.send_signal(signal.SIGKILL)
        first.process.wait()
    with serving(tmp_path, people) as second, Depot(second.unix) as depot:
        assert depot.versions().versions == []
        assert depot.begin(made.announce(people)).missing["root.erofs"] == 3_000_000
        assert bring(depot, made, people).bytes == 8_055_000
        assert (tmp_path / f"state/files/images/nfsroot/{ONE}/root.erofs").read_bytes() == made.files["root.erofs"]


def test_killed_while_it_makes_deltas_it_makes_them_after_a_restart(tmp_path: Path, people: People) -> None:
    size = 40_000_000
    with serving(tmp_path, people) as first:
        with Depot(first.unix) as depot:
            bring(depot, image(ONE, size=size), people, piece=20_000_000)
            bring(depot, image(TWO, size=size), people, piece=20_000_000)
        first.process.send_signal(signal.SIGKILL)
        first.process.wait()
    with serving(tmp_path, people) as second, Depot(second.unix) as depot:
        until(lambda: len(depot.version("nfsroot", TWO, wait=5).deltas) == 2, seconds=30)
        found: Version = depot.version("nfsroot", TWO)
        assert found.pending == 0
        assert [path.name for path in (tmp_path / "state/work").iterdir() if path.is_dir()] == []
        document = json.loads((tmp_path / f"state/files/deltas/nfsroot/{TWO}/{ONE}/root.erofs.json").read_bytes())
        assert document["bytes"] < 10_000


def test_what_was_published_is_published_after_a_kill(tmp_path: Path, people: People) -> None:
    made = image(ONE, role="web")
    made = Image(made.ref, {"root.erofs": made.files["root.erofs"], "root.verity": made.files["root.verity"]})
    with serving(tmp_path, people) as first:
        with Depot(first.unix) as depot:
            bring(depot, made, people)
            depot.publish(publication(people, says(made, 1)))
        first.process.send_signal(signal.SIGKILL)
        first.process.wait()
    with serving(tmp_path, people) as second, Depot(second.unix) as depot:
        assert depot.channel("stable").last_sequence == 1
        assert depot.publications().publications[0].signed_by == ["anna"]
        assert refusal(depot.publish, publication(people, says(made, 1, why="again"))) == "publish.sequence"


def test_a_stop_does_not_wait_for_those_who_wait(tmp_path: Path, people: People) -> None:
    with serving(tmp_path, people) as service, Depot(service.unix) as depot:
        made = image(ONE, role="web")
        made = Image(made.ref, {"root.erofs": made.files["root.erofs"]})
        bring(depot, made, people)
        depot.publish(publication(people, says(made, 1)))

        def wait() -> None:
            with contextlib.suppress(BacklineError), Depot(service.unix) as other:
                other.publication(1, revision=0, wait=40)

        waiting = threading.Thread(target=wait)
        waiting.start()
        began = time.monotonic()
        assert service.stop() == 0
        waiting.join()
        assert time.monotonic() - began < 8
