"""`backline publish` against a real depot and netboot, with real keys; receivers are played by the test."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from builder import publish, publish_cli
from builder.publish import Outcome, Publisher, Wanted
from builder.store import Store
from netboot.client import Netboot
from netboot.schema import Rollback
from services.common import signing, statement
from services.common.errors import BacklineError, MissingError, UsageError
from services.common.process import run, running, spawn
from services.common.progress import Progress
from services.depot.client import Depot
from services.depot.schema import NewProgress, Publication, State
from tests.depot.rig import OLD, ONE, THREE, TWO, Hall, Image, People, bring, hall, image, says
from tests.depot.rig import publication as signed

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> People:
    return People.make(tmp_path_factory.mktemp("people"))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store with versions that nobody has signed."""
    folder = tmp_path_factory.mktemp("store")
    made = Store(folder / "store")
    web = image(ONE, role="web")
    servers = Image(web.ref, {name: data for name, data in web.files.items() if name.startswith("root")})
    for each in (*(image(version) for version in (OLD, ONE, TWO, THREE)), servers):
        made.add(each.ref.role, each.ref.version, each.store(folder / str(each.ref)))
    return made


@pytest.fixture
def there(tmp_path: Path, people: People) -> Iterator[Hall]:
    with hall(tmp_path, people) as made:
        yield made


@contextlib.contextmanager
def receivers(there: Hall, *, since: int = 0, **ends: State) -> Iterator[list[Publication]]:
    """Servers that follow publications after `since`, and end in a state; yields what they have taken."""
    over = threading.Event()
    taken: list[Publication] = []

    def follow() -> None:
        seen = since
        with Depot(there.depot.unix) as depot, Netboot(there.netboot.unix) as netboot:
            while not over.wait(0.05):
                for found in depot.publications(since=seen).publications[::-1]:
                    seen = found.id
                    taken.append(found)
                    version = statement.decode(found.statement).version
                    for host in set(found.receivers) & set(ends):
                        for amount, state in ((40_000, State.PULLING), (72_000, ends[host])):
                            word = NewProgress(bytes=amount, total=72_000, full=355_000, state=state, detail="of test")
                            if state is State.CONFIRMED:
                                netboot.hold(int(host[-1]), version)
                            depot.progress(found.id, host, word)

    thread = threading.Thread(target=follow)
    thread.start()
    try:
        yield taken
    finally:
        over.set()
        thread.join()


def publisher(there: Hall, store: Store, *, by: str = "anna", depot: Depot | None = None) -> Publisher:
    return Publisher(
        store,
        depot or Depot(there.depot.unix),
        lambda: Netboot(there.netboot.unix),
        key=there.people.key(by),
        progress=Progress(quiet=True),
    )


def go(made: Publisher, version: str, *, seconds: float = 20, **more: object) -> Outcome:
    wanted = Wanted(**{"ref": image(version).ref, "channel": "stable", **more})  # type: ignore[arg-type]
    with made.depot:
        return made.publish(wanted, deadline=time.monotonic() + seconds)


def pointer(there: Hall, channel: str = "stable") -> str | None:
    with Netboot(there.netboot.unix) as netboot:
        return next((each.current for each in netboot.channels().channels if each.name == channel), None)


def test_a_version_is_brought_published_confirmed_and_then_booted(there: Hall, store: Store) -> None:
    with receivers(there, rhfs1=State.CONFIRMED, rhfs2=State.CONFIRMED):
        first = go(publisher(there, store), ONE, why="the first")
        assert pointer(there) == ONE
        second = go(publisher(there, store), TWO, why="a compiler")
    assert pointer(there) == TWO
    assert (first.sequence, first.uploaded, first.full) == (1, 355_000, 355_000)
    assert (second.sequence, second.uploaded) == (2, 305_000)  # kernel and initrd are there already
    assert [(each.host, each.state, each.bytes, each.full) for each in second.receivers] == [
        ("rhfs1", State.CONFIRMED, 72_000, 355_000),
        ("rhfs2", State.CONFIRMED, 72_000, 355_000),
    ]
    with Netboot(there.netboot.unix) as netboot:
        assert [each.why for each in netboot.channel_history("stable").changes][:1] == ["a compiler"]


def test_deltas_are_there_before_receivers_are_told(there: Hall, store: Store) -> None:
    with receivers(there, rhfs1=State.CONFIRMED, rhfs2=State.CONFIRMED):
        go(publisher(there, store), ONE)
        go(publisher(there, store), TWO)
    with Depot(there.depot.unix) as depot:
        newest = depot.publications().publications[0]
        deltas = there.served / f"deltas/nfsroot/{TWO}/{ONE}"
        assert (deltas / "root.erofs.json").stat().st_mtime <= newest.at


