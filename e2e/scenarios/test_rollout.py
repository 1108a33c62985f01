"""A new version goes to one seat, its row and all; one with a failing unit is stopped at the first seat and taken back.

The seats are containers that boot what netboot says (`e2e.netbooted`): gw's netboot and rollout service, heartbeats,
restarts and the versions' own units are real.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from builder.image import Shop
from builder.store import Store
from e2e import netbooted, published, topology
from e2e.lab import Lab
from e2e.pool import Labs
from e2e.scenarios import changed
from e2e.scenarios.conftest import ROLES
from netboot.client import Netboot
from netboot.schema import Seat
from services.common.versions import Ref
from services.rollout.client import RolloutClient
from services.rollout.schema import OVER, Phase, Plan, Rollout

pytestmark = pytest.mark.images

BROKEN = "broken.service"
SEATS = ("pas-r01p01", "pas-r01p02", "pas-r01p03", "pas-r01p04")
SECONDS = 300.0
_UNIT = "[Unit]\nDescription=What fails\n[Service]\nType=oneshot\nExecStart=/usr/bin/false\n"


@pytest.fixture(scope="module")
def store(shop: Shop, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store of the lab's own, that begins with what this checkout builds."""
    current = [ref for role in ROLES if (ref := shop.store.current(role)) is not None]
    return changed.store(shop.store, current, tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def good(shop: Shop, store: Store, tmp_path_factory: pytest.TempPathFactory) -> Ref:
    ref = changed.build(shop, tmp_path_factory.mktemp("good") / "checkout", changed.GOOD)
    changed.add(shop.store, ref, store)
    return ref


@pytest.fixture(scope="module")
def bad(shop: Shop, store: Store, tmp_path_factory: pytest.TempPathFactory) -> Ref:
    files = {
        f"usr/lib/systemd/system/{BROKEN}": _UNIT,
        "usr/lib/systemd/system/multi-user.target.d/50-broken.conf": f"[Unit]\nWants={BROKEN}\n",
    }
    return variant(shop, store, tmp_path_factory.mktemp("bad"), files)


@pytest.fixture(scope="module")
def lost(shop: Shop, store: Store, tmp_path_factory: pytest.TempPathFactory) -> Ref:
    """A version whose seats never get an address."""
    never = "[Unit]\nConditionPathExists=/nonexistent\n"
    files = {"etc/systemd/system/systemd-networkd.service.d/50-never.conf": never}
    return variant(shop, store, tmp_path_factory.mktemp("lost"), files)


def variant(shop: Shop, store: Store, work: Path, files: dict[str, str]) -> Ref:
    current = shop.store.current("nfsroot")
    assert current is not None
    return changed.variant(shop, current, store, work, files)


@pytest.fixture(scope="module")
def lab(labs: Labs, shop: Shop, store: Store) -> Iterator[Lab]:
    labs.close()
    settings = msgspec.structs.replace(shop.settings, store=str(store.root))
    with Lab(topology.hall(seats=len(SEATS)), settings=settings, netboot=True, name="rollout") as made:
        netbooted.follow(made)
        made.start(seconds=180)
        yield made


@contextlib.contextmanager
def clients(lab: Lab) -> Iterator[tuple[Netboot, RolloutClient]]:
    gw = lab["gw"]
    with Netboot(gw.service("netboot")) as netboot, RolloutClient(gw.service("rollout")) as rollout:
        yield netboot, rollout


def offer(lab: Lab, ref: Ref, sequence: int) -> str:
    """Make a version known to netboot and held by the lab's root file servers, as publishing does."""
    assert lab.netboot is not None
    plan = published.plan(lab.roots.store, ref, lab.netboot.holders)
    lab.roots.mount(ref)
    with clients(lab) as (netboot, _):
        netboot.add_version(published.version(plan))
        lab.hold(ref, sequence=sequence)
        lab["gw"].wait_until(
            "what root file servers confirm",
            lambda: (
                {each.rfs for each in netboot.holdings().holdings if each.version == ref.version} >= set(plan.holders)
            ),
            seconds=60,
        )
    return ref.version


def seats(lab: Lab) -> dict[str, Seat]:
    with clients(lab) as (netboot, _):
        return {each.hostname: each for each in netboot.seats("stable").seats if each.hostname in SEATS}


def over(lab: Lab, id: int) -> Rollout:
    with clients(lab) as (_, rollout):
        lab["gw"].wait_until("the end of the rollout", lambda: rollout.rollout(id).phase in OVER, seconds=SECONDS)
        return rollout.rollout(id)


def pointer(lab: Lab) -> tuple[str | None, bool]:
    with clients(lab) as (netboot, _):
        (channel,) = [each for each in netboot.channels().channels if each.name == "stable"]
        return channel.current, channel.committed


def test_seats_beat_and_have_leases(lab: Lab) -> None:
    assert lab.netboot is not None
    version = lab.netboot.ref.version
    lab["gw"].wait_until("heartbeats", lambda: all(each.up for each in seats(lab).values()), seconds=60)
    lab["gw"].wait_until(
        "seats that are well",
        lambda: {each.health.state for each in seats(lab).values() if each.health} == {"running"},
        seconds=60,
    )
    assert {each.version for each in seats(lab).values()} == {version}
    with clients(lab) as (netboot, _):
        leases = {each.hostname: each.version for each in netboot.leases().leases}
    assert leases == dict.fromkeys(SEATS, version)


def test_a_version_with_a_failing_unit_is_stopped_at_the_first_seat_and_taken_back(lab: Lab, bad: Ref) -> None:
    assert lab.netboot is not None
    version, starts = offer(lab, bad, 2), {name: lab[name].starts for name in SEATS}
    lab[SEATS[0]].allowed_failures.add(BROKEN)
    with clients(lab) as (netboot, rollout):
        found = over(lab, rollout.start(Plan(version=version, settle=5, within=120)).id)
        assert (found.phase, found.ring) == (Phase.REVERTED, 0), found.events
        assert found.why == f"ring 1 (seat): {SEATS[0]}: {BROKEN} failed"
        assert [each.version for each in netboot.quarantines().quarantines] == [version]
    assert pointer(lab) == (lab.netboot.ref.version, True)
    assert {name: lab[name].starts - starts[name] for name in SEATS} == {SEATS[0]: 2} | dict.fromkeys(SEATS[1:], 0)
    assert {lab[name].booted["version"] for name in SEATS} == {lab.netboot.ref.version}


def test_a_good_version_goes_from_ring_to_ring_though_gw_loses_its_power(lab: Lab, good: Ref) -> None:
    """And never to the seat where somebody is logged in."""
    gw, busy = lab["gw"], lab[SEATS[3]]
    session = ["--unit=somebody", "--property=PAMName=login", "--property=User=root", "--setenv=XDG_SESSION_CLASS=user"]
    busy.succeeds("systemd-run", *session, "sleep", "infinity")
    gw.wait_until("somebody at a seat", lambda: seats(lab)[SEATS[3]].user is not None, seconds=60)
    version = offer(lab, good, 3)
    with clients(lab) as (_, rollout):
        id = rollout.start(Plan(version=version, settle=5, within=180, why="new compilers")).id
        gw.wait_until("the second ring", lambda: rollout.rollout(id).ring >= 1, seconds=SECONDS)
    gw.crash()
    gw.start()
    gw.wait_ready()
    found = over(lab, id)
    assert found.phase is Phase.DONE, found.events
    assert pointer(lab) == (version, True)
    assert {name: lab[name].booted["version"] == version for name in SEATS} == {
        **dict.fromkeys(SEATS[:3], True),
        SEATS[3]: False,
    }
    assert lab[SEATS[0]].succeeds("cat", f"/{changed.FILE}") == "the new version"
    busy.succeeds("systemctl", "stop", "somebody.service")


@pytest.mark.full
def test_a_version_without_a_network_is_stopped_at_the_first_seat_and_taken_back(lab: Lab, lost: Ref) -> None:
    """Nobody hears of it, nor can it be told to restart: whoever switches it off and on has the version before."""
    with clients(lab) as (netboot, _):
        before = netboot.channels().channels[0].current
    version, starts = offer(lab, lost, 4), {name: lab[name].starts for name in SEATS}
    lab[SEATS[1]].allowed_failures.add("backline-claim.service")
    with clients(lab) as (netboot, rollout):
        found = over(lab, rollout.start(Plan(version=version, first=SEATS[1], settle=5, within=60)).id)
        assert (found.phase, found.ring) == (Phase.REVERTED, 0), found.events
        assert SEATS[1] in found.why
        assert version in {each.version for each in netboot.quarantines().quarantines}
    assert pointer(lab) == (before, True)
    assert {name: lab[name].starts - starts[name] for name in SEATS} == dict.fromkeys(SEATS, 0) | {SEATS[1]: 1}
    assert lab[SEATS[1]].addresses == []
    lab[SEATS[1]].crash()
    lab[SEATS[1]].start()
    lab[SEATS[1]].wait_ready()
    assert lab[SEATS[1]].booted["version"] == before
