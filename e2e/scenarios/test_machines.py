"""The machine database, its feed, DHCP and DNS on gw as one: what mdb says is what machines are answered.

Whatever is restarted meanwhile. The names and addresses are those of the proposal of `backline init`.
"""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable, Iterator
from ipaddress import IPv4Address

import pytest

from e2e.lab import Lab
from e2e.scenarios.questions import GW, offer, resolve
from services.common.errors import BacklineError
from services.common.problem import RemoteError
from services.mdb.client import Mdb
from services.mdb.schema import Edits, Machine, MachinePatch, MachineType, NewMachine, Removal

pytestmark = [pytest.mark.lan(topology="hall", seats=2), pytest.mark.images]
ALIENS = "192.168.250."
MAC = "52:54:00:0a:00:{:02x}"
SECONDS = 10.0
"""Edits take well under a second (benchmarks/netboot.py); here a busy machine may be slower."""


@pytest.fixture
def mdb(lab: Lab) -> Iterator[Mdb]:
    """mdb as root on gw uses it. What a test has made is removed afterwards."""
    with Mdb(lab["gw"].service("mdb")) as client:
        before = {machine.id for machine in client.machines().machines}
        yield client
        made = [machine for machine in client.machines().machines if machine.id not in before]
        client.edit(Edits(delete=[Removal(id=machine.id) for machine in made]))


def new(number: int, name: str = "alt-r01p{:02}") -> NewMachine:
    return NewMachine(hostname=name.format(number), mac=MAC.format(number), type=MachineType.USER, room="alt")


def eventually(lab: Lab, what: str, look: Callable[[], bool], *, seconds: float = SECONDS) -> float:
    """Wait until `look` is true; how long that took."""
    began = time.monotonic()
    lab["gw"].wait_until(what, look, seconds=seconds)
    return time.monotonic() - began


def answered(lab: Lab, machine: Machine) -> None:
    """DNS and DHCP answer with what mdb says of a machine."""
    address, gw = str(machine.ip), lab["gw"]
    backwards = ".".join(reversed(address.split("."))) + ".in-addr.arpa"
    for name in (machine.hostname, *machine.aliases):
        asked = functools.partial(resolve, lab, gw, f"{name}.prolo")
        eventually(lab, f"{name} in DNS", lambda: asked() == [address])  # noqa: B023
    eventually(lab, "its PTR", lambda: resolve(lab, gw, backwards, "PTR") == [f"{machine.hostname}.prolo."])
    if machine.mac is not None:
        mac = machine.mac
        eventually(lab, "its offer", lambda: offer(lab, "room-1", mac, seconds=1) == machine.ip)


def test_gw_makes_its_own_records_from_hall_toml(lab: Lab, mdb: Mdb) -> None:
    found = {machine.hostname: machine for machine in mdb.machines("type:service").machines}
    assert {"gw", "rhfs01", "rhfs01-1", "web", "monitoring", "misc"} <= set(found)
    assert str(found["gw"].ip) == GW
    assert {"mdb", "netboot", "ns"} <= set(found["gw"].aliases)
    assert resolve(lab, lab["web"], "mdb.prolo") == [GW]
    assert resolve(lab, lab["web"], "rfs1.prolo") == ["192.168.1.11"]
    assert resolve(lab, lab["web"], "rfs10.prolo") == []


def test_seats_have_the_names_and_addresses_that_mdb_gives_them(lab: Lab) -> None:
    for name, machine in lab.machines.items():
        assert lab[name].wait_for_address() == str(machine.ip)
        answered(lab, machine)
        assert lab["web"].succeeds("getent", "hosts", f"{name}.prolo").split()[0] == str(machine.ip)


def test_a_machine_that_is_added_renamed_given_another_card_and_removed_is_followed(lab: Lab, mdb: Mdb) -> None:
    first = mdb.create(new(1))
    answered(lab, first)
    second = mdb.change(first.id, MachinePatch(hostname="alt-r09p09", aliases=["scoreboard"], mac=MAC.format(2)))
    answered(lab, second)
    assert resolve(lab, lab["gw"], "alt-r01p01.prolo") == []
    old = offer(lab, "room-1", MAC.format(1))
    assert old is not None
    assert str(old).startswith(ALIENS)
    mdb.delete(second.id)
    eventually(lab, "its end in DNS", lambda: resolve(lab, lab["gw"], "alt-r09p09.prolo") == [])
    eventually(lab, "its end in DHCP", lambda: str(offer(lab, "room-1", MAC.format(2))).startswith(ALIENS))


