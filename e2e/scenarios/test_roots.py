"""Published for real: through gw's depot to rhfs01, which pulls, verifies, confirms, serves and removes versions.

What is published is small; what the lab begins with is a whole nfsroot. Clients are libnfs (nfs-cat) on another server.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e import small, topology
from e2e.lab import Lab
from e2e.pool import Labs
from netboot.client import Netboot
from services.common import manifest as manifests
from services.common import signing
from services.common import statement as statements
from services.common.statement import Statement
from services.common.versions import Ref
from services.depot.client import Depot
from services.depot.schema import PIECE_BYTES, NewPublication, NewUpload, Progress, State
from services.roots.held import SERVED
from services.roots.schema import Roots

SIZE = 4_000_000
READERS = 20
RHFS = "192.168.1.10"

pytestmark = [pytest.mark.needs("libnfs"), pytest.mark.images]


class Story:
    """A lab, and who publishes in it."""

    def __init__(self, lab: Lab, place: Path) -> None:
        self.lab = lab
        self.place = place
        self.key = lab.hall.signer_in(place)
        self.made: list[Ref] = []

    def version(self, root: bytes) -> Ref:
        """A small version with that root."""
        ref = small.version(self.place, root)
        self.made.append(ref)
        return ref

    def file(self, ref: Ref, name: str) -> Path:
        return self.place / ref.version / name

    def upload(self, ref: Ref) -> None:
        """Bring a version to the depot."""
        manifest = self.file(ref, manifests.NAME).read_bytes()
        signature = signing.sign(manifest, self.key, manifests.SIGNATURE_NAMESPACE).decode()
        new = NewUpload(role=ref.role, version=ref.version, manifest=manifest.decode(), signatures=[signature])
        with Depot(self.lab["gw"].service("depot")) as depot:
            for name, offset in depot.begin(new).missing.items():
                content = self.file(ref, name).read_bytes()[offset:]
                assert len(content) <= PIECE_BYTES
                depot.put(ref.role, ref.version, name, offset, content)
            depot.complete(ref.role, ref.version)

    def publish(self, ref: Ref, *, channel: str = "exam") -> int:
        """Say that a channel gets it; returns the publication's number."""
        with Depot(self.lab["gw"].service("depot")) as depot:
            statement = Statement(
                channel=channel,
                sequence=depot.channel(channel).next_sequence,
                role=ref.role,
                version=ref.version,
                manifest_sha256=manifests.hash_file(self.file(ref, manifests.NAME)).sha256,
                published_at=statements.now(),
                by="publisher",
                hall=self.lab.hall.data.site.name,
            )
            text = statements.encode(statement)
            signature = signing.sign(text, self.key, statements.NAMESPACE).decode()
            return depot.publish(NewPublication(statement=text.decode(), signatures=[signature])).id

    def progress(self, id: int, host: str = "rhfs01") -> Progress:
        """What a receiver says of a publication at last."""
        with Depot(self.lab["gw"].service("depot")) as depot:

            def told() -> Progress | None:
                found = [each for each in depot.publication(id).progress if each.host == host]
                return found[0] if found and found[0].state.final else None

            self.lab["gw"].wait_until(f"{host} is done with publication {id}", lambda: told() is not None, seconds=90)
            last = told()
            assert last is not None
            return last

    def holders(self, version: str) -> list[int]:
        with Netboot(self.lab["gw"].service("netboot")) as netboot:
            return [each.rfs for each in netboot.holdings().holdings if each.version == version]

    def nfs(self, program: str, path: str) -> list[str]:
        """What runs a libnfs program on web's network."""
        argv = [program, f"nfs://{RHFS}{path}?version=4"]
        return self.lab.sandbox.inside(argv, netns=self.lab["web"].netns)

    def read(self, path: str) -> bytes:
        """A file of rhfs01's export."""
        return subprocess.run(self.nfs("nfs-cat", path), stdout=subprocess.PIPE, check=True).stdout

    def roots(self) -> Roots:
        """What rhfs01 says of itself."""
        import msgspec

        return msgspec.json.decode(self.lab["rhfs01"].succeeds("backline", "root", "list", "--json"), type=Roots)


