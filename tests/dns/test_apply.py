"""Zones come into force whole or not at all, and only those that changed; with a named of paper."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from services.common.errors import HostError, MissingError
from services.dns.apply import Applier
from services.dns.fake import FakeBind
from services.dns.folder import Folder, serial_of
from services.dns.schema import Settings
from services.dns.serials import newer
from services.dns.zones import Machine
from tests.dns.hall import SETTINGS, machine, machines

NOW = 1_800_000_000.0


class Rig:
    """An applier, its folder and its named."""

    def __init__(self, folder: Path, *, settings: Settings = SETTINGS, started: bool = True) -> None:
        folder.mkdir(exist_ok=True)
        self.folder = folder
        self.settings = settings
        self.now = NOW
        self.bind = FakeBind(folder)
        self.anew()
        if started:
            self.applier.put([])
            self.bind.start()
            self.applier.tell()
            self.bind.reloads.clear()

    def anew(self) -> None:
        """As after a restart of the service."""
        self.applier = Applier(self.settings, Folder(self.folder), self.bind, clock=lambda: self.now)

    def served(self, zone: str = "prolo", view: str = "hall") -> str:
        return self.bind.loaded[view, zone]

    def serial(self, zone: str = "prolo", view: str = "hall") -> int:
        found = serial_of(self.served(zone, view))
        assert found is not None
        return found

    def file(self, zone: str = "prolo", view: str = "hall") -> Path:
        return self.folder / "zones" / view / f"{zone}.zone"


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig(tmp_path)


# What changes


def test_a_new_machine_is_served_and_only_its_zones_are_loaded(rig: Rig) -> None:
    outcome = rig.applier.turn([machine(1, "one", "192.168.0.1")])
    assert "one A 192.168.0.1\n" in rig.served()
    assert outcome.problem is None
    assert set(rig.bind.reloads) == {("hall", "prolo"), ("hall", "0.168.192.in-addr.arpa")}


def test_where_nothing_changed_nothing_is_written_checked_or_told(rig: Rig) -> None:
    known = machines(5)
    rig.applier.turn(known)
    before = {path: path.stat().st_ino for path in rig.folder.rglob("*.zone")}
    rig.bind.reloads.clear()
    checks, rig.now = rig.bind.checks, rig.now + 3600
    rig.applier.turn(list(reversed(known)))
    rig.anew()
    rig.applier.turn(known)
    assert (rig.bind.reloads, rig.bind.checks) == ([], checks)
    assert {path: path.stat().st_ino for path in rig.folder.rglob("*.zone")} == before


def test_a_machine_that_goes_is_gone(rig: Rig) -> None:
    rig.applier.turn(machines(2))
    rig.applier.turn(machines(1))
    assert "pas-r00p01" not in rig.served()
    assert "pas-r00p00" in rig.served()


def test_a_network_that_goes_takes_its_zone_along_and_one_that_comes_is_served(rig: Rig) -> None:
    gone = rig.file("0.168.192.in-addr.arpa")
    assert gone.exists()
    rig.settings = msgspec.structs.replace(SETTINGS, networks=["192.168.1.0/24", "10.0.0.0/24", "192.168.250.0/24"])
    rig.anew()
    assert rig.applier.turn([machine(1, "one", "10.0.0.1")]).problem is None
    assert not gone.exists()
    assert "1 PTR one.prolo.\n" in rig.served("0.0.10.in-addr.arpa")


# Serials


def test_a_serial_goes_on_by_the_clock_and_when_that_is_set_back_by_one(rig: Rig) -> None:
    first = rig.serial()
    rig.now += 60
    rig.applier.turn(machines(1))
    assert rig.serial() == first + 60
    rig.now -= 3600
    rig.applier.turn(machines(2))
    assert rig.serial() == first + 61


@pytest.mark.parametrize("damage", ["gone", "empty", "nonsense", "binary"])
def test_a_zone_file_that_is_lost_is_made_again_with_a_serial_after_what_named_serves(rig: Rig, damage: str) -> None:
    rig.now += 60
    rig.applier.turn(machines(1))
    last, text = rig.serial(), rig.served()
    match damage:
        case "gone":
            rig.file().unlink()
        case "empty":
            rig.file().write_text("")
        case "nonsense":
            rig.file().write_text(text.replace("SOA", "S0A"))
        case _:
            rig.file().write_bytes(b"\xff\x00")
    rig.now -= 7200
    rig.anew()
    assert rig.applier.turn(machines(1)).problem is None
    assert newer(rig.serial(), last)
    assert rig.served() == rig.file().read_text()


def test_files_are_younger_than_any_clock_of_named(rig: Rig) -> None:
    """named compares a file's time with its own at the last load; after a clock was set back it would load nothing."""
    rig.applier.turn(machines(1))
    assert rig.file().stat().st_mtime > rig.file().stat().st_ctime + 10 * 365 * 86400


