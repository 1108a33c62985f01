"""Bringing machines into force on real Kea: refusals, ends of processes, restarts, power cuts, leases in the way."""

from __future__ import annotations

import itertools
import shutil
import signal
import subprocess
import sys
from ipaddress import IPv4Address
from pathlib import Path

import msgspec
import pytest

from services.common.codec import encode_json
from services.common.errors import BacklineError
from services.dhcp import apply, machines
from services.dhcp.apply import Applier, usable
from services.dhcp.kea import Kea, Refused
from services.dhcp.machines import Choice, Machine
from services.dhcp.prepare import make
from services.dhcp.render import render
from services.dhcp.schema import LeftOut
from tests.dhcp.client import ACK, NAK
from tests.dhcp.dying_apply import Case
from tests.dhcp.halls import ALIENS, CARDS, HALL, SETTINGS, mac, machine
from tests.dhcp.rig import Accepting, Gateway, reservations

pytestmark = [pytest.mark.images, pytest.mark.needs("podman", "root", "cgroup2", "namespaces", "overlayfs")]
STEPS = ("tested", "staged", "adopted", "pointed", "set", "proved", "tidied", "leases")
TAKEN = STEPS.index("set")
BEFORE = [machine(7), machine(8)]
AFTER = [machine(7, ip="192.168.0.70"), machine(9)]


def offered(gw: Gateway, number: int) -> str:
    found = gw.wire.discover(mac(number))
    assert found is not None
    return str(found.address)


def answers(gw: Gateway) -> list[str]:
    """What the machines of BEFORE and AFTER are offered; aliens get this or that."""
    found = [offered(gw, number) for number in (7, 8, 9)]
    return ["alien" if IPv4Address(address) in ALIENS.cidr else address for address in found]


OLD = ["192.168.0.7", "192.168.0.8", "alien"]
NEW = ["192.168.0.70", "alien", "192.168.0.9"]


# Ends


@pytest.mark.parametrize("step", STEPS)
def test_whoever_applies_may_be_killed_after_any_step(gw: Gateway, step: str, tmp_path: Path) -> None:
    gw.apply(*BEFORE)
    case = tmp_path / "case.json"
    case.write_bytes(encode_json(Case(gw.settings, gw.control.path, AFTER, step)))
    done = subprocess.run([sys.executable, "-m", "tests.dhcp.dying_apply", str(case)], check=False)
    assert done.returncode == -signal.SIGKILL
    taken = STEPS.index(step) >= TAKEN
    assert answers(gw) == (NEW if taken else OLD)
    gw.off()
    gw.on()
    assert answers(gw) in ([NEW] if taken else [OLD, NEW]), "what was answered once is answered after a restart"
    gw.apply(*AFTER)
    assert answers(gw) == NEW
    assert not (gw.generations.sets / ".new").exists() or step in ("tested", "staged")


@pytest.mark.needs("loop devices")
def test_a_power_cut_after_any_step_leaves_one_of_the_two_configurations(gw: Gateway) -> None:
    """The files lie on an ext4 of their own; a copy of its device is what a disk would hold at that moment."""
    sandbox = gw.podman.sandbox
    disk, place = "/run/lab/dhcp-disk", "/run/lab/dhcp-state"
    sandbox.run(["truncate", "--size=32M", disk])
    sandbox.run(["mkfs.ext4", "-q", "-m0", disk])
    sandbox.run(["mkdir", place])
    sandbox.run(["mount", "-o", "loop", disk, place])
    cuts: list[str] = []

    def step(name: str) -> None:
        sandbox.run(["cp", "--sparse=always", disk, f"{disk}-{name}"])
        cuts.append(name)

    settings = msgspec.structs.replace(gw.settings, state=sandbox.root / place.lstrip("/"))
    try:
        make(settings, dict(CARDS), Accepting())
        Applier(settings, gw.control).apply([*BEFORE])
        sandbox.run(["sync", "-f", place])
        step("nothing")
        Applier(settings, gw.control, step=step).apply([*AFTER])
        sandbox.run(["umount", place])
        for name in cuts:
            sandbox.run(["mount", "-o", "loop", f"{disk}-{name}", place])
            assert gw.kea is not None
            started = make(settings, dict(CARDS), gw.kea)
            found = reservations(started.configuration())
            sandbox.run(["umount", place])
            before, after = ({str(each.ip): each.mac for each in told} for told in (BEFORE, AFTER))
            taken = name in STEPS and STEPS.index(name) >= TAKEN
            assert found in ([after] if taken else [before, after]), name
    finally:
        sandbox.run(["umount", "-q", place], check=False)
    assert cuts == ["nothing", *STEPS]


def test_a_restart_of_gw_gives_the_same_answers_and_keeps_leases(gw: Gateway) -> None:
    gw.apply(*BEFORE)
    gw.wire.lease(mac(7))
    alien = gw.wire.lease(mac(1000))
    before = {(lease.ip_address, lease.hw_address) for lease in gw.control.leases()}
    gw.off()
    gw.on()
    assert answers(gw) == OLD
    assert {(lease.ip_address, lease.hw_address) for lease in gw.control.leases()} == before
    again = gw.wire.renew(mac(1000), str(alien.address))
    assert again is not None
    assert (again.kind, again.address) == (ACK, alien.address)


