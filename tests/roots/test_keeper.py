"""A root file server beside a real netboot and a depot's real HTTP: what it confirms, refuses and lets go of."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from netboot.client import Netboot
from netboot.schema import NewPin, NewPointer, NewVersion, PinKind
from services.common import signing
from services.common.collecting import GcRequest
from services.common.errors import BacklineError, BusyError, HostError, MissingError
from services.common.statement import Publication
from services.common.versions import Ref
from services.roots.held import Folder
from services.roots.keeper import Keeper
from services.roots.schema import Holds, Settings, State
from tests.netboot import rig as netboot_rig
from tests.netboot.rig import Pair
from tests.roots.rig import HALL, Hall, same


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    with netboot_rig.pair(tmp_path_factory.mktemp("gw")) as running:
        yield running


@pytest.fixture
def netboot(pair: Pair) -> Iterator[Netboot]:
    """netboot, without channels' pointers, pins and holdings of the test before."""
    with Netboot(pair.netboot.unix) as client:
        yield client
        for pin in client.pins().pins:
            client.unpin(pin.kind, pin.value)
        for each in client.holdings().holdings:
            client.release(each.rfs, each.version)


class Server:
    """A root file server under test, in this process."""

    def __init__(self, hall: Hall, netboot: str, **more: object) -> None:
        self.hall = hall
        values: dict[str, object] = {"folder": hall.held.root, "keep": 0, "reserve_bytes": 0, **more}
        self.settings = Settings(
            host="rhfs01",
            numbers=[0, 1],
            hall=HALL,
            depot=hall.server.url,
            netboot=netboot,
            signers=hall.signers,
            **values,  # type: ignore[arg-type]
        )
        self.steps: list[str] = []
        self.keeper = self.start()

    def start(self) -> Keeper:
        """As after a restart."""
        self.keeper = Keeper(self.settings, Folder(self.settings.folder, hook=self.steps.append))
        self.keeper.check()
        return self.keeper

    def state(self, ref: Ref) -> State:
        return self.keeper.root(ref).state


@pytest.fixture
def server(hall: Hall, pair: Pair, netboot: Netboot) -> Server:
    del netboot  # it cleans up behind us
    return Server(hall, pair.netboot.unix)


def known(netboot: Netboot, ref: Ref) -> None:
    """netboot is told of a version, as the depot does it."""
    netboot.add_version(NewVersion(version=ref.version, root_hash="0" * 64))


def holders(netboot: Netboot, ref: Ref) -> list[int]:
    return [each.rfs for each in netboot.holdings().holdings if each.version == ref.version]


def taken(server: Server, netboot: Netboot, *, id: int = 1) -> tuple[Ref, Publication]:
    """A version that was published, pulled and confirmed."""
    ref = server.hall.version()
    known(netboot, ref)
    publication = server.hall.publication(ref, id=id, sequence=id)
    server.keeper.take([publication])
    assert server.state(ref) is State.HELD
    return ref, publication


def superseded(server: Server, netboot: Netboot) -> Ref:
    """A version that is held, and after which another one was published: nobody wants it any more."""
    old, _ = taken(server, netboot)
    taken(server, netboot, id=2)
    return old


def test_a_publication_is_pulled_and_confirmed_under_each_of_our_numbers(server: Server, netboot: Netboot) -> None:
    ref, _ = taken(server, netboot)
    assert same(server.hall, server.keeper.folder, ref)
    assert holders(netboot, ref) == [0, 1]
    assert server.keeper.root(ref).confirmed


def test_the_depot_is_told_how_far_it_is(server: Server, netboot: Netboot) -> None:
    taken(server, netboot)
    told = server.hall.server.progress
    assert told[0]["path"] == "/v1/publications/1/progress/rhfs01"
    assert [each["state"] for each in told if each["state"] != "pulling"] == ["staging", "confirmed"]
    assert told[-1]["bytes"] == told[-1]["total"] == told[-1]["full"]


def test_a_version_that_netboot_does_not_know_yet_is_confirmed_later(server: Server, netboot: Netboot) -> None:
    ref = server.hall.version()
    server.keeper.take([server.hall.publication(ref)])
    assert (server.state(ref), server.keeper.root(ref).confirmed) == (State.HELD, False)
    known(netboot, ref)
    server.keeper.confirm()
    assert holders(netboot, ref) == [0, 1]