# Refusals


def refuses(*words: str) -> Callable[[str], bool]:
    return lambda text: any(word in text for word in words)


def test_a_record_that_bind_refuses_is_found_left_out_and_named(rig: Rig) -> None:
    rig.bind.refuses = refuses("pas-r01p13 ")
    outcome = rig.applier.turn(machines(200))
    assert outcome.problem is None
    assert "pas-r01p13 " not in rig.served()
    assert rig.served().count("\npas-r") == 199
    assert [(each.machine, each.name) for each in rig.applier.left_out] == [("33", "pas-r01p13 A in prolo")]


def test_many_bad_records_are_all_found(rig: Rig) -> None:
    rig.bind.refuses = refuses("pas-r01p13 ", "pas-r05p02 ", "seat7 ", "seat8 ")
    assert rig.applier.turn(machines(200)).problem is None
    assert {each.machine for each in rig.applier.left_out} == {"33", "102", "7", "8"}


def test_of_records_that_do_not_get_along_the_first_stay(rig: Rig) -> None:
    rig.bind.refuses = lambda text: "seat3 " in text and "seat9 " in text
    assert rig.applier.turn(machines(20)).problem is None
    assert "seat3 " in rig.served()
    assert [each.machine for each in rig.applier.left_out] == ["9"]


def test_what_was_refused_once_is_not_looked_for_again(rig: Rig) -> None:
    rig.bind.refuses = refuses("pas-r01p13 ")
    rig.applier.turn(machines(200))
    checks = rig.bind.checks
    rig.applier.turn(machines(201))
    assert rig.bind.checks == checks + 1  # one for all zones that changed
    rig.applier.turn(machines(201))
    assert rig.bind.checks == checks + 1


def test_a_record_that_is_put_right_is_served(rig: Rig) -> None:
    rig.bind.refuses = refuses("seat3 ")
    rig.applier.turn(machines(5))
    rig.applier.turn([*machines(3), machine(3, "pas-r00p03", "192.168.0.4", "chair3"), machines(5)[4]])
    assert rig.applier.left_out == ()
    assert "chair3 " in rig.served()


def test_a_zone_that_is_refused_whole_stays_as_it_was_and_says_so(rig: Rig) -> None:
    rig.applier.turn(machines(3))
    before = rig.served()
    rig.bind.refuses = refuses("$ORIGIN prolo.")
    outcome = rig.applier.turn(machines(4))
    assert rig.served() == before == rig.file().read_text()
    assert "3 PTR" in rig.served("0.168.192.in-addr.arpa")  # the others go on
    assert outcome.problem is not None
    assert outcome.problem.code == "dns.refused"
    assert [each.refused for each in rig.applier.status() if each.zone == "prolo" and each.view == "hall"] != [None]
    checks = rig.bind.checks
    rig.applier.turn(machines(4))
    assert rig.bind.checks == checks  # not again before it is another zone
    rig.bind.refuses = refuses()
    assert rig.applier.turn(machines(5)).problem is None
    assert "seat4 " in rig.served()


def test_too_many_bad_records_leave_the_last_good_zone(rig: Rig) -> None:
    rig.applier.turn(machines(3))
    before = rig.served()
    rig.bind.refuses = lambda text: "seat9 " in text or text.count("\nseat") > 3
    outcome = rig.applier.turn(machines(200))
    assert outcome.problem is not None
    assert rig.served() == before


def test_a_named_conf_that_is_refused_stays_as_it_was(rig: Rig) -> None:
    before = (rig.folder / "named.conf").read_text()
    rig.bind.refuses_conf = refuses("10.0.0")
    rig.settings = msgspec.structs.replace(SETTINGS, networks=[*SETTINGS.networks, "10.0.0.0/24"])
    rig.anew()
    outcome = rig.applier.turn(machines(1))
    assert (rig.folder / "named.conf").read_text() == before
    assert outcome.problem is not None
    assert "named.conf: " in outcome.problem.message
    assert "seat0 " in rig.served()  # and the zones that are known go on


# named is away


def test_without_named_files_are_written_and_told_later(rig: Rig) -> None:
    rig.bind.runs = False
    outcome = rig.applier.turn(machines(1))
    assert isinstance(outcome.problem, MissingError)
    assert "seat0 " in rig.file().read_text()
    rig.bind.runs = True
    assert rig.applier.turn(machines(1)).problem is None
    assert "seat0 " in rig.served()


