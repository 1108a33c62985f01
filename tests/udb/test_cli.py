"""`backline udb`: what its verbs ask udb for, and how they answer people and scripts."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.udb.client import Udb
from tests.common.service_rig import Service
from tests.hall.halls import KEY
from tests.udb.rig import command, serving


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with serving(tmp_path_factory.mktemp("udb")) as service:
        yield service


@pytest.fixture
def udb(running: Service) -> str:
    """The address of a udb with nobody in it."""
    with Udb(running.unix) as client:
        for user in client.users().users:
            client.delete(user.id)
    return running.unix


def does(udb: str, *words: str) -> str:
    """The output of a command that goes well."""
    code, out, err = command(*words, "--address", udb)
    assert (code, err) == (0, "")
    return out


def test_a_range_is_added_listed_changed_and_removed(udb: str) -> None:
    assert does(udb, "add", "team[01-03]", "--dry-run").count("would be: team0") == 3
    assert does(udb, "list").splitlines() == ["LOGIN  NAME  UID  GROUP  SHELL  KEYS  PASSWORD"]
    assert does(udb, "add", "team[01-03]", "--generate").count("now: team0") == 3
    assert [line.split()[-1] for line in does(udb, "list", "team[02-03]").splitlines()[1:]] == ["yes", "yes"]
    said = does(udb, "edit", "team[01-02]", "--group", "orga")
    assert "group: user → orga" in said
    code, _, err = command("rm", "group:orga", "--address", udb)
    assert (code, "--yes" in err) == (2, True)
    assert does(udb, "rm", "group:orga", "--yes").count("removed team0") == 2
    assert json.loads(does(udb, "list", "--json"))["total"] == 1


def test_keys_come_from_files_and_lines(udb: str, tmp_path: Path) -> None:
    file = tmp_path / "id.pub"
    file.write_text(f"# mine\n{KEY}\n")
    does(udb, "add", "zoe", "--firstname", "Zoé", "--lastname", "Doe", "--key", str(file))
    user = json.loads(does(udb, "show", "zoe", "--json"))
    assert (user["keys"], user["firstname"]) == ([KEY], "Zoé")
    assert "SHA256:" in does(udb, "show", "zoe")
    does(udb, "edit", "zoe", "--no-keys")
    assert json.loads(does(udb, "show", "zoe", "--json"))["keys"] == []
    code, _, err = command("edit", "zoe", "--key", "/nowhere.pub", "--address", udb)
    assert (code, "cannot be read" in err) == (3, True)


def test_a_password_comes_from_standard_input_and_is_shown_on_request(
    udb: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("clé de voûte\n"))
    does(udb, "add", "zoe", "--password")
    assert "clé" not in does(udb, "show", "zoe") + does(udb, "list") + does(udb, "show", "zoe", "--json")
    assert does(udb, "password", "zoe").splitlines()[1].endswith("clé de voûte")
    assert "password shown: how sheet" in does(udb, "show", "zoe")
    does(udb, "edit", "zoe", "--no-password")
    assert "(none)" in does(udb, "password", "zoe")


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["show", "nobody-here"], 4, "there is no user"),
        (["edit", "nobody-here"], 2, "nothing to change"),
        (["password", "team[01-02]"], 4, "team01, team02"),
        (["add", "root"], 2, "system user"),
        (["add", "a[1-2]", "--uid", "10007"], 2, "the same uid"),
        (["list", "group:nobody"], 2, "no group"),
        (["rm", "zoe", "group:user"], 2, "not both"),
        (["add", "x", "--key", "ssh-ed25519"], 2, "nothing after"),
    ],
)
def test_what_makes_no_sense_is_one_line_and_an_exit_code(udb: str, words: list[str], code: int, told: str) -> None:
    found, out, err = command(*words, "--address", udb)
    assert (found, out) == (code, "")
    assert told in err
    assert "Traceback" not in err


def test_pools_tell_what_is_left(udb: str) -> None:
    does(udb, "add", "zoe", "--group", "root")
    assert does(udb, "pools").splitlines()[3].split() == ["root", "12000-12999", "1", "999"]


def test_the_message_of_the_day_is_said_shown_and_taken_away(udb: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert does(udb, "message") == "there is no message of the day\n"
    assert does(udb, "message", "Lunch at noon").splitlines()[1:] == ["  Lunch at noon"]
    monkeypatch.setattr(sys, "stdin", io.StringIO("Lunch\nat one\n"))
    assert does(udb, "message", "-").splitlines()[1:] == ["  Lunch", "  at one"]
    assert json.loads(does(udb, "message", "--json"))["text"] == "Lunch\nat one"
    code, _, err = command("message", "x" * 601, "--address", udb)
    assert (code, "600 are shown" in err) == (2, True)
    assert command("message", "x", "--none", "--address", udb)[0] == 2
    assert does(udb, "message", "--none") == "there is no message of the day\n"
