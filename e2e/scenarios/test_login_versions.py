"""Versions of the root change under a hall in which people log in all the time: nobody is ever kept out by that."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import msgspec
import pytest

from builder.image import Shop
from e2e import topology
from e2e.lab import Lab
from e2e.pool import Labs
from e2e.scenarios import changed, publishing
from e2e.scenarios.conftest import ROLES
from e2e.scenarios.logging_in import Hall
from e2e.scenarios.publishing import Story
from services.common.versions import Ref

pytestmark = [pytest.mark.images, pytest.mark.full]
ALICE, BOB = "correct horse", "battery staple"


@pytest.fixture(scope="module")
def new(shop: Shop, tmp_path_factory: pytest.TempPathFactory) -> Ref:
    return changed.build(shop, tmp_path_factory.mktemp("good") / "checkout", changed.GOOD)


@pytest.fixture(scope="module")
def story(labs: Labs, shop: Shop, new: Ref, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    """A hall with two seats, from a store of its own in which the changed version was built last."""
    labs.close()
    before = [ref for role in ROLES if (ref := shop.store.current(role)) is not None]
    store = changed.store(shop.store, before, tmp_path_factory.mktemp("store"))
    settings = msgspec.structs.replace(shop.settings, store=str(store.root))
    with Lab(topology.hall(seats=2), settings=settings, netboot=True, name="versions") as lab:
        begun = publishing.begin(lab, tmp_path_factory.mktemp("administrator"))
        changed.add(shop.store, new, store)
        store.set_current(new)
        yield begun


def test_no_login_fails_while_versions_change(story: Story, new: Ref) -> None:
    """alice logs in and out on one seat all the time; the other one starts into the new version, and back."""
    hall = Hall(story.lab)
    hall.add("alice", ALICE)
    hall.add("bob", BOB)
    stays, changes = hall.seat(1), hall.seat(2)
    old = changes.booted["version"]
    stays.wait_until(
        "presence decides", lambda: hall.pam("alice", stays, ALICE, "authenticate").returncode == 0, seconds=90
    )
    stop = threading.Event()
    said: list[tuple[int, str]] = []

    def all_the_time() -> None:
        while not stop.is_set():
            done = hall.ssh("alice", stays, ALICE, "id", "-un", check=False)
            said.append((done.returncode, f"{done.stdout}{done.stderr}"))

    loop = threading.Thread(target=all_the_time)
    loop.start()
    try:
        story.publish("nfsroot", "--why", "a login loop")
        changes.reboot()
        assert changes.booted["version"] == new.version
        changes.wait_until("users", lambda: hall.knows(changes, "bob"))
        assert hall.ssh("bob", changes, BOB, "id", "-un").stdout.split()[-1] == "bob"
        story.administrator.run("backline", "root", "rollback", "--why", "and back")
        changes.reboot()
        assert changes.booted["version"] == old
        changes.wait_until("users", lambda: hall.knows(changes, "bob"))
        assert hall.ssh("bob", changes, BOB, "id", "-un").stdout.split()[-1] == "bob"
    finally:
        stop.set()
        loop.join()
    assert [each for each in said if each[0] != 0 or "alice" not in each[1]] == []
    assert len(said) > 10