def test_a_named_that_lost_a_reload_is_told_after_a_restart_of_the_service(rig: Rig) -> None:
    rig.applier.put(machines(1))  # and here the service dies
    rig.anew()
    assert rig.applier.turn(machines(1)).reloaded == [("hall", "prolo"), ("hall", "0.168.192.in-addr.arpa")]
    assert "seat0 " in rig.served()


def test_a_folder_that_cannot_be_written_is_an_error_of_the_turn(rig: Rig) -> None:
    rig.applier.folder = Folder(rig.folder / "nowhere")
    outcome = rig.applier.turn(machines(1))
    assert isinstance(outcome.problem, HostError)


# Before named starts


def test_a_new_gateway_answers_for_the_hosts_of_hall_toml(tmp_path: Path) -> None:
    rig = Rig(tmp_path, started=False)
    rig.applier.put([], only_missing=True)
    rig.bind.start()
    assert "rhfs01 A 192.168.1.10\n" in rig.served()


def test_without_word_of_mdb_the_zones_of_before_stay(rig: Rig) -> None:
    rig.applier.turn(machines(3))
    before = rig.served()
    rig.file("1.168.192.in-addr.arpa").write_text("broken")
    rig.anew()
    assert rig.applier.put([], only_missing=True) == [("hall", "1.168.192.in-addr.arpa")]
    rig.bind.start()
    assert rig.served() == before
    assert "10 PTR rhfs01.prolo.\n" in rig.served("1.168.192.in-addr.arpa")


# Death at every step

CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.symlink", "os.chmod", "os.link", "os.utime"}
BEFORE, AFTER = machines(3), [*machines(2), machine(9, "other", "192.168.1.50")]
NETWORKS = msgspec.structs.replace(SETTINGS, networks=[*SETTINGS.networks, "10.0.0.0/24"])


def die_at(step: int, folder: Path, settings: Settings, known: list[Machine]) -> bool:
    """A turn in a process that kills itself before its change number `step` of the file system; whether it lived."""
    child = os.fork()
    if child == 0:
        count = 0

        def count_changes(event: str, arguments: tuple[object, ...]) -> None:
            nonlocal count
            mode = arguments[1] if event == "open" else None
            if event in CHANGES or (isinstance(mode, str) and set(mode) & set("wax+")):
                if count == step:
                    os.kill(os.getpid(), signal.SIGKILL)
                count += 1

        sys.addaudithook(count_changes)
        with contextlib.suppress(BaseException):
            bind = FakeBind(folder)
            bind.start()
            Applier(settings, Folder(folder), bind, clock=lambda: NOW + 60).turn(known)
            os._exit(0)
        os._exit(1)
    status = os.waitpid(child, 0)[1]
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return not os.WIFSIGNALED(status)


@pytest.mark.parametrize("settings", [SETTINGS, NETWORKS], ids=["machines", "networks"])
def test_dying_at_any_step_leaves_each_zone_old_or_new_and_the_next_turn_finishes(
    tmp_path: Path, settings: Settings
) -> None:
    before = Rig(tmp_path / "before")
    before.applier.turn(BEFORE)
    after = Rig(tmp_path / "after", settings=settings)
    after.applier.turn(AFTER)

    def body(text: str) -> list[str]:
        return [line for line in text.splitlines() if " SOA " not in line]

    seen = set()
    for step in range(500):
        folder = tmp_path / str(step)
        shutil.copytree(tmp_path / "before", folder)
        conf = folder / "named.conf"
        conf.write_text(conf.read_text().replace(str(tmp_path / "before"), str(folder)))
        lived = die_at(step, folder, settings, AFTER)
        named = FakeBind(folder)
        named.start()  # what is on disk is whole: all zones of whichever named.conf is there can be read
        for key, text in named.loaded.items():
            choices = [rig.bind.loaded[key] for rig in (before, after) if key in rig.bind.loaded]
            assert body(text) in [body(each) for each in choices], f"step {step}: {key}"
        seen.add(body(named.loaded["hall", "prolo"]) == body(after.served()))
        rig = Rig(folder, settings=settings, started=False)
        rig.bind = named
        rig.anew()
        assert rig.applier.turn(AFTER).problem is None
        assert {key: body(text) for key, text in named.loaded.items()} == {
            key: body(text) for key, text in after.bind.loaded.items()
        }
        assert not list(folder.rglob("*.new"))
        if lived:
            break
    else:
        pytest.fail("it never came to an end")
    assert step > 8
    assert seen == {True, False}
