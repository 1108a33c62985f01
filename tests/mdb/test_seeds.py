"""What hall.toml declares is there after a start, whatever people did; a second start changes nothing."""

from __future__ import annotations

import asyncio
import contextlib
from ipaddress import IPv4Address
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.database import Database
from services.common.errors import BacklineError, BusyError
from services.common.settings import read
from services.hall import for_mdb
from services.mdb.edits import Declare, Delete, Update
from services.mdb.pools import bounds_of
from services.mdb.schema import Actor, Machine, MachinePatch, MachineType, NewMachine, Seed, Settings
from services.mdb.seeds import plan
from services.mdb.store import BY_HALL, Store
from tests.hall.halls import hall
from tests.mdb.conftest import BOUNDS

ME = Actor("alice", "local")
GW = Seed(hostname="gw", ip=IPv4Address("192.168.1.254"), aliases=["mdb", "ns"])
WEB = Seed(hostname="web", ip=IPv4Address("192.168.1.100"), aliases=["db"], mac="52:54:00:00:00:64")


def started(database: Database, *seeds: Seed) -> Store:
    store = Store(database, BOUNDS, seeds=seeds)
    store.prepare()
    asyncio.run(store.declared())
    return store


def person(number: int, **more: object) -> NewMachine:
    values = {"hostname": f"p{number}", "mac": f"52:54:00:00:01:{number:02x}", "type": MachineType.USER}
    return NewMachine(**{**values, **more})  # type: ignore[arg-type]


def refused(store: Store, id: int, patch: MachinePatch) -> BacklineError:
    with pytest.raises(BacklineError) as caught:
        store.update(ME, id, patch)
    return caught.value


# On both databases


def test_what_hall_toml_declares_is_there_after_a_start(database: Database) -> None:
    store = started(database, GW, WEB)
    gw, web = store.machines()
    assert (gw.hostname, gw.aliases, gw.ip, gw.mac, gw.type) == ("gw", GW.aliases, GW.ip, None, MachineType.SERVICE)
    assert (gw.room, gw.channel, gw.declared) == ("other", "stable", True)
    assert web.mac == WEB.mac
    assert {entry.actor for entry in store.audit()} == {"hall.toml"}


def test_a_second_start_changes_nothing(database: Database) -> None:
    before = started(database, GW, WEB).machines()
    again = started(database, GW, WEB)
    assert (again.machines(), len(again.audit())) == (before, 2)


def test_a_change_of_hall_toml_keeps_the_machine_and_what_people_wrote(database: Database) -> None:
    store = started(database, GW)
    gw = store.machine("gw")
    store.update(ME, gw.id, MachinePatch(notes="in the rack", room="server-room", rfs=1))
    moved = Seed(hostname="gw", ip=IPv4Address("192.168.1.253"), aliases=["mdb", "sso"])
    after = started(database, moved).machine("gw")
    assert (after.id, after.notes, after.room, after.rfs) == (gw.id, "in the rack", "server-room", 1)
    assert (after.ip, after.aliases) == (moved.ip, moved.aliases)


def test_a_renamed_host_is_the_same_machine(database: Database) -> None:
    gw = started(database, GW).machine("gw")
    renamed = started(database, Seed(hostname="gateway", ip=GW.ip, aliases=GW.aliases)).machine("gateway")
    assert renamed.id == gw.id


def test_a_host_that_left_hall_toml_is_gone(database: Database) -> None:
    started(database, GW, WEB)
    assert [machine.hostname for machine in started(database, GW).machines()] == ["gw"]


def test_hall_toml_wins_over_what_people_made(database: Database) -> None:
    store = started(database)
    same = store.create(ME, person(1, hostname="web", notes="mine"))
    named = store.create(ME, person(2, hostname="ns"))
    alias = store.create(ME, person(3, aliases=["db", "x"]))
    lodger = store.create(ME, person(4, ip=GW.ip, type=MachineType.SERVICE, hostname="gw"))
    store.update(ME, lodger.id, MachinePatch(hostname="lodger"))
    store = started(database, GW, WEB)
    assert (store.machine("web").id, store.machine("web").notes, store.machine("web").mac) == (same.id, "mine", WEB.mac)
    assert store.machine(named.id).hostname == f"ns-{named.id}"
    assert store.machine(alias.id).aliases == ["x"]
    assert store.machine(lodger.id).ip in BOUNDS[MachineType.SERVICE].span
    assert store.machine("192.168.1.254").hostname == "gw"


def test_the_machine_that_has_the_mac_of_a_host_is_that_host(database: Database) -> None:
    made = started(database).create(ME, person(1, mac=WEB.mac))
    assert started(database, WEB).machine("web").id == made.id


def test_a_mac_that_moves_to_another_host_leaves_the_first(database: Database) -> None:
    store = started(database, WEB, GW)
    gw = msgspec.structs.replace(GW, mac=WEB.mac)
    store = started(database, msgspec.structs.replace(WEB, mac=None), gw)
    assert (store.machine("gw").mac, store.machine("web").mac) == (WEB.mac, None)


@pytest.mark.parametrize(
    "patch",
    [
        MachinePatch(hostname="x"),
        MachinePatch(aliases=[]),
        MachinePatch(ip=IPv4Address("192.168.1.7")),
        MachinePatch(ip=None),
        MachinePatch(type=MachineType.ORGA),
        MachinePatch(mac="52:54:00:00:00:65"),
        MachinePatch(mac=None),
    ],
    ids=repr,
)
def test_what_hall_toml_owns_is_not_edited(database: Database, patch: MachinePatch) -> None:
    store = started(database, WEB)
    error = refused(store, store.machine("web").id, patch)
    assert (error.code, "hall.toml" in error.message) == ("machine.declared", True)