# Refusals


def unchecked(*told: Machine) -> Choice:
    """What the rules would never choose."""
    return Choice({"hall": list(told), "aliens": []})


BAD = {
    13: msgspec.structs.replace(machine(13), mac=""),
    57: msgspec.structs.replace(machine(57), mac="zz:00:00:00:00:57"),
    140: machine(140, card=20),  # the MAC of another
}


def test_machines_that_kea_refuses_are_found_left_out_and_named(gw: Gateway) -> None:
    class Counting(Kea):
        tests = 0

        def test(self, configuration: bytes) -> str | None:
            self.tests += 1
            return super().test(configuration)

    kea = Counting(gw.control.path)
    told = [BAD.get(number, machine(number)) for number in range(1, 201)]
    configuration, choice = usable(kea, SETTINGS, unchecked(*told), CARDS)
    assert kea.test(configuration) is None
    assert sorted(each.name for each in choice.left_out) == ["pc-13", "pc-140", "pc-57"]
    assert len(choice.machines) == 197
    assert all("Kea refuses it" in each.reason for each in choice.left_out)
    assert kea.tests < 60


def test_a_guilty_machine_is_looked_for_once(gw: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    guilty = BAD[57]

    def lenient(_: object, told: list[Machine | LeftOut]) -> Choice:
        return unchecked(*(each for each in told if isinstance(each, Machine)))

    monkeypatch.setattr(machines, "choose", lenient)
    first = gw.apply(machine(7), guilty, machine(8))
    assert [each.name for each in first.choice.left_out] == ["pc-57"]
    assert offered(gw, 8) == "192.168.0.8"
    searches = itertools.count()
    monkeypatch.setattr(apply, "_Search", lambda *_: next(searches))
    second = gw.apply(machine(7), guilty, machine(8), machine(9))
    assert [each.name for each in second.choice.left_out] == ["pc-57"]
    assert offered(gw, 9) == "192.168.0.9"
    assert next(searches) == 0


def test_a_refusal_that_is_no_machines_fault_leaves_everything_as_it_was(gw: Gateway) -> None:
    gw.apply(*BEFORE)
    current = gw.generations.current()
    wrong = msgspec.structs.replace(ALIENS, aliens="192.168.251.1-192.168.251.9")
    settings = msgspec.structs.replace(gw.settings, networks=[HALL, wrong])
    with pytest.raises(Refused, match="pool") as caught:
        Applier(settings, gw.control).apply([*AFTER])
    assert caught.value.hint is not None
    assert answers(gw) == OLD
    assert gw.generations.current() == current


def test_what_kea_takes_not_after_all_is_not_what_it_starts_with(gw: Gateway) -> None:
    gw.apply(*BEFORE)
    current = gw.generations.current()

    class Moody(Kea):
        sets = 0

        def set(self, configuration: bytes) -> str:
            self.sets += 1
            if self.sets == 1:
                raise Refused("kea.refused", "not today")
            return super().set(configuration)

    kea = Moody(gw.control.path)
    with pytest.raises(Refused, match="not today"):
        Applier(gw.settings, kea).apply([*AFTER])
    assert gw.generations.current() == current
    assert kea.sets == 2
    assert answers(gw) == OLD


def test_without_kea_nothing_is_written(gw: Gateway) -> None:
    gw.apply(*BEFORE)
    current = gw.generations.current()
    with pytest.raises(BacklineError) as caught:
        Applier(gw.settings, Kea(gw.folder / "nothing")).apply([*AFTER])
    assert caught.value.code == "kea.down"
    assert gw.generations.current() == current


# Another Kea, or another configuration


def test_a_kea_that_was_given_something_else_is_noticed_and_put_right(gw: Gateway) -> None:
    gw.apply(*BEFORE)
    other = render(gw.settings, machines.choose(gw.settings, AFTER), CARDS)
    gw.control.set(other)
    assert gw.applier.astray()
    outcome = gw.apply(*BEFORE)
    assert outcome.changed
    assert not gw.applier.astray()
    assert answers(gw) == OLD


def test_nothing_is_applied_that_is_in_force(gw: Gateway) -> None:
    assert gw.apply(*BEFORE).changed
    number = gw.generations.current()
    assert not gw.apply(*reversed(BEFORE)).changed
    assert gw.generations.current() == number


def test_few_generations_are_kept(gw: Gateway) -> None:
    for number in range(20, 30):
        gw.apply(machine(number))
    assert len([path for path in gw.generations.sets.iterdir() if path.name.isdigit()]) <= 6


# Leases in the way


def test_a_machine_with_a_new_card_has_its_address_at_once(gw: Gateway) -> None:
    gw.apply(machine(7))
    gw.wire.lease(mac(7))
    gw.apply(machine(7, card=77))
    assert str(gw.wire.lease(mac(77)).address) == "192.168.0.7"


def test_two_machines_swap_their_addresses(gw: Gateway) -> None:
    gw.apply(machine(7), machine(8))
    for number in (7, 8):
        gw.wire.lease(mac(number))
    gw.apply(machine(7, ip="192.168.0.8"), machine(8, ip="192.168.0.7"))
    assert [str(gw.wire.lease(mac(number)).address) for number in (7, 8)] == ["192.168.0.8", "192.168.0.7"]


def test_leases_in_the_way_are_ended_though_the_service_was_away(gw: Gateway) -> None:
    gw.apply(machine(7))
    gw.wire.lease(mac(7))
    gw.off()
    gw.on()
    gw.apply(machine(7, card=77))
    assert str(gw.wire.lease(mac(77)).address) == "192.168.0.7"


def test_a_machine_that_is_deleted_is_a_stranger_from_then_on(gw: Gateway) -> None:
    gw.apply(machine(7), machine(8))
    gw.wire.lease(mac(7))
    gw.apply(machine(8))
    kept = gw.wire.renew(mac(7), "192.168.0.7")
    assert kept is None or kept.kind == NAK
    assert str(gw.wire.lease(mac(7)).address).startswith("192.168.250.")


def test_a_stranger_that_is_registered_is_known_from_then_on(gw: Gateway) -> None:
    gw.apply(machine(8))
    assert str(gw.wire.lease(mac(7)).address).startswith("192.168.250.")
    gw.apply(machine(7), machine(8))
    given = gw.wire.lease(mac(7))
    assert (str(given.address), given.text(12)) == ("192.168.0.7", "pc-7")


def test_a_machine_whose_address_changes_is_told_so_when_it_renews(gw: Gateway) -> None:
    gw.apply(machine(7))
    gw.wire.lease(mac(7))
    gw.apply(machine(7, ip="192.168.0.70"))
    told = gw.wire.renew(mac(7), "192.168.0.7")
    assert told is not None
    assert told.kind == NAK
    assert str(gw.wire.lease(mac(7)).address) == "192.168.0.70"


# Starting


class Refusing:
    """A Kea that refuses whatever has a word in it."""

    def __init__(self, word: str) -> None:
        self.word = word.encode()

    def test(self, configuration: bytes) -> str | None:
        return f"no {self.word.decode()}" if self.word in configuration else None


def test_real_kea_starts_from_hall_toml_alone(gw: Gateway) -> None:
    gw.off()
    for path in gw.settings.state.iterdir():
        path.unlink() if path.is_symlink() or path.is_file() else shutil.rmtree(path)
    gw.on()
    assert gw.generations.current() is not None
    assert offered(gw, 7).startswith("192.168.250.")


def test_a_start_on_another_card_is_a_new_configuration_of_the_same_machines(gw: Gateway) -> None:
    gw.apply(*BEFORE)
    started = make(gw.settings, {0: "eth0"}, Accepting())
    assert started == gw.generations.proved()
    moved = make(gw.settings, {0: "enp3s0"}, Accepting())
    assert b"enp3s0/192.168.1.254" in moved.configuration()
    assert reservations(moved.configuration()) == reservations(started.configuration())
    inputs = moved.inputs()
    assert inputs is not None
    assert inputs.cards == {0: "enp3s0"}


def test_a_machine_that_kea_refuses_at_the_start_is_left_out(gw: Gateway) -> None:
    gw.apply(*BEFORE)
    started = make(gw.settings, {0: "enp3s0"}, Refusing("192.168.0.8"))
    assert reservations(started.configuration()) == {"192.168.0.7": mac(7)}
    inputs = started.inputs()
    assert inputs is not None
    assert [each.name for each in inputs.left_out] == ["pc-8"]


def test_a_broken_configuration_is_stepped_over_at_the_start(gw: Gateway) -> None:
    """Kea took the one before; what is on the disk of this one cannot be read."""
    gw.apply(*BEFORE)
    proved = gw.generations.proved()
    assert proved is not None
    broken = gw.generations.adopt(gw.generations.stage(b"{", inputs=proved.inputs()))  # type: ignore[arg-type]
    (broken.path / "inputs.json").write_bytes(b"\0\0")
    gw.generations.point(broken)
    assert reservations(gw.prepare().configuration()) == {"192.168.0.7": mac(7), "192.168.0.8": mac(8)}


def test_without_anything_left_hall_toml_is_enough(gw: Gateway) -> None:
    gw.apply(*BEFORE)
    shutil.rmtree(gw.settings.state / "generations")
    assert gw.generations.current() is None
    assert reservations(gw.prepare().configuration()) == {}


def test_a_hall_that_kea_refuses_is_an_error_that_says_why(gw: Gateway) -> None:
    with pytest.raises(Refused, match="no Dhcp4"):
        make(gw.settings, dict(CARDS), Refusing("Dhcp4"))


def test_the_program_of_kea_tests_a_file_before_any_kea_runs(gw: Gateway) -> None:
    assert gw.kea is not None
    good = render(gw.settings, machines.choose(gw.settings, BEFORE), CARDS)
    assert gw.kea.test(good) is None
    assert "eth7" in (gw.kea.test(good.replace(b"eth0", b"eth7")) or "")
    assert gw.kea.test(b"{}") is not None
