"""Against named of the gw image itself: what it answers, in which view, what it refuses, and when it is told."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from ipaddress import IPv4Address
from pathlib import Path

import msgspec
import pytest

from builder import image
from builder.image import Shop
from e2e.containers import engine
from e2e.sandbox import entered_network
from services.common.errors import InputError, MissingError
from services.dns import zones
from services.dns.apply import Applier
from services.dns.bind import ASK_SECONDS, serial_at
from services.dns.fake import FakeBind
from services.dns.folder import Folder, serial_of
from services.dns.schema import Aliens, Settings
from services.dns.serials import newer
from services.dns.zones import Machine
from tests.builder.conftest import shop
from tests.dns.bind_rig import SEAT, STRANGER, UNKNOWN, Box, box
from tests.dns.hall import ALIEN_GW, GW, SETTINGS, machine, machines

__all__ = ["shop"]

WAY_OUT = msgspec.structs.replace(SETTINGS, recursion=True)

pytestmark = [pytest.mark.images, pytest.mark.needs("podman", "root", "cgroup2", "namespaces", "overlayfs")]


@pytest.fixture(scope="module")
def place(shop: Shop, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    """A container of the gw image."""
    image.build(shop, "gw")
    with engine(settings=shop.settings) as podman, box(podman, tmp_path_factory.mktemp("dns") / "state") as running:
        yield running


@pytest.fixture
def named(place: Box) -> Iterator[Box]:
    """named, begun anew over the folder as it is, with two machines."""
    place.applier().put(machines(2))
    with place.named():
        place.applier().turn(machines(2))
        yield place


# Both views


def test_the_hall_finds_hosts_machines_and_aliases(named: Box) -> None:
    assert named.ask("gw.prolo") == named.ask("mdb.prolo") == named.ask("ns.prolo") == [GW]
    assert named.ask("pas-r00p01.prolo") == named.ask("seat1.prolo") == ["192.168.0.2"]
    assert named.ask("2.0.168.192.in-addr.arpa", "PTR") == ["pas-r00p01.prolo."]
    assert named.ask("localhost") == ["127.0.0.1"]
    assert named.ask("1.0.0.127.in-addr.arpa", "PTR") == ["localhost."]
    assert named.ask("nobody.prolo") == ["NXDOMAIN"]


def test_unknown_machines_find_netboot_and_ns_and_nothing_else(named: Box) -> None:
    def ask(name: str, kind: str = "A") -> list[str]:
        return named.ask(name, kind, source=UNKNOWN, to=ALIEN_GW)

    assert ask("netboot.prolo") == ask("ns.prolo") == [ALIEN_GW]
    assert ask("7.250.168.192.in-addr.arpa", "PTR") == ["unknown-7.alien.prolo."]
    assert ask("gw.prolo") == ask("pas-r00p01.prolo") == ["NXDOMAIN"]
    assert ask("2.0.168.192.in-addr.arpa", "PTR") == ["REFUSED"]
    assert ask("example.org") == ["REFUSED"]
    assert named.ask("netboot.prolo", source=UNKNOWN, to=GW) == [ALIEN_GW]  # by who asks, not by whom


def test_the_world_is_told_nothing(named: Box) -> None:
    assert named.ask("gw.prolo", source=STRANGER) == ["REFUSED"]
    assert named.ask("example.org", source=STRANGER, recurse=True) == ["REFUSED"]


def test_nobody_learns_what_named_is_or_copies_a_zone(named: Box) -> None:
    assert "9." not in named.run("dig", "+short", f"@{GW}", "-b", SEAT, "version.bind", "TXT", "CH")
    assert "Transfer failed" in named.run("dig", f"@{GW}", "-b", SEAT, "prolo", "AXFR")


def test_a_named_that_is_away_is_noticed_at_once(place: Box) -> None:
    began = time.monotonic()
    with entered_network(place.network), pytest.raises(MissingError, match="refused"):
        serial_at(GW, "prolo")
    assert time.monotonic() - began < ASK_SECONDS


def test_an_island_says_at_once_that_it_does_not_know_the_world(named: Box) -> None:
    began = time.monotonic()
    assert named.ask("example.org", recurse=True) == ["REFUSED"]
    assert time.monotonic() - began < 3  # one that looks for the world gives up after ten


@pytest.mark.parametrize("settings", [SETTINGS, WAY_OUT, msgspec.structs.replace(WAY_OUT, aliens=Aliens())])
def test_bind_accepts_what_is_made_of_every_kind_of_hall(place: Box, tmp_path: Path, settings: Settings) -> None:
    applier = place.applier(settings)
    applier.put(machines(2), [IPv4Address("192.0.2.53")])
    assert applier.refusal() is None
    assert applier.left_out == ()


# Changes


def test_a_change_is_answered_and_its_serial_goes_on(named: Box) -> None:
    applier = named.applier()
    applier.turn(machines(2))
    for count in (3, 4, 5):
        before = named.serial()
        outcome = applier.turn(machines(count))
        assert outcome.problem is None
        assert named.ask(f"seat{count - 1}.prolo") == [f"192.168.0.{count}"]
        assert newer(named.serial(), before)
        assert outcome.reloaded == [("hall", "prolo"), ("hall", "0.168.192.in-addr.arpa")]


def test_a_network_that_comes_is_served_without_a_restart(named: Box) -> None:
    settings = msgspec.structs.replace(SETTINGS, networks=[*SETTINGS.networks, "10.0.0.0/24"])
    assert named.applier(settings).turn([machine(1, "far", "10.0.0.9")]).problem is None
    assert named.ask("9.0.0.10.in-addr.arpa", "PTR") == ["far.prolo."]


def test_after_the_loss_of_all_files_serials_go_on(named: Box) -> None:
    last = named.serial()
    for path in named.folder.rglob("*.zone"):
        path.unlink()
    assert named.applier().turn(machines(2)).problem is None
    assert newer(named.serial(), last)


def test_named_loads_a_change_though_its_clock_was_ahead_when_it_loaded_the_zone(named: Box) -> None:
    """What named takes for new is a file that is younger than its own clock was; ours always are."""
    file = named.folder / "zones/hall/prolo.zone"
    serial = named.serial()
    file.write_text(file.read_text().replace(f" {serial} ", f" {serial + 1} "))
    os.utime(file, (serial - 7200, serial - 7200))
    named.programs.reload("prolo", "hall")
    assert named.serial() == serial  # as it is with files that have the usual time
    outcome = named.applier().turn(machines(3))
    assert outcome.problem is None
    assert named.serial() == serial_of(file.read_text())


# Refusals


def test_bind_itself_refuses_what_we_leave_out(named: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    """With our own rules away, BIND finds the bad names; they are left out and the others are served."""
    monkeypatch.setattr(zones, "_label_problem", lambda label: None)
    bad = [machine(90, "under_score", "192.168.0.90", "fine"), machine(91, "ok", "192.168.0.91", "a b")]
    outcome = named.applier().turn([*machines(50), *bad])
    assert outcome.problem is None
    assert (named.ask("fine.prolo"), named.ask("ok.prolo")) == (["192.168.0.90"], ["192.168.0.91"])
    assert named.ask("under_score.prolo") == ["NXDOMAIN"]


def test_the_guilty_record_is_named_with_what_bind_said(named: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zones, "_label_problem", lambda label: None)
    applier = named.applier()
    applier.turn([*machines(50), machine(90, "under_score", "192.168.0.90")])
    assert {(each.machine, each.name.split()[0]) for each in applier.left_out} == {("90", "under_score"), ("90", "90")}
    assert all("bad" in each.reason for each in applier.left_out)


def test_zones_and_configurations_that_are_none_are_refused_with_bind_s_words(place: Box) -> None:
    file = place.folder / "broken"
    file.write_text("$TTL 10\n@ SOA ns hostmaster 1 1 1 1 1\n@ NS ns\nns A 300.1.1.1\n")
    with pytest.raises(InputError, match=r"300\.1\.1\.1"):
        place.programs.check_zone("prolo", file)
    file.write_text("options { directory };")
    with pytest.raises(InputError, match="line 1: expected"):
        place.programs.check_conf(file)
    file.unlink()


@pytest.mark.parametrize(
    "lines",
    [
        "under_score A 192.168.0.1",
        "a A 300.1.1.1",
        "a A 192.168.0.1 x",
        "a b A 192.168.0.1",
        "@ CNAME a",
        "a",
        "ns CNAME a",
    ],
)
def test_many_zones_are_checked_at_once_as_strictly_as_each_alone(place: Box, lines: str) -> None:
    head = "$TTL 10\n@ SOA ns hostmaster 1 1 1 1 1\n@ NS ns\nns A 192.168.0.2\n"
    good, bad = place.folder / "good", place.folder / "bad"
    good.write_text(head)
    bad.write_text(f"{head}{lines}\n")
    assert place.programs.check_zones({("hall", "prolo"): good, ("alien", "prolo"): good})
    assert not place.programs.check_zones({("hall", "prolo"): good, ("alien", "prolo"): bad})
    with pytest.raises(InputError):
        place.programs.check_zone("prolo", bad)
    good.unlink()
    bad.unlink()


def test_hostile_names_get_nowhere(named: Box) -> None:
    names = ["x\n@ A 6.6.6.6", "$INCLUDE /etc/passwd", "*", "@", "a;b", 'q"', "\\000", "é", "prolo.", "a.b", "", "-"]
    known = [Machine(str(100 + n), name, (), f"192.168.0.{100 + n}") for n, name in enumerate(names)]
    applier = named.applier()
    assert applier.turn([*machines(2), *known]).problem is None
    assert len(applier.left_out) == len(names)
    assert named.ask("seat1.prolo") == ["192.168.0.2"]
    assert named.ask("anything.prolo") == named.ask("6.6.6.6.prolo") == ["NXDOMAIN"]


# Starts


def test_a_new_gateway_answers_for_hall_toml_before_anybody_else_has_started(place: Box, tmp_path: Path) -> None:
    for path in place.folder.rglob("*.zone"):
        path.unlink()
    (place.folder / "named.conf").unlink(missing_ok=True)
    place.applier().put([], only_missing=True)
    with place.named():
        assert place.ask("rhfs01.prolo") == ["192.168.1.10"]
        assert place.ask("netboot.prolo", source=UNKNOWN, to=ALIEN_GW) == [ALIEN_GW]


def test_a_named_that_was_killed_comes_up_with_the_same_answers(place: Box) -> None:
    place.applier().put(machines(5))
    with place.named():
        before = place.serial(), place.ask("seat4.prolo")
    with place.named():
        assert (place.serial(), place.ask("seat4.prolo")) == before


@pytest.mark.needs("loop devices")
def test_after_a_power_cut_at_any_step_named_answers_the_old_or_the_new(
    place: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The files lie on an ext4 of their own; a copy of its device is what a disk would hold at that moment."""
    sandbox = place.podman.sandbox
    disk, mounted = "/run/lab/dns-disk", "/run/lab/dns-state"
    folder = sandbox.root / mounted.lstrip("/")
    sandbox.run(["truncate", "--size=16M", disk])
    sandbox.run(["mkfs.ext4", "-q", "-m0", disk])
    sandbox.run(["mkdir", mounted])
    sandbox.run(["mount", "-o", "loop", disk, mounted])
    bind = FakeBind(folder)
    cuts: list[str] = []

    def cut() -> None:
        cuts.append(f"{disk}-{len(cuts)}")
        sandbox.run(["cp", "--sparse=always", disk, cuts[-1]])

    def watched(name: str, function: Callable[..., object]) -> Callable[..., object]:
        def call(*arguments: object, **more: object) -> object:
            done = function(*arguments, **more)
            if bind.runs:
                cut()
            return done

        call.__name__ = name
        return call

    def answers() -> tuple[list[str], ...]:
        """What named answers over the files that are there now, as they are after a restart."""
        shutil.rmtree(place.folder / "zones", ignore_errors=True)
        shutil.copytree(folder / "zones", place.folder / "zones")
        conf = (folder / "named.conf").read_text().replace(str(folder), str(place.folder))
        (place.folder / "named.conf").write_text(conf)
        with place.named():
            return (place.ask("moved.prolo"), place.ask("seat0.prolo"), place.ask("rfs0.prolo"))

    try:
        Applier(SETTINGS, Folder(folder), bind).put([machine(1, "moved", "192.168.0.1"), *machines(1)[1:]])
        sandbox.run(["sync", "-f", mounted])
        cut()
        with monkeypatch.context() as patch:
            for name in ("fsync", "utime"):
                patch.setattr(f"services.dns.folder.os.{name}", watched(name, getattr(os, name)))
            patch.setattr(Path, "rename", watched("rename", Path.rename))
            Applier(SETTINGS, Folder(folder), bind).put([machine(1, "moved", "192.168.1.50"), *machines(1)])
        sandbox.run(["umount", mounted])
        seen = []
        for copy in cuts:
            sandbox.run(["mount", "-o", "loop", copy, mounted])
            seen.append(answers())
            sandbox.run(["umount", mounted])
            sandbox.run(["rm", copy])
    finally:
        sandbox.run(["umount", "-q", mounted], check=False)
    old = (["192.168.0.1"], ["NXDOMAIN"], ["192.168.1.10"])
    new = (["192.168.1.50"], ["192.168.0.1"], ["192.168.1.10"])
    assert len(cuts) > 8
    assert (seen[0], seen[-1]) == (old, new)
    first = seen.index(new)
    assert seen == [old] * first + [new] * (len(seen) - first)