def test_the_statement_is_signed_by_the_administrators_key_and_the_manifest_too(there: Hall, store: Store) -> None:
    with receivers(there, rhfs1=State.CONFIRMED, rhfs2=State.CONFIRMED) as taken:
        go(publisher(there, store), ONE, why="é and\nmore")
    published = statement.Publication(id=1, statement=taken[0].statement, signatures=taken[0].signatures)
    said = statement.verify(published, there.people.signers(), last_sequence=0, hall="pasteur")
    assert (said.by, said.why) == ("anna", "é and\nmore")
    folder = there.served / f"images/nfsroot/{ONE}"
    signature = (folder / "manifest.json.anna.sig").read_bytes()
    data = (folder / "manifest.json").read_bytes()
    assert signing.verify(data, signature, there.people.signers(), "backline-image") == "anna"


def test_an_agent_signs_as_well(there: Hall, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    agent = tmp_path / "agent"
    with running(spawn(["ssh-agent", "-D", "-a", agent], stdout=subprocess.DEVNULL)):
        deadline = time.monotonic() + 10
        while not agent.exists():
            assert time.monotonic() < deadline
        monkeypatch.setenv("SSH_AUTH_SOCK", str(agent))
        run(["ssh-add", "-q", there.people.key()])
        public = tmp_path / "anna.pub"
        public.write_bytes(there.people.key().with_name("anna.pub").read_bytes())
        made = publisher(there, store)
        made.key = public
        with receivers(there, rhfs1=State.CONFIRMED, rhfs2=State.CONFIRMED):
            assert go(made, ONE).switched


def test_a_key_that_hall_toml_does_not_trust_brings_nothing(there: Hall, store: Store) -> None:
    with pytest.raises(BacklineError) as caught:
        go(publisher(there, store, by="eve"), ONE)
    assert caught.value.code == "depot.signature"
    with Depot(there.depot.unix) as depot:
        assert depot.versions().versions == []


def test_the_channel_stays_where_it_was_when_a_receiver_fails_or_is_silent(there: Hall, store: Store) -> None:
    with receivers(there, rhfs1=State.CONFIRMED, rhfs2=State.CONFIRMED):
        go(publisher(there, store), ONE)
    with receivers(there, rhfs1=State.CONFIRMED, rhfs2=State.FAILED):
        with pytest.raises(MissingError, match="rhfs2: of test") as caught:
            go(publisher(there, store), TWO)
        assert caught.value.code == "publish.receivers"
        assert pointer(there) == ONE
    with receivers(there, rhfs1=State.CONFIRMED):
        with pytest.raises(MissingError, match="rhfs2: not heard"):
            go(publisher(there, store), THREE, seconds=2)
    assert pointer(there) == ONE
    with receivers(there, rhfs2=State.CONFIRMED):  # it has come back: the same again goes on with what was published
        again = go(publisher(there, store), THREE)
    assert (again.sequence, again.uploaded, pointer(there)) == (3, 0, THREE)


def test_the_same_again_after_a_failure_is_published_anew(there: Hall, store: Store) -> None:
    with receivers(there, rhfs1=State.CONFIRMED, rhfs2=State.FAILED), pytest.raises(MissingError):
        go(publisher(there, store), ONE)
    with receivers(there, since=1, rhfs1=State.CONFIRMED, rhfs2=State.CONFIRMED):
        assert go(publisher(there, store), ONE).sequence == 2


def test_only_some_hosts_on_trial_and_without_a_switch(there: Hall, store: Store) -> None:
    with receivers(there, rhfs2=State.CONFIRMED):
        outcome = go(publisher(there, store), ONE, to=["rhfs2"], switch=False)
        assert ([each.host for each in outcome.receivers], outcome.switched, pointer(there)) == (["rhfs2"], False, None)
        go(publisher(there, store), TWO, to=["rhfs2"], commit_within=60)
    with Netboot(there.netboot.unix) as netboot:
        (channel,) = netboot.channels().channels
    assert (channel.current, channel.committed) == (TWO, False)


def test_a_step_back_has_to_be_meant(there: Hall, store: Store) -> None:
    with receivers(there, rhfs1=State.CONFIRMED, rhfs2=State.CONFIRMED):
        go(publisher(there, store), ONE)
        with pytest.raises(BacklineError) as caught:
            go(publisher(there, store), OLD)
        assert (caught.value.code, pointer(there)) == ("publish.downgrade", ONE)
        assert go(publisher(there, store), OLD, allow_downgrade=True).switched
    assert pointer(there) == OLD


def test_a_server_image_is_published_and_nobody_waits_for_root_file_servers(there: Hall, store: Store) -> None:
    wanted = Wanted(ref=image(ONE, role="web").ref, channel="servers")
    with publisher(there, store).depot as depot:
        outcome = publisher(there, store, depot=depot).publish(wanted, deadline=time.monotonic() + 5)
    assert (outcome.receivers, outcome.switched, outcome.sequence) == ([], False, 1)


class Meddling(Depot):
    """A depot's client before whose call something happens, once."""

    def __init__(self, address: str, call: str, meddle: Callable[[], None]) -> None:
        super().__init__(address)
        inner = getattr(self, call)

        def once(*arguments: object, **options: object) -> object:
            setattr(self, call, inner)
            meddle()
            return inner(*arguments, **options)

        setattr(self, call, once)


def test_two_administrators_at_once_get_two_numbers(there: Hall, store: Store) -> None:
    def other() -> None:
        with Depot(there.depot.unix) as depot:
            depot.publish(signed(there.people, says(image(ONE), 1)))

    with receivers(there, rhfs1=State.CONFIRMED, rhfs2=State.CONFIRMED):
        go(publisher(there, store), ONE, channel="elsewhere")
        mine = publisher(there, store, depot=Meddling(there.depot.unix, "publish", other))
        assert go(mine, TWO).sequence == 2


def publish_too(there: Hall, version: str) -> Callable[[], None]:
    """What another administrator does meanwhile."""

    def other() -> None:
        with Depot(there.depot.unix) as depot:
            bring(depot, image(version), there.people)
            depot.publish(signed(there.people, says(image(version), 2, why="me too")))

    return other


def test_who_is_overtaken_is_told_at_once_and_the_last_publication_wins(
    there: Hall, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Receivers take the newest of a channel: the first one would wait in vain for a word of them."""
    monkeypatch.setattr(publish, "LOOK_SECONDS", 1)
    mine = publisher(there, store, depot=Meddling(there.depot.unix, "publication", publish_too(there, TWO)))
    with receivers(there, rhfs1=State.CONFIRMED), pytest.raises(BacklineError) as caught:  # rhfs2 has not begun
        go(mine, ONE)
    assert caught.value.code == "publish.overtaken"
    assert f"has published nfsroot/{TWO} as number 2 of channel stable meanwhile" in caught.value.message
    assert pointer(there) is None
    with receivers(there, rhfs1=State.CONFIRMED, rhfs2=State.CONFIRMED):
        assert go(publisher(there, store), TWO).sequence == 2
    assert pointer(there) == TWO


def test_two_who_publish_the_same_version_both_succeed(
    there: Hall, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Receivers tell of the newest publication only."""
    monkeypatch.setattr(publish, "LOOK_SECONDS", 1)
    mine = publisher(there, store, depot=Meddling(there.depot.unix, "publication", publish_too(there, ONE)))

    def follow() -> None:
        with Depot(there.depot.unix) as depot, Netboot(there.netboot.unix) as netboot:
            while not over.wait(0.05):
                for found in depot.publications(since=1).publications:
                    netboot.hold(1, ONE)
                    for host in found.receivers:
                        depot.progress(found.id, host, NewProgress(bytes=0, total=0, full=1, state=State.CONFIRMED))

    over = threading.Event()
    thread = threading.Thread(target=follow)
    thread.start()
    try:
        assert go(mine, ONE).sequence == 2
    finally:
        over.set()
        thread.join()
    assert pointer(there) == ONE


def test_a_channel_that_somebody_else_moved_meanwhile_is_left_there(there: Hall, store: Store) -> None:
    with receivers(there, rhfs1=State.CONFIRMED, rhfs2=State.CONFIRMED):
        go(publisher(there, store), ONE)
        go(publisher(there, store), TWO)

        def back() -> None:
            with Netboot(there.netboot.unix) as netboot:
                netboot.rollback_channel("stable", Rollback(why="no sound"))

        with pytest.raises(BacklineError) as caught:
            go(publisher(there, store, depot=Meddling(there.depot.unix, "complete", back)), THREE)
    assert caught.value.code == "publish.moved"
    assert f"has moved channel stable to {ONE} meanwhile (no sound)" in caught.value.message
    assert f"backline root switch {THREE} --channel stable" in str(caught.value.hint)
    assert pointer(there) == ONE
    with Depot(there.depot.unix) as depot:
        assert depot.channel("stable").version == THREE  # published all the same: nothing of it is lost


def test_a_file_that_was_damaged_on_the_way_is_sent_once_more(there: Hall, store: Store) -> None:
    def rot() -> None:
        path = there.folder / f"state/incoming/nfsroot/{ONE}/root.erofs"
        path.write_bytes(path.read_bytes()[::-1])

    with receivers(there, rhfs1=State.CONFIRMED, rhfs2=State.CONFIRMED):
        outcome = go(publisher(there, store, depot=Meddling(there.depot.unix, "complete", rot)), ONE)
    assert outcome.uploaded == 355_000 + 300_000


def test_a_store_that_was_tampered_with_is_not_published(there: Hall, store: Store, tmp_path: Path) -> None:
    made = image(ONE)
    mine = Store(tmp_path / "mine")
    path = mine.add("nfsroot", ONE, made.store(tmp_path / "made"))
    (path / "root.erofs").chmod(0o644)
    (path / "root.erofs").write_bytes(made.files["root.erofs"][::-1])
    with pytest.raises(BacklineError) as caught:
        go(publisher(there, mine), ONE)
    assert caught.value.code == "depot.hash"


def command(there: Hall, store: Store, *words: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "services.common.main", "publish", *words, "--store", str(store.root)]
    argv += ["--address", there.depot.unix, "--netboot", there.netboot.unix]
    env = {**os.environ, "BACKLINE_BUILD_SIGNING_KEY": str(there.people.key())}
    return subprocess.run(argv, cwd=ROOT, env=env, capture_output=True, text=True, check=False)


def test_the_command_shows_each_receiver_with_what_was_sent_against_the_full_size(there: Hall, store: Store) -> None:
    with receivers(there, rhfs1=State.CONFIRMED, rhfs2=State.CONFIRMED):
        done = command(there, store, f"nfsroot@{ONE}", "--channel", "stable", "--why", "the first")
        again = command(there, store, f"nfsroot@{ONE}", "--channel", "stable", "--json", "--quiet")
    assert done.returncode == 0, done.stderr
    assert "rhfs1: confirmed, 70.3 KiB of 346.7 KiB" in done.stderr
    assert f"uploading nfsroot/{ONE}" in done.stderr
    assert done.stdout.startswith(f"nfsroot/{ONE} is number 1 of channel stable (publication 1)\n")
    assert "boot it from now on" in done.stdout
    assert json.loads(again.stdout)["uploaded"] == 0
    assert again.stderr == ""


def test_the_command_fails_with_words_and_a_hint(there: Hall, store: Store) -> None:
    done = command(there, store, f"nfsroot@{ONE}", "--channel", "stable", "--wait", "1")
    assert done.returncode == 4
    assert "error: rhfs1: not heard; rhfs2: not heard\n" in done.stderr
    assert "hint: the channel was not moved; `backline depot show 1`" in done.stderr
    unknown = command(there, store, "nfsroot@20990101.000000000000", "--channel", "stable")
    assert unknown.returncode == 4


@pytest.mark.parametrize(
    ("depot", "netboot"),
    [
        ("https://depot.prolo", "https://netboot.prolo"),
        ("https://depot", "https://netboot"),
        ("unix:/run/backline/depot.sock", "unix:/run/backline/netboot.sock"),
    ],
)
def test_netboot_is_beside_the_depot(depot: str, netboot: str) -> None:
    assert publish_cli.addresses(depot, None) == (depot, netboot)
    assert publish_cli.addresses(depot, "unix:/x") == (depot, "unix:/x")


def test_without_an_address_it_is_gws_own_or_that_of_hall_toml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError):
        publish_cli.addresses(None, None, sockets=tmp_path)
    (tmp_path / "hall.toml").write_text('[hall]\nname = "final"\ndomain = "prolo"\n')
    assert publish_cli.addresses(None, None, sockets=tmp_path)[0] == "https://depot.prolo"
    (tmp_path / "depot.sock").touch()
    assert publish_cli.addresses(None, None, sockets=tmp_path)[1] == f"unix:{tmp_path}/netboot.sock"
    with pytest.raises(UsageError):
        publish_cli.addresses("https://192.168.1.254", None)


def test_an_outcome_is_shown_as_text() -> None:
    outcome = Outcome(
        publication=1,
        version=f"nfsroot/{ONE}",
        channel="stable",
        sequence=1,
        uploaded=1,
        full=2,
        receivers=[publish.Receiver(host="rhfs1", state=State.CONFIRMED, bytes=1024, full=2048, detail="")],
        switched=True,
    )
    assert "rhfs1: 1.0 KiB of 2.0 KiB\n" in publish.render(outcome)
    assert "was not moved" in publish.render(msgspec.structs.replace(outcome, switched=False))