def test_after_a_restart_everything_is_verified_and_confirmed_again(server: Server, netboot: Netboot) -> None:
    ref, _ = taken(server, netboot)
    for number in (0, 1):
        netboot.release(number, ref.version)
    server.start()
    server.keeper.confirm()
    assert holders(netboot, ref) == [0, 1]


def test_a_version_that_rotted_on_the_disk_is_offered_no_longer_and_pulled_again(
    server: Server, netboot: Netboot
) -> None:
    ref, publication = taken(server, netboot)
    path = server.keeper.folder.place_of(ref) / "root.erofs"
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.seek(1_000_000)
        file.write(b"\0\0\0\0")
    server.start()
    assert server.state(ref) is State.DAMAGED
    server.keeper.confirm()
    assert holders(netboot, ref) == []
    server.keeper.take([publication])
    assert same(server.hall, server.keeper.folder, ref)
    assert holders(netboot, ref) == [0, 1]


def test_a_signer_who_is_trusted_no_longer_takes_his_versions_with_him(server: Server, netboot: Netboot) -> None:
    ref, _ = taken(server, netboot)
    server.hall.signers.write_text("")
    server.start()
    server.keeper.confirm()
    assert holders(netboot, ref) == []
    assert server.keeper.folder.have(ref), "it is not deleted"


def test_netboot_hears_what_is_not_here(server: Server, netboot: Netboot) -> None:
    ref = server.hall.version()
    known(netboot, ref)
    netboot.hold(1, ref.version)
    netboot.hold(2, ref.version)
    server.keeper.confirm()
    assert holders(netboot, ref) == [2], "another server's word is not ours to take back"


def test_a_refused_publication_is_named_here_and_at_the_depot(server: Server, netboot: Netboot) -> None:
    _, first = taken(server, netboot)
    replayed = server.hall.publication(server.hall.version(), id=2, sequence=1)
    server.keeper.take([first, replayed], fresh=[2])
    assert any("publication 2: refused" in problem for problem in server.keeper.status().problems)
    assert server.hall.server.progress[-1]["state"] == "failed"
    assert str(server.hall.server.progress[-1]["detail"]).startswith("publish.sequence")


def test_a_tampered_artefact_is_refused_and_what_is_held_stays(server: Server, netboot: Netboot) -> None:
    ref, first = taken(server, netboot)
    bad = server.hall.version()
    known(netboot, bad)
    server.hall.server.change = lambda path, content: content[:-1] + b"!" if path.endswith("root.erofs") else content
    server.keeper.take([first, server.hall.publication(bad, id=2, sequence=2)])
    assert server.state(bad) is State.REFUSED
    assert holders(netboot, bad) == []
    assert holders(netboot, ref) == [0, 1]


def test_a_new_server_catches_up_with_what_channels_point_to(server: Server, netboot: Netboot) -> None:
    old, new = server.hall.version(), server.hall.version()
    for ref in (old, new):
        known(netboot, ref)
    netboot.switch_channel("catchup", NewPointer(version=old.version))
    publications = [server.hall.publication(ref, id=id, sequence=id) for id, ref in ((1, old), (2, new))]
    server.keeper.take(publications)
    assert {ref.version for ref in server.keeper.held()} == {old.version, new.version}


def test_stage_takes_a_published_version_of_any_age(server: Server, netboot: Netboot) -> None:
    old, new = server.hall.version(), server.hall.version()
    publications = [server.hall.publication(ref, id=id, sequence=id) for id, ref in ((1, old), (2, new))]
    server.keeper.take(publications)
    known(netboot, old)
    assert not server.keeper.folder.have(old)
    assert server.keeper.stage(old).state is State.HELD
    assert holders(netboot, old) == [0, 1]


def test_stage_takes_nothing_that_was_not_published(server: Server, netboot: Netboot) -> None:
    del netboot
    with pytest.raises(MissingError, match="was not published"):
        server.keeper.stage(server.hall.version())


# What the host's document has held


def test_what_a_document_has_held_is_pulled_and_kept_whatever_is_published(server: Server, netboot: Netboot) -> None:
    old, new = server.hall.version(), server.hall.version()
    for ref in (old, new):
        known(netboot, ref)
    publications = [server.hall.publication(ref, id=id, sequence=id) for id, ref in ((1, old), (2, new))]
    server.keeper.hold(Holds(roots=[str(old)]))
    server.keeper.take(publications)
    assert (server.state(old), server.state(new)) == (State.HELD, State.HELD)
    server.start().take(publications)
    assert server.keeper.status().holds == [str(old)], "a restart forgets nothing"
    assert server.keeper.collect(GcRequest()).removed == []
    with pytest.raises(BusyError, match="this host's document has it held"):
        server.keeper.remove(old)
    server.keeper.hold(Holds(roots=[]))
    server.keeper.take(publications)
    assert server.keeper.collect(GcRequest()).removed == [str(old)]


