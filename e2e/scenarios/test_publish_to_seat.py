"""A version with one changed file, from `backline publish` to a seat's next boot, and back; and what may go wrong.

Real on the way: the command, gw's depot and its deltas, rhfs01, which pulls, verifies and confirms, netboot's pointer,
and what the seat asks for. The seat is a container that asks netboot as iPXE does, and runs the version that it is told
(`e2e.netbooted`); what a machine would load, kernel and initrd over HTTP and the root over NFS, is loaded beside it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from builder.image import Shop
from e2e import topology
from e2e.lab import Lab
from e2e.pool import Labs
from e2e.scenarios import changed, publishing
from e2e.scenarios.conftest import ROLES
from e2e.scenarios.publishing import Story
from services.common.versions import Ref
from services.depot.schema import State

SIZE = 16_000_000

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
    assert story.newest().receivers == ["rhfs01"]
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
