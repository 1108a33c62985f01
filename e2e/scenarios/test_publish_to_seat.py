"""A version with one changed file, from `backline publish` to a seat's next boot, and back; and what may go wrong.

Real on the way: the command, gw's depot and its deltas, rhfs01, which pulls, verifies and confirms, netboot's pointer,
and what the seat asks for. The seat is a container that asks netboot as iPXE does, and runs the version that it is told
(`e2e.netbooted`); what a machine would load, kernel and initrd over HTTP and the root over NFS, is loaded beside it.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from builder import clock
from builder.image import Shop
from e2e import published, small, topology
from e2e.lab import Lab
from e2e.node import Node
from e2e.pool import Labs
from e2e.scenarios import changed, publishing
from e2e.scenarios.conftest import ROLES
from e2e.scenarios.publishing import Story
from services.common import signing
from services.common import statement as statements
from services.common.errors import Exit
from services.common.problem import RemoteError
from services.common.versions import Ref
from services.depot.schema import NewPublication, State
from services.roots.schema import Record

SIZE = 16_000_000
NEXT = ("--channel", "next")

pytestmark = [pytest.mark.needs("libnfs"), pytest.mark.images]


@pytest.fixture(scope="module")
def new(shop: Shop, tmp_path_factory: pytest.TempPathFactory) -> Ref:
    return changed.build(shop, tmp_path_factory.mktemp("good") / "checkout", changed.GOOD)


@pytest.fixture(scope="module")
def story(labs: Labs, shop: Shop, new: Ref, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    """The hall as it begins, from a store of its own in which the changed version was built last."""
    labs.close()
    before = [ref for role in ROLES if (ref := shop.store.current(role)) is not None]
    store = changed.store(shop.store, before, tmp_path_factory.mktemp("store"))
    settings = msgspec.structs.replace(shop.settings, store=str(store.root))
    with Lab(topology.hall(seats=1), settings=settings, netboot=True, name="publish") as lab:
        begun = publishing.begin(lab, tmp_path_factory.mktemp("administrator"))
        changed.add(shop.store, new, store)
        store.set_current(new)
        yield begun
        lab.check()


@pytest.fixture(scope="module")
def old(story: Story) -> Ref:
    assert story.lab.netboot is not None
    return story.lab.netboot.ref


@pytest.fixture(scope="module")
def outcome(story: Story) -> dict[str, Any]:
    """What `backline publish nfsroot --channel stable` says."""
    return story.publish("nfsroot", "--why", "one file")


# One changed file, there and back


def test_the_seat_runs_what_the_lab_begins_with(story: Story, old: Ref) -> None:
    assert story.seat.booted["version"] == old.version
    newest = story.newest()
    assert newest is not None
    assert newest.receivers == ["rhfs01"]
    assert story.pulled()[0] is State.CONFIRMED


def test_the_changed_version_comes_as_a_delta_and_is_confirmed(story: Story, new: Ref, outcome: dict[str, Any]) -> None:
    assert (outcome["version"], outcome["sequence"], outcome["switched"]) == (str(new), 2, True)
    (receiver,) = outcome["receivers"]
    assert receiver["state"] == "confirmed"
    assert 0 < receiver["bytes"] < receiver["full"] / 20
    assert story.holders(new) == [0, 1]
    assert (story.pointer().current, story.pointer().why) == (new.version, "one file")


def test_nothing_changes_under_a_seat_that_runs(story: Story, old: Ref, outcome: dict[str, Any]) -> None:
    assert (story.seat.starts, story.seat.booted["version"]) == (1, old.version)
    story.seat.fails("test", "-e", f"/{changed.FILE}")


def test_its_next_boot_is_the_new_version(story: Story, new: Ref, outcome: dict[str, Any]) -> None:
    assert story.loaded() == story.signed(new)
    story.seat.reboot()
    assert story.seat.booted["version"] == new.version
    assert story.seat.succeeds("cat", f"/{changed.FILE}") == "the new version"
    story.lab["gw"].wait_until("its heartbeat", lambda: story.known().version == new.version, seconds=60)


def test_rollback_takes_it_back_at_the_next_boot(story: Story, old: Ref, new: Ref, outcome: dict[str, Any]) -> None:
    said = story.administrator.run("backline", "root", "rollback", "--why", "no sound").stdout
    assert said.startswith(f"channel stable: {old.version}; before it: ")
    assert story.seat.booted["version"] == new.version
    story.seat.reboot()
    assert story.seat.booted["version"] == old.version
    story.seat.fails("test", "-e", f"/{changed.FILE}")
    assert story.holders(new) == [0, 1]  # nothing on the root file server has moved


# What may go wrong, on another channel: of its versions, nobody could boot any


@pytest.fixture
def slowly(story: Story) -> Iterator[None]:
    """A root file server that takes seconds for what it takes milliseconds for otherwise."""
    story.lab.slow("rhfs01", rate=20_000_000)
    yield
    story.lab.heal()


def test_a_root_file_server_that_loses_its_power_amid_a_pull_goes_on_when_it_is_back(
    story: Story, slowly: None
) -> None:
    """The command waits for it all the time."""
    ref, rhfs = story.small(small.noise(11, SIZE)), story.lab["rhfs01"]
    with story.publishing(ref, *NEXT) as command:
        story.lab["gw"].wait_until("a part of it", lambda: story.pulled("next")[1] > SIZE / 4, seconds=60)
        rhfs.crash()
        (part,) = story.held("rhfs01").glob(f"staging/{ref}/root.erofs.part")
        assert SIZE / 5 < part.stat().st_size < SIZE
        began = part.stat().st_ino
        assert story.points("next") is None
        story.lab.heal()
        rhfs.start()
        _, errors = command.communicate(timeout=publishing.SECONDS)
    assert command.returncode == 0, errors
    assert (story.holders(ref), story.points("next")) == ([0, 1], ref.version)
    whole = story.held("rhfs01") / f"images/{ref}/root.erofs"
    assert (whole.stat().st_ino, whole.read_bytes()) == (began, small.noise(11, SIZE))


def test_of_two_administrators_at_once_one_wins_and_the_other_is_told(story: Story, slowly: None) -> None:
    refs = [story.small(small.noise(seed, SIZE // 4)) for seed in (21, 22)]
    before = set(story.published("next"))
    with story.publishing(refs[0], *NEXT) as one, story.publishing(refs[1], *NEXT) as two:
        said = [each.communicate(timeout=publishing.SECONDS) for each in (one, two)]
    codes = [one.returncode, two.returncode]
    assert sorted(codes) == [0, Exit.BUSY], said
    winner, loser = (refs[0], refs[1]) if codes[0] == 0 else (refs[1], refs[0])
    error = said[codes.index(Exit.BUSY)][1]
    assert '"publish.overtaken"' in error or '"publish.moved"' in error, error
    assert winner.version in error
    assert story.points("next") == winner.version
    assert set(story.published("next")) - before == {ref.version for ref in refs}  # nothing of either is lost
    again = story.publish(loser, *NEXT, "--allow-downgrade")
    assert (again["switched"], story.pointer("next").previous) == (True, winner.version)


def test_a_full_disk_of_a_root_file_server_is_said_and_the_channel_stays(story: Story, old: Ref) -> None:
    ref, before = story.small(small.noise(31, SIZE)), story.points("next")
    with other_disk(story.lab["rhfs01"], published.HELD, "backline-roots.service", megabytes=270) as grow:
        said = story.refused(ref, *NEXT)
        assert "error: rhfs01: " in said
        assert "roots.full" in said or "needs" in said, said
        assert story.points("next") == before
        grow(700)
        assert story.publish(ref, *NEXT)["switched"]
    story.lab["gw"].wait_until("what it held", lambda: story.holders(old) == [0, 1], seconds=60)


def test_a_full_disk_of_the_depot_is_said_and_the_same_command_goes_on(story: Story) -> None:
    ref, before = story.small(small.noise(32, SIZE)), story.points("next")
    with other_disk(story.lab["gw"], published.DEPOT, "backline-depot.service", megabytes=8):
        said = story.refused(ref, *NEXT)
        assert "the disk has room for" in said, said
        assert "`backline depot rm ROLE/VERSION`" in said
    assert story.points("next") == before
    assert story.publish(ref, *NEXT)["switched"]


def test_a_key_that_the_hall_does_not_trust_brings_nothing(story: Story) -> None:
    key = story.place / "eve"
    signing.new_key(key, comment="eve")
    ref, before = story.small(small.noise(41, SIZE // 8)), story.published("next")
    said = story.refused(ref, *NEXT, "--key", str(key))
    assert "is no trusted key" in said, said
    assert story.published("next") == before
    with story.depot() as depot:
        assert ref.version not in {each.version for each in depot.versions().versions}


def test_an_old_statement_once_more_changes_nothing(story: Story) -> None:
    """The depot knows it; signed again for another version, its number is taken."""
    before = story.published("next")
    with story.depot() as depot:
        first = depot.publications("next").publications[-1]
        again = depot.publish(NewPublication(statement=first.statement, signatures=first.signatures))
        assert again.id == first.id
        said = msgspec.structs.replace(statements.decode(first.statement), why="once more")
        key = story.lab.hall.signer_in(story.place)
        signature = signing.sign(statements.encode(said), key, statements.NAMESPACE).decode()
        with pytest.raises(RemoteError) as caught:
            depot.publish(NewPublication(statement=statements.encode(said).decode(), signatures=[signature]))
    assert caught.value.code == "publish.sequence"
    assert story.published("next") == before


@pytest.mark.parametrize(("gateway", "server"), [(1, -1), pytest.param(-1, 1, marks=pytest.mark.full)])
def test_clocks_that_are_wrong_by_a_day_change_nothing(
    story: Story, tmp_path: Path, old: Ref, gateway: int, server: int
) -> None:
    """That of gw into one direction, and that of the root file server into the other."""
    ref = story.small(small.noise(50 + gateway, SIZE // 8))
    gw, rhfs = story.lab["gw"], story.lab["rhfs01"]
    units = ["backline-depot.service", "backline-netboot.service", "nginx.service"]
    with wrong_clock(gw, units, gateway, tmp_path), wrong_clock(rhfs, ["backline-roots.service"], server, tmp_path):
        assert story.publish(ref, *NEXT)["switched"]
        newest = story.newest("next")
        assert newest is not None
        assert round((newest.at - time.time()) / 86400) == gateway
        held = story.held("rhfs01") / f"images/{ref}"
        record = msgspec.json.decode((held / "held.json").read_bytes(), type=Record)
        assert round((record.taken - time.time()) / 86400) == server
        gw.wait_until("the seat's heartbeat", lambda: story.known().up, seconds=60)
        plan = rhfs.succeeds("backline", "root", "gc", "--plan", "--keep", "0")
        assert f"would remove {old}" not in plan
        assert story.holders(ref) == [0, 1]


@contextlib.contextmanager
def other_disk(node: Node, path: str, unit: str, *, megabytes: int) -> Iterator[Callable[[int], None]]:
    """A small empty disk under a service for a block; yields what makes it larger."""

    def grow(size: int) -> None:
        node.succeeds("mount", "-o", f"remount,size={size}m", path)

    owner = node.succeeds("stat", "--format=%U:%G", path)
    node.succeeds("mount", "-t", "tmpfs", "-o", f"mode=0755,size={megabytes}m", "tmpfs", path)
    node.succeeds("chown", owner, path)
    node.succeeds("systemctl", "restart", unit)
    try:
        yield grow
    finally:
        node.succeeds("umount", "--lazy", path)  # the service has it open until it is restarted
        node.succeeds("systemctl", "restart", unit)


@contextlib.contextmanager
def wrong_clock(node: Node, units: list[str], days: int, place: Path) -> Iterator[None]:
    """Services whose wall clock is wrong by days, for a block."""
    folder = place / node.name
    folder.mkdir()
    library = clock.compile_library(folder, days)
    node.run(["install", "-D", "--mode=755", "/dev/stdin", f"/opt/{library.name}"], stdin=library.read_bytes())
    drop_ins = [f"/run/systemd/system/{unit}.d/60-clock.conf" for unit in units]
    for drop_in in drop_ins:
        node.put(drop_in, f"[Service]\nEnvironment=LD_PRELOAD=/opt/{library.name}\n")
    restart(node, units)
    try:
        yield
    finally:
        node.succeeds("rm", *drop_ins)
        restart(node, units)


def restart(node: Node, units: list[str]) -> None:
    node.succeeds("systemctl", "daemon-reload")
    node.succeeds("systemctl", "restart", *units)