def test_what_is_held_has_to_be_signed_too(server: Server, netboot: Netboot, tmp_path: Path) -> None:
    ref = server.hall.version()
    known(netboot, ref)
    stranger = tmp_path / "stranger"
    signing.new_key(stranger, comment="mallory")
    server.keeper.hold(Holds(roots=[str(ref)]))
    server.keeper.take([server.hall.publication(ref, key=stranger)])
    assert not server.keeper.folder.have(ref)


# Letting go


def test_a_version_that_nobody_uses_goes(server: Server, netboot: Netboot) -> None:
    old = superseded(server, netboot)
    server.keeper.remove(old)
    assert not server.keeper.folder.have(old)
    assert holders(netboot, old) == []
    with pytest.raises(MissingError):
        server.keeper.root(old)


def test_the_word_is_taken_back_before_the_files_go(server: Server, netboot: Netboot) -> None:
    old = superseded(server, netboot)
    server.steps.clear()
    server.keeper.remove(old)
    assert server.steps.index("released") < server.steps.index("throw")


def test_a_channel_keeps_its_version_and_the_one_before(server: Server, netboot: Netboot) -> None:
    old = superseded(server, netboot)
    newest = server.keeper.held()[0]
    netboot.switch_channel("exam", NewPointer(version=old.version))
    with pytest.raises(BusyError, match="channel exam"):
        server.keeper.remove(old)
    netboot.switch_channel("exam", NewPointer(version=newest.version))
    with pytest.raises(BusyError, match="channel exam"):
        server.keeper.remove(old)
    assert holders(netboot, old) == [0, 1]


def test_a_pin_keeps_its_version(server: Server, netboot: Netboot) -> None:
    old = superseded(server, netboot)
    netboot.pin(PinKind.ROOM, "pasteur", NewPin(version=old.version))
    with pytest.raises(BusyError, match="pin of room pasteur"):
        server.keeper.remove(old)


def test_the_newest_of_a_channel_stays_although_no_pointer_names_it_yet(server: Server, netboot: Netboot) -> None:
    ref, _ = taken(server, netboot)
    with pytest.raises(BusyError, match="newest on channel stable: number 1"):
        server.keeper.remove(ref)


def test_an_open_file_keeps_its_version(server: Server, netboot: Netboot) -> None:
    old = superseded(server, netboot)
    with (server.keeper.folder.place_of(old) / "root.erofs").open("rb"):
        with pytest.raises(BusyError, match="has a file of it open"):
            server.keeper.remove(old)
        assert holders(netboot, old) == [0, 1], "it is offered as before"
    server.keeper.remove(old)


def test_who_begins_to_use_a_version_while_it_goes_keeps_it(server: Server, netboot: Netboot) -> None:
    old = superseded(server, netboot)

    def pin(step: str) -> None:
        if step == "released":
            netboot.pin(PinKind.ROOM, "late", NewPin(version=old.version))

    server.keeper.folder.hook = pin
    with pytest.raises(BusyError, match="pin of room late"):
        server.keeper.remove(old)
    assert server.keeper.folder.have(old)
    assert holders(netboot, old) == [0, 1]


@pytest.mark.parametrize("step", ["release", "released", "throw", "sync thrown", "delete"])
def test_a_removal_that_dies_is_wholly_before_or_after(server: Server, netboot: Netboot, step: str) -> None:
    old = superseded(server, netboot)

    def die(each: str) -> None:
        if each == step:
            raise KeyboardInterrupt

    server.keeper.folder.hook = die
    with pytest.raises(KeyboardInterrupt):
        server.keeper.remove(old)
    server.start()
    server.keeper.confirm()
    assert holders(netboot, old) == ([0, 1] if server.keeper.folder.have(old) else [])
    assert list(server.keeper.folder.trash.iterdir()) == []


