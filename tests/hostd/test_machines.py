"""What becomes of a machine: made, upgraded, taken back; on an iron in a folder (`machines_rig`)."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.common.errors import BusyError, InputError, MissingError, UsageError
from services.hostd import machines_render
from services.hostd.machines import MachineFailed
from services.hostd.machines_schema import Card, Resources, Step
from tests.hostd.machines_rig import FAILING, FULL, HANGING, NAME, NEW, OLD, ROLE, Rig


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    made = Rig(tmp_path)
    made.furnish()
    made.machines.create(NAME, ROLE, version=OLD)
    made.machines.settle(NAME)
    return made


def upgrade(rig: Rig, version: str = NEW) -> None:
    rig.machines.plan_upgrade(NAME, version, gate_seconds=10, settle_seconds=1)
    rig.machines.settle(NAME)


def running(rig: Rig) -> tuple[str, str]:
    found = rig.iron.world.runs[NAME]
    return found.version, found.var


# Making one


def test_a_machine_begins_with_the_var_of_its_image(rig: Rig) -> None:
    assert running(rig) == (OLD, "var-1")
    assert rig.iron.world.starts[0].files == FULL


def test_a_machine_without_version_gets_the_newest(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.furnish()
    assert rig.machines.create(NAME, ROLE).current.version == HANGING


def test_a_name_is_taken_once(rig: Rig) -> None:
    with pytest.raises(BusyError, match="there is a machine one already"):
        rig.machines.create(NAME, ROLE)
    assert running(rig) == (OLD, "var-1")


@pytest.mark.parametrize("name", ["../etc", "UPPER", "a_b", "", "-a", "a.b"])
def test_a_name_is_a_host_name(rig: Rig, name: str) -> None:
    with pytest.raises((InputError, UsageError)):
        rig.machines.create(name, ROLE)


def test_a_version_that_is_not_here_makes_no_machine(rig: Rig) -> None:
    with pytest.raises(MissingError, match="does not hold db 20260909"):
        rig.machines.create("two", ROLE, version="20260909.0123456789ab")
    assert rig.machines.records.names() == [NAME]


def test_what_a_dead_creation_left_is_no_machine_and_in_nobodys_way(rig: Rig) -> None:
    left = rig.machines.records.begin("two")
    (left / ".var-1").mkdir()
    assert rig.machines.records.names() == [NAME]
    rig.machines.create("two", ROLE)
    assert rig.machines.records.names() == [NAME, "two"]


# Upgrades


def test_an_upgraded_machine_runs_on_a_copy_and_the_old_var_is_as_it_was(rig: Rig) -> None:
    upgrade(rig)
    assert running(rig) == (NEW, "var-2")
    assert rig.written("var-1") == [OLD]
    assert rig.written("var-2") == [OLD, NEW]
    record = rig.record()
    assert record.previous is not None
    assert (record.previous.version, record.previous.var) == (OLD, "var-1")
    assert [outcome.kind for outcome in record.history] == ["created", "upgraded"]


def test_what_the_new_version_brings_in_var_is_there_and_what_was_there_is_not_touched(rig: Rig) -> None:
    home = rig.machines.records.home(NAME)
    (home / "var-1/file-0").write_text("changed\n")
    upgrade(rig)
    assert (home / f"var-2/lib/of-{NEW}").read_text() == "brought along\n"
    assert (home / f"var-2/lib/of-{OLD}").exists()
    assert (home / "var-2/file-0").read_text() == "changed\n"


@pytest.mark.parametrize(
    ("version", "why"), [(FAILING, "units failed: broken.service"), (HANGING, "its default target was not reached")]
)
def test_a_version_that_does_not_pass_its_gate_is_taken_back_and_what_it_wrote_is_kept(
    rig: Rig, version: str, why: str
) -> None:
    upgrade(rig, version)
    assert running(rig) == (OLD, "var-1")
    record = rig.record()
    assert record.history[-1].kind == "reverted"
    assert why in record.history[-1].detail
    (kept,) = record.kept
    assert (kept.var, kept.version) == ("var-2", version)
    assert rig.written(kept.var) == [OLD, version]
    assert record.previous is None


def test_a_failed_upgrade_keeps_the_way_back_that_there_was(rig: Rig) -> None:
    upgrade(rig)
    upgrade(rig, FAILING)
    record = rig.record()
    assert running(rig) == (NEW, "var-2")
    assert record.previous is not None
    assert record.previous.var == "var-1"


def test_the_copy_before_the_last_one_goes_with_the_next_upgrade(rig: Rig) -> None:
    upgrade(rig)
    home = rig.machines.records.home(NAME)
    (rig.disk / "images" / ROLE / "20260105.000000000005").mkdir()
    (rig.disk / "images" / ROLE / "20260105.000000000005" / "root.erofs").touch()
    (rig.iron.trees / ROLE / "20260105.000000000005" / "var").mkdir(parents=True)
    upgrade(rig, "20260105.000000000005")
    assert sorted(path.name for path in home.glob("var-*")) == ["var-2", "var-3"]


def test_the_old_version_saves_its_state_before_it_is_stopped_and_an_upgrade_does_not_hang_on_that(rig: Rig) -> None:
    upgrade(rig)
    assert rig.iron.world.saved == [OLD]
    world = rig.iron.world
    world.cannot_save = True
    rig.iron.keep(world)
    upgrade(rig, FAILING)
    assert rig.iron.world.saved == [OLD, NEW]
    assert rig.record().history[-1].kind == "reverted"


def test_a_copy_that_fails_leaves_the_old_version_running(rig: Rig) -> None:
    tree = rig.iron.trees / ROLE / NEW / "var"
    tree.rename(tree.with_name("gone"))
    upgrade(rig)
    assert running(rig) == (OLD, "var-1")
    assert "/var of one could not be copied" in rig.record().history[-1].detail
    assert rig.record().kept == []
    assert {path.name for path in rig.machines.records.home(NAME).iterdir()} == {"lock", "record.json", "var-1"}


def test_upgrades_that_make_no_sense_are_refused(rig: Rig) -> None:
    with pytest.raises(UsageError, match="runs 20260101"):
        rig.machines.plan_upgrade(NAME, OLD)
    rig.machines.plan_upgrade(NAME, NEW)
    with pytest.raises(BusyError, match="is being upgraded"):
        rig.machines.plan_upgrade(NAME, NEW)
    rig.machines.settle(NAME)
    rig.machines.want(NAME, "stopped")
    with pytest.raises(UsageError, match="is stopped"):
        rig.machines.plan_upgrade(NAME, OLD)


# Going back


def test_revert_goes_back_to_the_var_of_then_and_keeps_what_was_written_since(rig: Rig) -> None:
    upgrade(rig)
    rig.machines.revert(NAME, why="does not please")
    rig.machines.settle(NAME)
    assert running(rig) == (OLD, "var-1")
    (kept,) = rig.record().kept
    assert (kept.var, kept.version) == ("var-2", NEW)
    assert rig.record().history[-1].detail == "does not please"


def test_a_version_that_declares_that_it_runs_on_the_new_state_keeps_it(rig: Rig) -> None:
    rig.declare(OLD, writes="1", runs_on=["2"])
    rig.declare(NEW, writes="2", runs_on=["1"])
    upgrade(rig)
    rig.machines.revert(NAME)
    rig.machines.settle(NAME)
    assert running(rig) == (OLD, "var-2")
    (kept,) = rig.record().kept
    assert (kept.var, kept.version) == ("var-1", OLD)


@pytest.mark.parametrize(("old", "new"), [(["3"], "2"), ([], "2")])
def test_a_version_that_does_not_declare_it_gets_its_own_state(rig: Rig, old: list[str], new: str) -> None:
    rig.declare(OLD, writes="1", runs_on=old)
    rig.declare(NEW, writes=new, runs_on=[])
    upgrade(rig)
    rig.machines.revert(NAME)
    rig.machines.settle(NAME)
    assert running(rig) == (OLD, "var-1")


def test_there_is_no_way_back_twice(rig: Rig) -> None:
    with pytest.raises(MissingError, match="no version that one could go back to"):
        rig.machines.revert(NAME)


def test_revert_amid_an_upgrade_takes_it_back(rig: Rig) -> None:
    record = rig.machines.plan_upgrade(NAME, NEW)
    assert record.change is not None
    assert record.change.step is Step.PLANNED
    rig.machines.revert(NAME, why="no")
    rig.machines.settle(NAME)
    assert running(rig) == (OLD, "var-1")
    assert rig.record().history[-1].detail == "no"


def test_an_upgrade_that_is_found_in_another_boot_is_taken_back(rig: Rig) -> None:
    rig.machines.plan_upgrade(NAME, NEW)
    rig.boot_like_systemd()
    assert running(rig) == (OLD, "var-1")
    assert "the iron was started again" in rig.record().history[-1].detail


def test_what_was_kept_goes_when_an_administrator_says_so(rig: Rig) -> None:
    upgrade(rig, FAILING)
    with pytest.raises(MissingError, match="has kept no var-1"):
        rig.machines.forget(NAME, "var-1")
    rig.machines.forget(NAME, "var-2")
    assert not (rig.machines.records.home(NAME) / "var-2").exists()
    assert rig.record().kept == []


# Running and stopped


def test_a_stopped_machine_stays_off_when_the_iron_starts(rig: Rig) -> None:
    rig.machines.want(NAME, "stopped")
    rig.machines.settle(NAME)
    rig.boot_like_systemd()
    assert rig.iron.world.runs == {}


def test_a_machine_that_does_not_come_up_is_a_failure_that_says_so(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.furnish()
    rig.machines.create(NAME, ROLE, version=HANGING)
    with pytest.raises(MachineFailed, match="does not run: its default target was not reached"):
        rig.machines.settle(NAME)


def test_a_machine_is_removed_when_it_is_stopped_and_its_folders_are_set_aside(rig: Rig) -> None:
    with pytest.raises(BusyError, match="one runs"):
        rig.machines.remove(NAME)
    rig.machines.want(NAME, "stopped")
    rig.machines.settle(NAME)
    place = rig.machines.remove(NAME)
    assert (place / "var-1/file-0").exists()
    assert rig.machines.records.names() == []
    rig.machines.create(NAME, ROLE, version=OLD)
    rig.machines.settle(NAME)
    rig.machines.want(NAME, "stopped")
    rig.machines.settle(NAME)
    assert rig.machines.remove(NAME).name == "one-2"


def test_a_version_that_is_run_or_can_be_gone_back_to_is_not_removed(rig: Rig) -> None:
    upgrade(rig)
    for version in (OLD, NEW):
        with pytest.raises(BusyError, match="is what one runs or can go back to"):
            rig.machines.drop_image(ROLE, version)
    rig.machines.drop_image(ROLE, FAILING)
    assert FAILING not in rig.machines.images.versions(ROLE)


def test_two_do_not_change_a_machine_at_once(rig: Rig) -> None:
    with rig.machines.records.lock(NAME), pytest.raises(BusyError, match="one is being changed"):
        rig.machines.want(NAME, "stopped")


def test_a_secret_is_for_root_alone_and_reaches_the_machine(rig: Rig) -> None:
    path = rig.machines.add_credential(NAME, "backline.tls", b"hush hush\n")
    assert path.stat().st_mode & 0o777 == 0o600
    rig.machines.settle(NAME)
    drop_in = rig.iron.run / "run/systemd/system/systemd-nspawn@one.service.d/50-backline.conf"
    assert f"--load-credential=backline.tls:{path}" in drop_in.read_text()
    assert "hush" not in drop_in.read_text()


# Other limits, cards and folders; set aside and brought back


def test_limits_change_while_it_runs_and_cards_do_not(rig: Rig) -> None:
    starts = len(rig.iron.world.starts)
    rig.machines.configure(NAME, network=[], resources=Resources(memory="2G"), folders={})
    rig.machines.settle(NAME)
    limits = rig.iron.run / "run/systemd/system/systemd-nspawn@one.service.d/60-backline-limits.conf"
    assert "MemoryMax=2G" in limits.read_text()
    assert len(rig.iron.world.starts) == starts
    card = Card(kind="bridge", on="br0")
    rig.machines.configure(NAME, network=[card], resources=Resources(memory="2G"), folders={})
    rig.machines.settle(NAME)
    assert len(rig.iron.world.starts) == starts + 1
    assert rig.record().machine.network == [card]


def test_what_is_being_upgraded_is_not_configured(rig: Rig) -> None:
    rig.machines.plan_upgrade(NAME, NEW)
    with pytest.raises(BusyError, match="is being upgraded"):
        rig.machines.configure(NAME, network=[], resources=Resources(), folders={})


def test_what_was_set_aside_comes_back_with_its_var_and_history(rig: Rig) -> None:
    upgrade(rig)
    rig.machines.want(NAME, "stopped")
    rig.machines.settle(NAME)
    before = rig.record()
    rig.machines.remove(NAME)
    assert rig.machines.records.names() == []
    assert rig.machines.bring_back(NAME) == before
    rig.machines.want(NAME, "running")
    rig.machines.settle(NAME)
    assert running(rig) == (NEW, "var-2")
    with pytest.raises(BusyError, match="there is a machine one already"):
        rig.machines.bring_back(NAME)


def test_of_those_that_were_set_aside_the_newest_comes_back(rig: Rig) -> None:
    for version in (OLD, NEW):
        if NAME not in rig.machines.records.names():
            rig.machines.create(NAME, ROLE, version=version)
        rig.machines.want(NAME, "stopped")
        rig.machines.settle(NAME)
        rig.machines.remove(NAME)
    assert rig.machines.bring_back(NAME).current.version == NEW
    with pytest.raises(MissingError, match="no machine two was set aside"):
        rig.machines.bring_back("two")


def test_a_stopped_machine_is_upgraded_when_it_may_run_afterwards(rig: Rig) -> None:
    rig.machines.want(NAME, "stopped")
    rig.machines.settle(NAME)
    rig.machines.plan_upgrade(NAME, NEW, gate_seconds=10, settle_seconds=1, start=True)
    rig.machines.settle(NAME)
    assert running(rig) == (NEW, "var-2")


def test_a_newer_hostd_that_writes_other_files_lets_a_machine_run(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    starts = len(rig.iron.world.starts)
    monkeypatch.setattr(machines_render, "_HEAD", "# Made by a newer one, for {name}\n")
    rig.machines.settle(NAME)
    assert len(rig.iron.world.starts) == starts
    rig.machines.want(NAME, "stopped")
    rig.machines.settle(NAME)
    rig.machines.want(NAME, "running")
    rig.machines.settle(NAME)
    drop_in = rig.iron.run / "run/systemd/system/systemd-nspawn@one.service.d/50-backline.conf"
    assert "by a newer one" in drop_in.read_text()
