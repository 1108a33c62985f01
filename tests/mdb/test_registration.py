"""Machines that register themselves, and administrators' codes, on both databases."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from ipaddress import IPv4Address

import pytest
from sqlalchemy import select

from services.common.errors import BacklineError
from services.mdb.models import CodeRow
from services.mdb.registration import CODE_SECONDS
from services.mdb.schema import Actor, MachineType, NewMachine, Registration
from services.mdb.store import Store

ME = Actor("alice", "192.168.1.7")
FROM = IPv4Address("192.168.250.3")


def asked(number: int = 1, **more: object) -> Registration:
    values = {"mac": f"52-54-00-00-{number >> 8:02X}-{number & 255:02X}", "hostname": f"pas-r01p{number:02}"}
    return Registration(**{**values, "address": FROM, **more})  # type: ignore[arg-type]


def known(store: Store, number: int = 1, **more: object) -> int:
    values = {"hostname": f"pas-r01p{number:02}", "mac": f"52540000aa{number:02x}", "type": MachineType.USER}
    return store.create(ME, NewMachine(**{**values, **more})).id  # type: ignore[arg-type]


@pytest.fixture
def open_store(store: Store) -> Store:
    """One where machines may register themselves."""
    store.set(ME, "allow_self_registration", True)
    return store


def refused(call: Callable[[], object]) -> BacklineError:
    """What is refused, which a screen of 80 columns must be able to show."""
    with pytest.raises(BacklineError) as caught:
        call()
    error = caught.value
    assert error.message.isascii()
    assert len(error.message) < 79
    assert "\n" not in error.message
    return error


def test_nobody_registers_where_that_is_off(store: Store) -> None:
    error = refused(lambda: store.register(asked()))
    assert (error.code, error.message) == ("register.off", "self registration is disabled; ask an administrator")
    assert store.machines() == []


def test_a_machine_registers_and_gets_an_address(open_store: Store) -> None:
    made = open_store.register(asked(rfs=1, hfs=2, room="pasteur"))
    assert (made.hostname, made.mac, str(made.ip)) == ("pas-r01p01", "52:54:00:00:00:01", "192.168.0.1")
    assert (made.rfs, made.hfs, made.room, made.type) == (1, 2, "pasteur", MachineType.USER)
    (entry,) = open_store.audit(topic="machines")
    assert (entry.actor, entry.origin) == ("self registration", "192.168.250.3")


@pytest.mark.parametrize(
    ("more", "code"),
    [
        ({"type": MachineType.SERVICE}, "register.type"),
        ({"hostname": ""}, "register.name"),
        ({"hostname": "bad_name"}, "register.name"),
        ({"hostname": "a b"}, "register.name"),
        ({"mac": "zz:zz:zz:zz:zz:zz"}, "register.mac"),
        ({"mac": "01:00:5e:00:00:01"}, "register.mac"),
        ({"room": "Salle 1"}, "register.room"),
        ({"mac": "52540000aa01"}, "conflict.mac"),
        ({"hostname": "pas-r01p01"}, "conflict.name"),
        ({"hostname": "rfs1"}, "conflict.name"),
    ],
    ids=str,
)
def test_what_cannot_be_registered_is_told_and_burns_no_address(
    open_store: Store, more: dict[str, object], code: str
) -> None:
    known(open_store, aliases=["rfs1"])
    assert refused(lambda: open_store.register(asked(2, **more))).code == code
    assert str(open_store.register(asked(3)).ip) == "192.168.0.2"


def test_capital_letters_of_a_keyboard_are_taken_for_small_ones(open_store: Store) -> None:
    made = open_store.register(asked(hostname="Pas-R01P01", room="Pasteur"))
    assert (made.hostname, made.room) == ("pas-r01p01", "pasteur")


def test_a_code_gives_a_known_machine_another_mac(store: Store) -> None:
    id = known(store, rfs=3, room="pasteur")
    code = store.make_code(ME, id)
    after = store.register(Registration(mac="525400000009", code=code.code))
    assert (after.id, after.mac, after.hostname, after.rfs, after.room) == (
        id,
        "52:54:00:00:00:09",
        "pas-r01p01",
        3,
        "pasteur",
    )


def test_with_a_code_a_known_machine_registers_again_as_something_else(store: Store) -> None:
    id = known(store)
    code = store.make_code(ME, id)
    after = store.register(asked(9, hostname="alt-r02p03", rfs=4, code=code.code, type=MachineType.ORGA))
    assert (after.id, after.hostname, after.rfs, after.type) == (id, "alt-r02p03", 4, MachineType.ORGA)
    assert str(after.ip) == "192.168.0.1"  # orga's network too


@pytest.mark.parametrize("spelling", [str.upper, lambda code: code.replace("-", ""), lambda code: f" {code} "])
def test_a_code_is_typed_by_hand(store: Store, spelling: Callable[[str], str]) -> None:
    code = store.make_code(ME, known(store)).code
    assert store.register(asked(9, code=spelling(code))).mac == "52:54:00:00:00:09"


def test_a_code_is_good_once(store: Store) -> None:
    code = store.make_code(ME, known(store)).code
    store.register(asked(9, code=code))
    assert refused(lambda: store.register(asked(10, code=code))).code == "register.code"


def test_a_code_that_was_refused_is_still_good(store: Store) -> None:
    code = store.make_code(ME, known(store, 1)).code
    known(store, 2)
    assert refused(lambda: store.register(asked(9, hostname="pas-r01p02", code=code))).code == "conflict.name"
    assert refused(lambda: store.register(asked(9, mac="52540000aa02", code=code))).code == "conflict.mac"
    assert store.register(asked(9, code=code)).mac == "52:54:00:00:00:09"


def test_a_code_expires_after_a_quarter_of_an_hour(store: Store, clock: list[float]) -> None:
    code = store.make_code(ME, known(store))
    assert code.expires == clock[0] + 900 == clock[0] + CODE_SECONDS
    clock[0] += CODE_SECONDS
    assert refused(lambda: store.register(asked(9, code=code.code))).code == "register.code"


def test_a_new_code_voids_the_one_before(store: Store) -> None:
    id = known(store)
    first, second = store.make_code(ME, id).code, store.make_code(ME, id).code
    assert refused(lambda: store.register(asked(9, code=first))).code == "register.code"
    store.register(asked(9, code=second))


def test_a_code_goes_with_its_machine(store: Store) -> None:
    id = known(store)
    code = store.make_code(ME, id).code
    store.delete(ME, id)
    assert refused(lambda: store.register(asked(9, code=code))).code == "register.code"


def test_no_code_is_kept_and_its_making_and_use_are_in_the_machines_history(store: Store) -> None:
    id = known(store)
    code = store.make_code(ME, id).code
    with store.database.read() as session:
        assert code.replace("-", "") not in str(session.scalars(select(CodeRow.digest)).one())
    store.register(asked(9, code=code))
    changed, used, made, _ = store.audit(topic="machines", key=str(id))
    assert [(entry.topic, entry.actor) for entry in (made, used, changed)] == [
        ("codes", "alice"),
        ("codes", "code of alice"),
        ("machines", "code of alice"),
    ]
    assert (used.origin, changed.origin) == ("192.168.250.3", "192.168.250.3")
    assert code not in str([entry.after for entry in (made, used, changed)])


def test_a_code_is_for_a_machine_that_there_is(store: Store) -> None:
    with pytest.raises(BacklineError) as caught:
        store.make_code(ME, 77)
    assert caught.value.code == "machine.unknown"


def test_no_code_makes_a_server(store: Store) -> None:
    code = store.make_code(ME, known(store)).code
    assert refused(lambda: store.register(asked(9, code=code, type=MachineType.SERVICE))).code == "register.type"


def test_one_code_used_by_many_at_once_is_good_for_one(store: Store) -> None:
    code = store.make_code(ME, known(store)).code

    def use(number: int) -> bool:
        try:
            store.register(asked(number, hostname="", code=code))
        except BacklineError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(use, range(10, 26))) == 1


def test_a_flood_of_registrations_gives_each_its_own_address(open_store: Store) -> None:
    """200 machines, each asking twice at once, as impatient people at their keyboards do."""

    def ask(number: int) -> str | None:
        try:
            return str(open_store.register(asked(number, hostname=f"p{number}")).ip)
        except BacklineError as error:
            assert error.code in ("conflict.mac", "conflict.name")  # noqa: PT017
            return None

    with ThreadPoolExecutor(16) as pool:
        given = [ip for ip in pool.map(ask, [*range(1, 201), *range(1, 201)]) if ip]
    assert len(given) == len(set(given)) == len(open_store.machines()) == 200
