"""mdb's store, on SQLite and on PostgreSQL: rules, addresses, audit, and what the feed is told."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from ipaddress import IPv4Address

import pytest

from services.common.errors import BacklineError, BusyError, InputError, MissingError
from services.common.feed.wire import Kind
from services.mdb.models import outbox
from services.mdb.pools import REST_SECONDS
from services.mdb.schema import Action, Actor, Machine, MachinePatch, MachineType, NewMachine
from services.mdb.store import Create, Delete, Edit, Store, Update, record

ME = Actor("alice", "192.168.1.7")


def new(number: int, **more: object) -> NewMachine:
    values = {"hostname": f"pas-r01p{number:02}", "mac": f"52:54:00:00:00:{number:02x}", "type": MachineType.USER}
    return NewMachine(**{**values, **more})  # type: ignore[arg-type]


def refused(call: Callable[[], object]) -> BacklineError:
    with pytest.raises(BacklineError) as caught:
        call()
    return caught.value


# Making


def test_a_machine_gets_the_lowest_free_address_of_its_pool(store: Store) -> None:
    made = [store.create(ME, new(number)) for number in (1, 2)]
    assert [str(machine.ip) for machine in made] == ["192.168.0.1", "192.168.0.2"]
    service = store.create(ME, new(3, type=MachineType.SERVICE))
    assert str(service.ip) == "192.168.1.1"


def test_a_written_address_is_skipped_by_the_pool(store: Store) -> None:
    store.create(ME, new(1, ip=IPv4Address("192.168.0.1")))
    assert str(store.create(ME, new(2)).ip) == "192.168.0.2"


def test_a_refused_machine_burns_no_address(store: Store) -> None:
    assert refused(lambda: store.create(ME, new(1, hostname="bad_name"))).code == "machine.name"
    assert str(store.create(ME, new(1)).ip) == "192.168.0.1"


def test_a_mac_is_kept_in_one_form(store: Store) -> None:
    assert store.create(ME, new(1, mac="52-54-00-AB-CD-EF")).mac == "52:54:00:ab:cd:ef"


@pytest.mark.parametrize("name", ["a_b", "Gw", "a.b", "-a", "x" * 64, "localhost"])
@pytest.mark.parametrize("field", ["hostname", "aliases"])
def test_a_name_that_dns_would_refuse_is_refused(store: Store, field: str, name: str) -> None:
    value = name if field == "hostname" else [name]
    assert refused(lambda: store.create(ME, new(1, **{field: value}))).code == "machine.name"


@pytest.mark.parametrize(
    ("second", "code"),
    [
        ({"hostname": "pas-r01p01"}, "conflict.name"),
        ({"hostname": "rfs1"}, "conflict.name"),
        ({"aliases": ["pas-r01p01"]}, "conflict.name"),
        ({"aliases": ["rfs1"]}, "conflict.name"),
        ({"mac": "52:54:00:00:00:01"}, "conflict.mac"),
        ({"ip": IPv4Address("192.168.0.1")}, "conflict.ip"),
    ],
    ids=lambda value: str(value),
)
def test_names_macs_and_addresses_have_one_owner(store: Store, second: dict[str, object], code: str) -> None:
    store.create(ME, new(1, aliases=["rfs1"]))
    error = refused(lambda: store.create(ME, new(2, **second)))
    assert error.code == code
    assert "pas-r01p01" in error.message


def test_an_alias_is_found_exactly(store: Store) -> None:
    store.create(ME, new(1, aliases=["rfs1"]))
    ten = store.create(ME, new(2, aliases=["rfs10"]))
    assert store.machine("rfs10") == ten
    assert store.machine("rfs1").hostname == "pas-r01p01"
    with pytest.raises(MissingError):
        store.machine("rfs")


@pytest.mark.parametrize("spelling", ["pas-r01p01", "52-54-00-00-00-01", "192.168.0.1"])
def test_a_machine_is_found_by_name_mac_or_address(store: Store, spelling: str) -> None:
    made = store.create(ME, new(1))
    assert store.machine(spelling) == store.machine(made.id) == made


def test_an_address_of_a_host_of_hall_toml_is_that_hosts_alone(store: Store) -> None:
    gateway = IPv4Address("192.168.1.254")
    error = refused(lambda: store.create(ME, new(1, type=MachineType.SERVICE, ip=gateway)))
    assert error.code == "pool.refused"
    assert store.create(ME, new(1, hostname="gw", type=MachineType.SERVICE, ip=gateway)).ip == gateway


# Changing


def test_name_and_mac_and_address_may_change_and_the_id_stays(store: Store) -> None:
    made = store.create(ME, new(1))
    patch = MachinePatch(hostname="alt-r01p01", mac="52:54:00:00:00:99", ip=IPv4Address("192.168.0.77"))
    changed = store.update(ME, made.id, patch)
    assert (changed.id, changed.hostname, changed.mac, str(changed.ip)) == (
        made.id,
        "alt-r01p01",
        "52:54:00:00:00:99",
        "192.168.0.77",
    )
    assert store.machine(made.id) == changed
    with pytest.raises(MissingError):
        store.machine("pas-r01p01")


def test_a_change_that_changes_nothing_is_no_change(store: Store) -> None:
    made = store.create(ME, new(1))
    assert store.update(ME, made.id, MachinePatch(room="other")) == made
    assert len(store.audit()) == 1


def test_a_machine_that_was_changed_meanwhile_is_not_overwritten(store: Store) -> None:
    made = store.create(ME, new(1))
    store.update(ME, made.id, MachinePatch(room="alt"), match=made.revision)
    error = refused(lambda: store.update(ME, made.id, MachinePatch(room="pasteur"), match=made.revision))
    assert error.code == "conflict.changed"
    assert store.machine(made.id).room == "alt"


def test_two_machines_may_swap_names_macs_and_addresses(store: Store) -> None:
    one, two = store.edit(ME, [Create(new(1, aliases=["a"])), Create(new(2, aliases=["b"]))])
    assert one is not None
    assert two is not None
    patches = [
        Update(mine.id, MachinePatch(hostname=other.hostname, mac=other.mac, ip=other.ip, aliases=other.aliases))
        for mine, other in ((one, two), (two, one))
    ]
    store.edit(ME, patches)
    after = store.machine(one.id)
    assert (after.hostname, after.mac, after.ip, after.aliases) == (two.hostname, two.mac, two.ip, two.aliases)
    assert store.machine(two.id).hostname == one.hostname


def test_an_address_rests_after_its_machine_is_gone(store: Store, clock: list[float]) -> None:
    store.delete(ME, store.create(ME, new(1)).id)
    assert str(store.create(ME, new(2)).ip) == "192.168.0.2"
    clock[0] += REST_SECONDS
    assert str(store.create(ME, new(3)).ip) == "192.168.0.1"
    (pool,) = [pool for pool in store.pools() if pool.type is MachineType.USER]
    assert (pool.used, pool.resting, pool.free) == (2, 0, pool.size - 2)


def test_an_id_is_never_used_again(store: Store) -> None:
    first = store.create(ME, new(1))
    store.delete(ME, first.id)
    assert store.create(ME, new(1)).id > first.id


def test_all_edits_of_a_call_or_none(store: Store) -> None:
    made = store.create(ME, new(1))
    edits: list[Edit] = [Create(new(2)), Delete(made.id), Create(new(3, mac="nonsense"))]
    error = refused(lambda: store.edit(ME, edits))
    assert (error.code, error.where) == ("machine.mac", "edit 3")
    assert store.machines() == [made]


def test_a_dry_run_tells_what_would_be_and_keeps_nothing(store: Store) -> None:
    made = store.create(ME, new(1))
    after = store.edit(ME, [Update(made.id, MachinePatch(room="alt")), Create(new(2))], dry=True)
    assert [machine.room if machine else None for machine in after] == ["alt", "other"]
    assert store.machines() == [made]
    assert len(store.audit()) == 1


def test_an_exhausted_pool_says_so_and_gives_nothing_of_another(store: Store) -> None:
    full = store.bounds[MachineType.CLUSTER]
    made = [new(number, type=MachineType.CLUSTER) for number in range(1, len(full.span) + 1)]
    store.edit(ME, [Create(machine) for machine in made])
    error = refused(lambda: store.create(ME, new(60, type=MachineType.CLUSTER)))
    assert error.code == "pool.exhausted"


# Who, and the feed


def test_the_audit_says_who_did_what_from_where(store: Store) -> None:
    made = store.create(ME, new(1))
    store.update(ME, made.id, MachinePatch(faulty=True, faulty_reason="no fan"))
    store.delete(Actor("bob", "local"), made.id)
    gone, changed, created = store.audit(key=str(made.id))
    assert [entry.action for entry in (created, changed, gone)] == [Action.CREATED, Action.UPDATED, Action.DELETED]
    assert (changed.actor, changed.origin) == ("alice", "192.168.1.7")
    assert (changed.before, changed.after) == (
        {"faulty": False, "faulty_reason": ""},
        {"faulty": True, "faulty_reason": "no fan"},
    )
    assert (gone.actor, gone.after) == ("bob", None)
    assert created.after is not None
    assert created.after["hostname"] == "pas-r01p01"


def test_every_change_is_in_the_feed_with_its_revision(store: Store) -> None:
    with store.database.read() as session:
        begin = outbox.position(session).revision
    made = store.create(ME, new(1))
    changed = store.update(ME, made.id, MachinePatch(room="alt"))
    store.delete(ME, made.id)
    with store.database.read() as session:
        changes = outbox.after(session, begin, limit=10) or []
    assert [(change.revision - begin, change.kind) for change in changes] == [
        (1, Kind.CREATED),
        (2, Kind.UPDATED),
        (3, Kind.DELETED),
    ]
    assert [change.record for change in changes] == [record(made), record(changed), None]
    assert (made.revision - begin, changed.revision - begin) == (1, 2)


def test_imports_that_race_give_every_machine_its_own_address(store: Store) -> None:
    def add(start: int) -> list[Machine | None]:
        return store.edit(ME, [Create(new(number)) for number in range(start, start + 40)])

    with ThreadPoolExecutor(4) as pool:
        made = [machine for part in pool.map(add, (1, 41, 81, 121)) for machine in part if machine]
    assert len({machine.ip for machine in made}) == len({machine.revision for machine in made}) == 160
    first = min(machine.revision for machine in made)
    assert sorted(machine.revision for machine in made) == list(range(first, first + 160))


def test_imports_that_race_for_one_name_have_one_winner(store: Store) -> None:
    def add(number: int) -> str:
        try:
            store.create(ME, new(number, hostname="wanted"))
        except BusyError as error:
            return error.code
        return "made"

    with ThreadPoolExecutor(4) as pool:
        assert sorted(pool.map(add, range(1, 9))) == ["conflict.name"] * 7 + ["made"]


def test_editing_one_machine_twice_in_a_call_is_refused(store: Store) -> None:
    made = store.create(ME, new(1))
    with pytest.raises(InputError, match="twice"):
        store.edit(ME, [Update(made.id, MachinePatch(room="a")), Delete(made.id)])