@pytest.mark.parametrize(
    "hostname", ["a_b", "-a", "a.b", "a b", 'a"', "a;b", "a\n", "$INCLUDE", "ä", "xn--" + "a" * 60, "*", "@", ""]
)
def test_a_hostile_name_is_refused_by_mdb_and_dns_goes_on(lab: Lab, mdb: Mdb, hostname: str) -> None:
    with pytest.raises(RemoteError) as refused:
        mdb.create(NewMachine(hostname=hostname, mac=MAC.format(3)))
    assert refused.value.problem.status == 422
    assert resolve(lab, lab["web"], "gw.prolo") == [GW]


def test_a_name_that_is_an_alias_elsewhere_is_refused(mdb: Mdb) -> None:
    with pytest.raises(RemoteError, match="rfs1 belongs to rhfs01"):
        mdb.create(NewMachine(hostname="rfs1", mac=MAC.format(3)))


def test_a_hundred_machines_of_one_import_are_one_reload(lab: Lab, mdb: Mdb) -> None:
    from services.dhcp.client import Dhcp
    from services.dns.client import Dns

    gw = lab["gw"]
    machines = [
        NewMachine(
            hostname=f"many-{number}",
            mac=f"52:54:00:0b:{number // 256:02x}:{number % 256:02x}",
            ip=IPv4Address("192.168.1.128") + number,
            type=MachineType.ORGA,
        )
        for number in range(100)
    ]
    with Dhcp(gw.service("dhcp")) as dhcp, Dns(gw.service("dns")) as dns:
        applies, reloads = dhcp.status().applies, dns.status().reloads
        made = mdb.edit(Edits(create=machines)).machines
        answered(lab, made[-1])
        answered(lab, made[0])
        assert dhcp.status().applies - applies <= 2
        assert dns.status().reloads - reloads <= 2


@pytest.mark.parametrize(
    "units",
    [
        ["backline-mdb.service"],
        ["backline-dhcp.service", "backline-dns.service"],
        ["kea-dhcp4-server.service", "named.service"],
    ],
    ids=["mdb", "followers", "daemons"],
)
def test_what_is_restarted_in_the_middle_of_edits_loses_none(lab: Lab, mdb: Mdb, units: list[str]) -> None:
    made = []
    for number in range(10, 22):
        if number == 14:
            lab["gw"].run(["systemctl", "restart", "--no-block", *units])
        made.append(_insist(functools.partial(mdb.create, new(number))))
    gone = made.pop(3)
    _insist(lambda: mdb.delete(gone.id))
    for machine in (made[0], made[4], made[-1]):
        answered(lab, machine)
    eventually(lab, "its end in DNS", lambda: resolve(lab, lab["gw"], f"{gone.hostname}.prolo") == [])
    for unit in units:
        lab["gw"].wait_for_unit(unit)


def _insist(call: Callable[[], Machine | None]) -> Machine:
    """Try until mdb is back; its socket stays, so most calls just wait."""
    deadline = time.monotonic() + 30
    while True:
        try:
            return call()  # type: ignore[return-value]
        except RemoteError:
            raise
        except BacklineError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def test_a_stranger_gets_an_address_of_aliens_for_half_a_minute(lab: Lab) -> None:
    found = offer(lab, "room-1", "52:54:00:ff:00:01")
    assert str(found).startswith(ALIENS)


@pytest.mark.lan(topology="hall", seats=1, share=False)
def test_gw_that_lost_its_power_answers_the_same(lab: Lab) -> None:
    gw = lab["gw"]
    with Mdb(gw.service("mdb")) as client:
        machine = client.create(new(1))
    answered(lab, machine)
    gw.crash()
    gw.start()
    gw.wait_ready(seconds=60)
    answered(lab, machine)
    with contextlib.closing(Mdb(gw.service("mdb"))) as client:
        assert client.machine(machine.id) == machine