@pytest.fixture(scope="module")
def story(labs: Labs, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    labs.close()
    with Lab(topology.hall(seats=0), settings=labs.settings, netboot=True) as lab:
        lab.start()
        yield Story(lab, tmp_path_factory.mktemp("publisher"))
        lab.check()


@pytest.fixture(scope="module")
def published(story: Story) -> list[Ref]:
    """Two versions that were published one after the other; the second differs in a thousand bytes."""
    for root in (small.noise(1, SIZE), small.noise(1, SIZE)[:-1000] + small.noise(2, 1000)):
        ref = story.version(root)
        story.upload(ref)
        id = story.publish(ref)
        assert (story.progress(id).state, story.progress(id).detail) == (State.CONFIRMED, "")
    return story.made[:2]


def test_what_the_lab_begins_with_is_verified_and_confirmed_by_the_server_itself(story: Story) -> None:
    assert story.lab.netboot is not None
    version = story.lab.netboot.ref.version
    story.lab["rhfs01"].wait_for_journal(rf"^nfsroot/{version} is whole$")
    with Netboot(story.lab["gw"].service("netboot")) as netboot:
        netboot.release(0, version)
        netboot.release(1, version)
    story.lab["gw"].wait_until("rhfs01 confirms it", lambda: story.holders(version) == [0, 1], seconds=30)


def test_a_published_version_is_confirmed_and_read_over_nfs_and_http(story: Story, published: list[Ref]) -> None:
    for ref in published:
        assert story.holders(ref.version) == [0, 1]
        for name in SERVED:
            path = f"/images/{ref.role}/{ref.version}/{name}"
            assert story.read(path) == story.file(ref, name).read_bytes()
        answer = story.lab["web"].http("GET", f"http://{RHFS}/images/{ref.role}/{ref.version}/vmlinuz")
        assert (answer.status_code, answer.content) == (200, story.file(ref, "vmlinuz").read_bytes())


@pytest.mark.parametrize("path", ["root.erofs", "held.json", "manifest.json", "../../../state.json"])
def test_nothing_else_is_given_over_http(story: Story, published: list[Ref], path: str) -> None:
    url = f"http://{RHFS}/images/nfsroot/{published[0].version}/{path}"
    assert story.lab["web"].http("GET", url).status_code == 404


def test_an_update_moves_what_is_new(story: Story, published: list[Ref]) -> None:
    with Depot(story.lab["gw"].service("depot")) as depot:
        newest = depot.publications("exam").publications[0]
    (progress,) = [each for each in newest.progress if each.host == "rhfs01"]
    assert progress.full > SIZE
    assert progress.bytes < progress.full / 10
    del published


def test_twenty_readers_notice_nothing_of_a_publication_and_a_removal(story: Story, published: list[Ref]) -> None:
    assert story.lab.netboot is not None
    path = f"{story.lab.netboot.path}/vmlinuz"
    stop = story.place / "stop"
    command = " ".join(story.nfs("nfs-cat", path))
    script = f'n=0; while [ ! -e {stop} ]; do {command} | sha256sum; n=$((n+1)); done; echo "$n times"'
    readers = [subprocess.Popen(["sh", "-c", script], stdout=subprocess.PIPE, text=True) for _ in range(READERS)]
    try:
        ref = story.version(small.noise(3, SIZE))
        story.upload(ref)
        assert story.progress(story.publish(ref)).state is State.CONFIRMED
        removed = json.loads(story.lab["rhfs01"].succeeds("backline", "root", "gc", "--keep", "1", "--json"))
        assert sorted(removed["removed"]) == sorted(str(each) for each in published)
    finally:
        stop.touch()
        outputs = [reader.communicate(timeout=120)[0].splitlines() for reader in readers]
    lines = {line for output in outputs for line in output[:-1]}
    assert lines == {f"{hashlib.sha256(story.read(path)).hexdigest()}  -"}
    assert sum(len(output) - 1 for output in outputs) >= READERS
    for each in published:
        assert story.holders(each.version) == []
        assert subprocess.run(story.nfs("nfs-ls", f"/images/nfsroot/{each.version}"), check=False).returncode != 0


def test_a_version_that_a_client_reads_stays_until_it_has_read_it(story: Story) -> None:
    old, new = story.version(small.noise(4, 16_000_000)), story.version(small.noise(5, SIZE))
    for ref in (old, new):
        story.upload(ref)
        assert story.progress(story.publish(ref, channel="open")).state is State.CONFIRMED
    path = f"/images/nfsroot/{old.version}/root.erofs"
    with subprocess.Popen(story.nfs("nfs-cat", path), stdout=subprocess.PIPE) as reader:
        assert reader.stdout is not None
        first = reader.stdout.read(100_000)
        refused = story.lab["rhfs01"].fails("backline", "root", "rm", old.version)
        assert "a client has a file of it open" in refused.stderr
        rest = reader.stdout.read()
    assert first + rest == story.file(old, "root.erofs").read_bytes()
    story.lab["rhfs01"].succeeds("backline", "root", "rm", old.version)
    assert story.holders(old.version) == []


def test_what_was_tampered_with_in_the_depot_is_not_held(story: Story) -> None:
    ref = story.version(small.noise(6, SIZE))
    story.upload(ref)
    place = f"/var/lib/backline-depot/files/images/nfsroot/{ref.version}/root.erofs"
    story.lab["gw"].succeeds("rm", place)
    story.lab["gw"].put(place, small.noise(7, SIZE))
    last = story.progress(story.publish(ref, channel="tampered"))
    assert last.state is State.FAILED
    assert last.detail.startswith("roots.hash")
    assert story.holders(ref.version) == []
    states = {root.version: root.state.value for root in story.roots().roots}
    assert states[ref.version] == "refused"


def test_a_killed_service_goes_on_with_everything_that_it_held(story: Story) -> None:
    rhfs = story.lab["rhfs01"]
    held = {root.version for root in story.roots().roots if root.confirmed}
    rhfs.succeeds("systemctl", "kill", "--signal=KILL", "backline-roots.service")
    rhfs.wait_until(
        "it is back", lambda: {root.version for root in story.roots().roots if root.confirmed} == held, seconds=60
    )
    assert all(story.holders(version) == [0, 1] for version in held)


def test_a_lost_gw_takes_nothing_away(story: Story) -> None:
    """Served on; nothing is removed while nobody says who uses it."""
    assert story.lab.netboot is not None
    story.lab["gw"].succeeds("systemctl", "stop", "backline-netboot.socket", "backline-netboot.service")
    try:
        refused = story.lab["rhfs01"].fails("backline", "root", "gc", "--keep", "0")
        assert "error" in refused.stderr
        assert len(story.read(f"{story.lab.netboot.path}/vmlinuz")) > 1_000_000
    finally:
        story.lab["gw"].succeeds("systemctl", "start", "backline-netboot.socket")
