"""`backline mdb` for people and scripts, on a running mdb."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from services.common.errors import Exit
from tests.common.service_rig import Service
from tests.mdb.rig import command, serving


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("mdb")
    with serving(folder, f"sqlite:///{folder}/mdb.db") as service:
        yield service


Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def ask(running: Service) -> Iterator[Command]:
    """A verb of `backline mdb` with its arguments; whatever machines it left are removed."""

    def run(*words: str) -> tuple[int, str, str]:
        verb, *more = words
        if verb in ("switch", "setting"):
            verb, more = f"{verb} {more[0]}", more[1:]
        return command(*verb.split(), "--address", running.unix, *more)

    yield run
    for machine in json.loads(run("list", "--json")[1])["machines"]:
        run("rm", machine["hostname"])


@pytest.fixture
def room(ask: Command, tmp_path: Path) -> Path:
    """A room of 12 machines, from a table, which is returned."""
    rows = [f"pas-r{row:02}p{seat:02},5254000000{row}{seat},user,pasteur" for row in (1, 2) for seat in range(1, 7)]
    table = tmp_path / "room.csv"
    table.write_text("\n".join(["hostname,mac,type,room", *rows]) + "\n")
    assert ask("import", str(table))[0] == 0
    return table


def test_the_command_adds_shows_changes_and_removes(ask: Command) -> None:
    assert ask("add", "gw", "--mac", "525400000001", "--type", "service", "--alias", "mdb")[0] == 0
    code, out, _ = ask("edit", "mdb", "--room", "alt", "--dry-run")
    assert (code, "would be: gw" in out, "room: other → alt" in out) == (0, True, True)
    ask("edit", "mdb", "--faulty", "--faulty-reason", "no fan")
    code, out, _ = ask("show", "mdb")
    assert "faulty_reason  no fan" in out
    assert "root (local) updated: faulty False → True, faulty_reason '' → 'no fan'" in out
    assert "faulty" in ask("list", "faulty:yes")[1]
    assert "removed gw" in ask("rm", "gw")[1]
    code, _, err = ask("show", "gw")
    assert (code, "there is no machine gw" in err) == (Exit.MISSING, True)


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("add", "a_b", "--mac", "525400000001"), "underscore"),
        (("add", "a"), "MAC address"),
        (("add", "a", "--mac", "nonsense"), "no MAC address"),
        (("edit", "gw"), "nothing to change"),
        (("list", "hostnam:x"), "no field"),
        (("list", "p[1-"), "bracket"),
        (("edit", "gw", "room:a", "--room", "b"), "not both"),
        (("rm", "gw[1-3]"), "there is no machine gw1, gw2, gw3"),
        (("rm", "room:nowhere"), "no machine has room:nowhere"),
        (("import", "machines.txt"), "CSV, JSON or YAML"),
        (("import", "nowhere.csv"), "cannot be read"),
        (("setting", "set", "nonsense", "yes"), "no setting"),
        (("setting", "set", "allow_self_registration", "5"), "bool"),
        (("switch", "add", "s", "nonsense"), "no MAC address"),
        (("switch", "rm", "s"), "there is no switch s"),
        (("code", "gw"), "there is no machine gw"),
        (("pssh", "gw"), "what shall be run"),
    ],
)
def test_a_mistake_is_one_line(ask: Command, words: tuple[str, ...], why: str) -> None:
    code, out, err = ask(*words)
    assert (code != 0, out) == (True, "")
    assert why in err
    assert "Traceback" not in err


# Many machines


def test_a_range_means_its_machines_in_order(ask: Command, room: Path) -> None:
    code, out, _ = ask("list", "pas-r[01-02]p[05-06]", "--json")
    names = [machine["hostname"] for machine in json.loads(out)["machines"]]
    assert (code, names) == (0, ["pas-r01p05", "pas-r01p06", "pas-r02p05", "pas-r02p06"])


def test_a_dry_run_of_many_shows_each_difference_and_keeps_nothing(ask: Command, room: Path) -> None:
    code, out, _ = ask("edit", "pas-r01p[01-06]", "--room", "alt", "--rfs", "3", "--dry-run")
    assert (code, out.count("would be: "), out.count("room: pasteur → alt"), out.count("rfs: 0 → 3")) == (0, 6, 6, 6)
    assert "alt" not in ask("list", "room:alt")[1].replace("HOSTNAME", "")


def test_many_are_changed_by_range_and_by_query(ask: Command, room: Path) -> None:
    assert ask("edit", "pas-r01p[01-06]", "--room", "alt")[0] == 0
    assert ask("edit", "room:alt", "type:user", "--faulty", "--faulty-reason", "flood")[0] == 0
    found = json.loads(ask("list", "faulty:yes", "--json")[1])["machines"]
    assert {machine["hostname"] for machine in found} == {f"pas-r01p0{seat}" for seat in range(1, 7)}
    assert "unchanged: pas-r01p01" in ask("edit", "pas-r01p01", "--room", "alt")[1]


def test_many_do_not_get_what_only_one_can_have(ask: Command, room: Path) -> None:
    code, _, err = ask("edit", "pas-r01p[01-02]", "--ip", "192.168.0.99")
    assert (code, "cannot have the same ip" in err) == (Exit.USAGE, True)


def test_several_are_removed_only_by_who_is_sure(ask: Command, room: Path) -> None:
    code, _, err = ask("rm", "room:pasteur")
    assert (code, "12 machines would be removed" in err) == (Exit.USAGE, True)
    assert ask("rm", "room:pasteur", "--dry-run")[1].count("would remove") == 12
    assert ask("rm", "pas-r01p[01-06]", "--yes")[1].count("removed") == 6
    assert len(json.loads(ask("list", "--json")[1])["machines"]) == 6


def test_a_range_with_a_gap_changes_nothing_and_names_the_gap(ask: Command, room: Path) -> None:
    code, _, err = ask("edit", "pas-r01p[05-08]", "--room", "alt")
    assert (code, "there is no machine pas-r01p07, pas-r01p08" in err) == (Exit.MISSING, True)
    assert json.loads(ask("list", "room:alt", "--json")[1])["total"] == 0


# Tables


def test_an_import_is_previewed_as_a_difference(ask: Command, room: Path) -> None:
    room.write_text(
        room.read_text().replace("pas-r01p01,52540000001", "pas-r01p09,52540000001") + "new,525400000099,user,a\n"
    )
    code, out, _ = ask("import", str(room), "--dry-run")
    assert code == 0
    assert "~ pas-r01p09\n  hostname: pas-r01p01 → pas-r01p09\n" in out
    assert "+ new, 192.168.0." in out
    assert out.endswith("would be: 1 created, 1 changed, 11 as they were\n")
    assert json.loads(ask("import", str(room), "--json")[1])["created"] == 1


def test_a_bad_table_is_refused_with_its_line(ask: Command, room: Path) -> None:
    room.write_text("hostname,mac\nx,525400000099\ny_z,525400000098\n")
    code, _, err = ask("import", str(room))
    assert (code != 0, "line 3" in err, "underscore" in err) == (True, True, True)


@pytest.mark.parametrize("ending", ["csv", "json", "yml"])
def test_what_is_exported_can_be_imported(ask: Command, room: Path, tmp_path: Path, ending: str) -> None:
    file = tmp_path / f"all.{ending}"
    assert ask("export", "--output", str(file), "pas-r01p[01-06]")[0] == 0
    assert ask("import", str(file))[1] == "0 created, 0 changed, 6 as they were\n"
    assert ask("export", "--format", "csv", "hostname:pas-r01p01")[1].splitlines()[0].startswith("id,hostname,aliases,")


# The hall


def test_switches_are_added_changed_and_removed(ask: Command) -> None:
    assert ask("switch", "add", "pas-r01", "00-1b-21-00-00-01", "--room", "pasteur", "--rfs", "1")[0] == 0
    assert "  rfs: 1 → 2" in ask("switch", "edit", "pas-r01", "--rfs", "2")[1]
    assert "00:1b:21:00:00:01  pasteur  2" in ask("switch", "list")[1]
    assert "removed pas-r01" in ask("switch", "rm", "00:1b:21:00:00:01")[1]
    assert json.loads(ask("switch", "list", "--json")[1]) == {"switches": []}


def test_a_setting_is_set_and_has_a_history(ask: Command) -> None:
    assert "allow_self_registration  false" in ask("setting", "list")[1]
    assert ask("setting", "set", "allow_self_registration", "yes")[1] == "now: allow_self_registration = true\n"
    assert ask("setting", "set", "allow_self_registration", "no")[0] == 0
    assert ask("setting", "history", "allow_self_registration")[1].count("root (local): value ") == 2


def test_a_code_is_shown_once_and_is_in_the_history(ask: Command, room: Path) -> None:
    code, out, _ = ask("code", "pas-r01p01")
    secret = out.split()[0]
    assert (code, len(secret), "for pas-r01p01, once, until" in out) == (0, 11, True)
    shown = ask("show", "pas-r01p01")[1]
    assert "root (local) codes created" in shown
    assert secret not in shown
