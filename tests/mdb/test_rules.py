"""The rules that hold whoever writes: constraints of the database itself, and pools, on both databases."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from ipaddress import IPv4Address
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import insert, select
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.orm import Session

from services.common.addresses import Range
from services.common.database import Database, insert_all, new_ids
from services.common.errors import BacklineError
from services.mdb.models import Base, MachineRow, NameRow, SwitchRow
from services.mdb.pools import REST_SECONDS
from services.mdb.schema import Actor, MachinePatch, MachineType, NewMachine
from services.mdb.store import Store
from tests.mdb.conftest import BOUNDS

ME = Actor("alice", "local")
MACHINE: dict[str, Any] = {
    "mac": "52:54:00:00:00:01",
    "ip": 1,
    "rfs": 0,
    "hfs": 0,
    "type": "user",
    "room": "other",
    "faulty": False,
    "faulty_reason": "",
    "channel": "stable",
    "pinned": None,
    "notes": "",
    "declared": False,
    "created": 0.0,
    "updated": 0.0,
    "revision": 1,
}
SWITCH: dict[str, Any] = {
    "name": "s1",
    "chassis": "00:1b:21:00:00:01",
    "room": "other",
    "rfs": 0,
    "hfs": 0,
    "revision": 1,
}


def person(number: int, **more: object) -> NewMachine:
    values = {"hostname": f"p{number}", "mac": f"5254000001{number:02x}", "type": MachineType.USER}
    return NewMachine(**{**values, **more})  # type: ignore[arg-type]


def refused(call: Callable[[], object]) -> BacklineError:
    with pytest.raises(BacklineError) as caught:
        call()
    return caught.value


# The schema


def test_the_migrations_make_what_the_models_say(store: Store) -> None:
    with store.database.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
        assert compare_metadata(context, Base.metadata) == []


@pytest.mark.parametrize(
    "values",
    [
        {"type": "printer"},
        {"mac": "52:54:00:00:00:0A"},
        {"mac": "5254000000aa"},
        {"mac": None},
        {"rfs": -1},
        {"hfs": -1},
        {"ip": None},
        {"room": None},
    ],
    ids=str,
)
def test_the_database_refuses_what_no_machine_can_be(store: Store, values: dict[str, object]) -> None:
    with pytest.raises(IntegrityError), store.database.write() as session:
        session.execute(insert(MachineRow), [MACHINE | values])


def add(session: Session, **values: object) -> int:
    return session.scalars(insert(MachineRow).returning(MachineRow.id), [MACHINE | values]).one()


@pytest.mark.parametrize("same", ["mac", "ip"])
def test_the_database_gives_nothing_to_two_machines(store: Store, same: str) -> None:
    other = {"mac": "52:54:00:00:00:02", "ip": 2}
    del other[same]
    with store.database.write() as session:
        add(session)
    with pytest.raises(IntegrityError), store.database.write() as session:
        add(session, **other)


def test_many_machines_of_hall_toml_have_no_mac(store: Store) -> None:
    with store.database.write() as session:
        assert add(session, mac=None, declared=True, ip=1) != add(session, mac=None, declared=True, ip=2)


@pytest.mark.parametrize(("name", "position"), [("gw", 0), ("gw", 1)])
def test_the_database_knows_a_name_once_whichever_kind_it_is(store: Store, name: str, position: int) -> None:
    with store.database.write() as session:
        one, two = add(session), add(session, mac="52:54:00:00:00:02", ip=2)
        session.execute(insert(NameRow), [{"name": "gw", "machine_id": one, "position": 0}])
    with pytest.raises(IntegrityError), store.database.write() as session:
        session.execute(insert(NameRow), [{"name": name, "machine_id": two, "position": position}])


@pytest.mark.parametrize("name", ["", "GW", "x" * 64])
def test_the_database_refuses_what_is_no_label(store: Store, name: str) -> None:

    with pytest.raises(DBAPIError), store.database.write() as session:
        session.execute(insert(NameRow), [{"name": name, "machine_id": add(session), "position": 0}])


def test_names_go_with_their_machine_and_belong_to_one(store: Store) -> None:
    made = store.create(ME, person(1, aliases=["rfs1"]))
    store.delete(ME, made.id)
    with store.database.read() as session:
        assert session.scalars(select(NameRow.name)).all() == []
    with pytest.raises(IntegrityError), store.database.write() as session:
        session.execute(insert(NameRow), [{"name": "x", "machine_id": 77, "position": 0}])


@pytest.mark.parametrize("values", [{"chassis": "00:1B:21:00:00:01"}, {"rfs": -1}, {"chassis": "x"}], ids=str)
def test_the_database_refuses_what_no_switch_can_be(store: Store, values: dict[str, object]) -> None:
    with pytest.raises(IntegrityError), store.database.write() as session:
        session.execute(insert(SwitchRow), [SWITCH | values])


@pytest.mark.parametrize("same", ["name", "chassis"])
def test_two_switches_share_nothing(store: Store, same: str) -> None:
    other = {"name": "s2", "chassis": "00:1b:21:00:00:02"}
    del other[same]
    with store.database.write() as session:
        session.execute(insert(SwitchRow), [SWITCH])
    with pytest.raises(IntegrityError), store.database.write() as session:
        session.execute(insert(SwitchRow), [SWITCH | other])


def test_many_rows_are_inserted_under_the_same_rules(database: Database, store: Store) -> None:
    """COPY on PostgreSQL; the transaction is gone as a whole, as with any other insert."""
    rows = [MACHINE | {"mac": f"52:54:00:00:00:{number:02x}", "ip": number} for number in range(1, 9)]
    with pytest.raises(IntegrityError), database.write() as session:
        insert_all(session, MachineRow.__table__, [*rows, rows[0]])
    with database.write() as session:
        insert_all(session, MachineRow.__table__, rows)
        insert_all(session, MachineRow.__table__, [])
        if not database.is_sqlite:
            (id,) = new_ids(session, MachineRow.__table__, 1)
            assert id not in session.scalars(select(MachineRow.id)).all()
    with database.read() as session:
        assert len(session.scalars(select(MachineRow.id)).all()) == len(rows)


# Pools


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("10.0.0.1", "not inside 192.168.0.0/23"),
        ("192.168.0.0", "address of network"),
        ("192.168.1.255", "broadcast"),
        ("192.168.1.254", "belongs to gw"),
    ],
)
def test_a_written_address_is_of_its_pools_network_and_nobody_elses(store: Store, address: str, why: str) -> None:
    error = refused(lambda: store.create(ME, person(1, ip=IPv4Address(address))))
    assert (error.code, why in error.message) == ("pool.refused", True)
    made = store.create(ME, person(1))
    error = refused(lambda: store.update(ME, made.id, MachinePatch(ip=IPv4Address(address))))
    assert (error.code, why in error.message) == ("pool.refused", True)


@pytest.fixture
def narrow(database: Database, clock: list[float]) -> Store:
    """Four addresses for users, of which one is excluded and one reserved."""
    bounds = replace(
        BOUNDS[MachineType.USER],
        span=Range.parse("192.168.0.1-192.168.0.4"),
        excluded=[Range.parse("192.168.0.2-192.168.0.2")],
        reserved={IPv4Address("192.168.0.3"): "web"},
    )
    made = Store(database, {MachineType.USER: bounds}, clock=lambda: clock[0])
    made.prepare()
    return made


def test_what_is_excluded_or_reserved_is_never_given(narrow: Store) -> None:
    assert [str(narrow.create(ME, person(number)).ip) for number in (1, 2)] == ["192.168.0.1", "192.168.0.4"]
    assert refused(lambda: narrow.create(ME, person(3))).code == "pool.exhausted"
    (pool,) = narrow.pools()
    assert (pool.size, pool.used, pool.free, pool.excluded) == (2, 2, 0, ["192.168.0.2-192.168.0.2"])


def test_an_address_is_given_again_when_it_has_rested(narrow: Store, clock: list[float]) -> None:
    one, _ = (narrow.create(ME, person(number)) for number in (1, 2))
    narrow.delete(ME, one.id)
    (pool,) = narrow.pools()
    assert (pool.used, pool.resting, pool.free) == (1, 1, 0)
    clock[0] += REST_SECONDS - 1
    error = refused(lambda: narrow.create(ME, person(3)))
    assert (error.code, "rested in 1 s" in (error.hint or "")) == ("pool.exhausted", True)
    clock[0] += 1
    assert narrow.create(ME, person(3)).ip == one.ip


def test_an_address_that_rests_may_be_written_down(narrow: Store) -> None:
    one = narrow.create(ME, person(1))
    narrow.delete(ME, one.id)
    assert narrow.create(ME, person(2, ip=one.ip)).ip == one.ip


def test_a_machine_that_changes_its_type_moves_to_the_pool_of_it(store: Store) -> None:
    made = store.create(ME, person(1))
    moved = store.update(ME, made.id, MachinePatch(type=MachineType.CLUSTER))
    assert str(moved.ip) == "192.168.2.1"
    assert store.update(ME, moved.id, MachinePatch(ip=None)).ip in BOUNDS[MachineType.CLUSTER].span


def test_a_type_without_a_pool_takes_written_addresses_only(narrow: Store) -> None:
    assert refused(lambda: narrow.create(ME, person(1, type=MachineType.ORGA))).code == "pool.missing"
    written = person(1, type=MachineType.ORGA, ip=IPv4Address("10.0.0.1"))
    assert narrow.create(ME, written).ip == IPv4Address("10.0.0.1")