def test_without_netboot_nothing_is_removed(hall: Hall, server: Server, netboot: Netboot) -> None:
    old = superseded(server, netboot)
    away = Server(hall, "unix:/nonexistent/netboot.sock")
    with pytest.raises(BacklineError, match="cannot be reached"):
        away.keeper.remove(old)
    with pytest.raises(BacklineError, match="cannot be reached"):
        away.keeper.collect(GcRequest(keep=0))
    assert server.keeper.folder.have(old)


def test_nothing_is_removed_before_it_is_known_what_is_published(server: Server, netboot: Netboot) -> None:
    old = superseded(server, netboot)
    server.start()
    with pytest.raises(BusyError, match="the depot was not heard"):
        server.keeper.remove(old)
    assert server.keeper.collect(GcRequest(keep=0)).removed == []


def test_a_restart_tells_the_depot_nothing_that_it_knows(server: Server, netboot: Netboot) -> None:
    ref, publication = taken(server, netboot)
    known_there = {"progress": [{"host": "rhfs01", "state": "confirmed"}]}
    path = server.hall.server.root / "v1/publications/1"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(known_there))
    server.hall.server.progress.clear()
    server.start()
    server.keeper.confirm()
    server.keeper.take([publication])
    assert server.hall.server.progress == []
    path.unlink()
    server.start()
    server.keeper.confirm()
    server.keeper.take([publication])
    assert [each["state"] for each in server.hall.server.progress] == ["confirmed"]
    assert server.keeper.root(ref).confirmed


def test_old_leases_remove_nothing(server: Server, netboot: Netboot, monkeypatch: pytest.MonkeyPatch) -> None:
    from services.roots import keeper

    old = superseded(server, netboot)
    monkeypatch.setattr(keeper, "AGE_SECONDS", -1.0)
    with pytest.raises(BusyError, match=r"leases are .* old"):
        server.keeper.remove(old)
    assert server.keeper.folder.have(old)


def test_collecting_removes_what_nobody_uses_and_names_the_others_users(server: Server, netboot: Netboot) -> None:
    first, second, third = (taken(server, netboot, id=id)[0] for id in (1, 2, 3))
    netboot.pin(PinKind.ROOM, "pasteur", NewPin(version=second.version))
    planned = server.keeper.collect(GcRequest(plan=True))
    assert server.keeper.folder.have(first)
    answer = server.keeper.collect(GcRequest())
    assert answer.removed == planned.removed == [str(first)]
    assert answer.bytes > 2_000_000
    why = {each.version: each.why for each in answer.kept}
    assert why[second.version] == ["pin of room pasteur"]
    assert why[third.version] == ["newest on channel stable: number 3"]


def test_collecting_leaves_the_newest(server: Server, netboot: Netboot) -> None:
    first, second, _ = (taken(server, netboot, id=id)[0] for id in (1, 2, 3))
    assert server.keeper.collect(GcRequest(keep=2)).removed == [str(first)]
    assert server.keeper.folder.have(second)


def test_a_full_disk_is_helped_by_collecting(hall: Hall, pair: Pair, netboot: Netboot, tmp_path: Path) -> None:
    from tests.roots.test_pull import disk

    with disk(tmp_path / "disk", 5_000_000) as folder:
        server = Server(hall, pair.netboot.unix, folder=folder.root)
        first, second, third = (taken(server, netboot, id=id)[0] for id in (1, 2, 3))
        assert not server.keeper.folder.have(first), "nobody used it, and its room was needed"
        assert server.keeper.folder.have(second) or server.keeper.folder.have(third)


def test_a_full_disk_of_versions_in_use_refuses_the_next_and_says_so(
    hall: Hall, pair: Pair, netboot: Netboot, tmp_path: Path
) -> None:
    from tests.roots.test_pull import disk

    with disk(tmp_path / "disk", 5_000_000) as folder:
        server = Server(hall, pair.netboot.unix, folder=folder.root)
        first, _ = taken(server, netboot)
        netboot.pin(PinKind.ROOM, "pasteur", NewPin(version=first.version))
        taken(server, netboot, id=2)
        netboot.pin(PinKind.ROOM, "galois", NewPin(version=server.keeper.held()[0].version))
        ref = hall.version()
        server.keeper.take([hall.publication(ref, id=3, sequence=3)])
        assert server.state(ref) is State.FAILED
        assert "roots.full" in str(hall.server.progress[-1]["detail"])
        assert holders(netboot, first) == [0, 1]
        with pytest.raises(HostError):
            server.keeper.stage(ref)