def test_a_declared_machine_is_not_removed(database: Database) -> None:
    store = started(database, WEB)
    with pytest.raises(BacklineError, match=r"hall\.toml"):
        store.delete(ME, store.machine("web").id)


def test_what_is_as_hall_toml_says_may_be_written_down_again(database: Database) -> None:
    store = started(database, WEB)
    patch = MachinePatch(hostname="web", mac="52-54-00-00-00-64", ip=WEB.ip, room="alt")
    assert store.update(ME, store.machine("web").id, patch).room == "alt"


def test_a_mac_that_hall_toml_leaves_out_is_for_people_to_write_down(database: Database) -> None:
    store = started(database, GW)
    gw = store.machine("gw")
    assert store.update(ME, gw.id, MachinePatch(mac="525400000009")).mac == "52:54:00:00:00:09"
    assert started(database, GW).machine("gw").mac == "52:54:00:00:00:09"
    assert store.update(ME, gw.id, MachinePatch(mac=None)).mac is None


def test_other_machines_keep_their_mac(database: Database) -> None:
    store = started(database)
    made = store.create(ME, person(1))
    assert refused(store, made.id, MachinePatch(mac=None)).code == "machine.mac"


def test_what_cannot_be_declared_is_told_and_the_rest_serves(database: Database) -> None:
    """Its address is another's, and the pool has no other for that one."""
    store = started(database)
    full = BOUNDS[MachineType.CLUSTER]
    for number, address in enumerate(full, 1):
        store.create(ME, person(number, type=MachineType.CLUSTER, ip=address))
    store = Store(database, BOUNDS, seeds=[Seed(hostname="head", ip=full.span.first)])
    store.prepare()
    with pytest.raises(BacklineError) as caught:
        asyncio.run(store.declared())
    assert caught.value.code == "ready.seeds"
    assert len(store.machines()) == len(full.span)


# The plan, and the settings


NAMES = ("gw", "web", "db", "ns", "p1", "p2")
names = st.sampled_from(NAMES)
addresses = st.integers(1, 6).map(lambda number: IPv4Address(f"192.168.1.{number}"))


@st.composite
def seeds(draw: st.DrawFn) -> list[Seed]:
    left = draw(st.permutations(NAMES))
    free = draw(st.permutations([IPv4Address(f"192.168.1.{number}") for number in range(1, 7)]))
    macs = draw(st.permutations([f"52:54:00:00:00:0{number}" for number in range(1, 7)]))
    return [
        Seed(hostname=left[2 * n], aliases=[left[2 * n + 1]], ip=free[n], mac=draw(st.sampled_from([None, macs[n]])))
        for n in range(draw(st.integers(0, 3)))
    ]


@st.composite
def machines(draw: st.DrawFn) -> list[NewMachine]:
    left = draw(st.permutations(NAMES))
    return [
        person(
            n, hostname=left[2 * n], aliases=[left[2 * n + 1]], mac=f"52:54:00:00:00:0{n + 1}", type=MachineType.SERVICE
        )
        for n in range(draw(st.integers(0, 3)))
    ]


@given(seeds(), seeds(), machines())
def test_after_any_start_the_hall_is_there_and_its_names_are_its_own(
    before: list[Seed], after: list[Seed], people: list[NewMachine]
) -> None:
    with Database("sqlite://") as database:
        store = started(database, *before)
        for machine in people:
            with contextlib.suppress(BusyError):  # it has what is declared
                store.create(ME, machine)
        store = started(database, *after)
        declared = {machine.hostname: machine for machine in store.machines() if machine.declared}
        assert {(seed.hostname, tuple(seed.aliases), seed.ip) for seed in after} == {
            (machine.hostname, tuple(machine.aliases), machine.ip) for machine in declared.values()
        }
        assert all(seed.mac in (None, declared[seed.hostname].mac) for seed in after)
        assert plan(after, store.machines()) == []


def test_a_plan_names_what_is_made_moved_and_removed() -> None:
    def machine(id: int, seed: Seed, *, declared: bool) -> Machine:
        return Machine(
            id=id,
            hostname=seed.hostname,
            aliases=seed.aliases,
            mac=seed.mac,
            ip=seed.ip,
            rfs=0,
            hfs=0,
            type=MachineType.SERVICE,
            room="other",
            faulty=False,
            faulty_reason="",
            channel="stable",
            pinned=None,
            notes="",
            declared=declared,
            created=0.0,
            updated=0.0,
            revision=1,
        )

    gone = machine(1, Seed(hostname="old", ip=IPv4Address("192.168.1.9")), declared=True)
    guest = machine(2, Seed(hostname="x", aliases=["db"], ip=IPv4Address("192.168.1.8"), mac="a"), declared=False)
    assert plan([WEB], [gone, guest]) == [Declare(WEB), Delete(1), Update(2, MachinePatch(aliases=[]))]


def test_mdb_understands_the_settings_that_hall_renders(tmp_path: Path) -> None:
    file = tmp_path / "mdb.toml"
    file.write_text(for_mdb.settings(hall()))
    settings = read(Settings, section="mdb", file=file, environ={})
    assert settings.domain == "prolo"
    with Database("sqlite://") as database:
        store = Store(database, bounds_of(settings), seeds=settings.seeds)
        store.prepare()
        assert [machine.hostname for machine in store.machines()] == [
            "gw",
            "misc",
            "monitoring",
            "rhfs01",
            "rhfs01-1",
            "web",
        ]
        assert str(store.create(ME, person(1)).ip) == "192.168.0.1"
        assert store.audit()[-1].actor == BY_HALL.name
