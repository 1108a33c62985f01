"""`backline netboot` and `backline why`, against a real netboot and mdb."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Iterator

import pytest

from netboot.client import Netboot
from services.common import main
from services.common.errors import Exit
from services.mdb.client import Mdb
from services.mdb.schema import MachinePatch, MachineType, NewMachine
from tests.netboot.rig import ONE, TWO, Pair, ask, pair, until

MAC = "52:54:00:00:00:01"


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """A seat and its root file server in mdb, and a netboot that knows no version."""
    with pair(tmp_path_factory.mktemp("hall")) as running:
        with Mdb(running.mdb.unix) as mdb, Netboot(running.netboot.unix) as client:
            mdb.create(NewMachine(hostname="rhfs01", mac="525400010001", aliases=["rfs1"], type=MachineType.SERVICE))
            mdb.create(NewMachine(hostname="pas-r01p01", mac=MAC, type=MachineType.USER, rfs=1, room="pasteur"))
            until(lambda: "pas-r01p01" in ask(running.netboot, f"/boot/{MAC}").text)
            assert client.versions().versions == []
        yield running


def command(both: Pair, *words: str, program: str = "netboot") -> tuple[int, str, str]:
    """Exit code, output and errors."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main.backline([program, *words, "--address", both.netboot.unix])
    return code, out.getvalue(), err.getvalue()


def said(both: Pair, *words: str, program: str = "netboot") -> str:
    code, out, err = command(both, *words, program=program)
    assert code == Exit.OK, err
    return out


def test_from_a_version_to_a_boot_and_back(both: Pair) -> None:
    code, out, _ = command(both, "pas-r01p01", program="why")
    assert (code, out.splitlines()[0]) == (
        Exit.DIFFERENT,
        "pas-r01p01 boots nothing (no-version): there is no channel stable",
    )
    for id in (ONE, TWO):
        assert said(both, "version", "add", id, "--root-hash", "ab" * 32) == f"nfsroot {id} is known\n"
        assert said(both, "hold", "rfs1", id) == f"rfs1 holds {id}\n"
    assert said(both, "channel", "switch", "stable", ONE, "--why", "first try").startswith(
        f"stable points to {ONE}, gener"
    )
    assert f"backline.version={ONE}" in ask(both.netboot, f"/boot/{MAC}").text
    assert ONE in said(both, "boots", "pas-r01p01").splitlines()[1]

    assert "to be committed by" in said(both, "channel", "switch", "stable", TWO, "--commit-within", "600")
    assert said(both, "channel", "commit", "stable") == f"stable points to {TWO}, generation 3\n"
    assert said(both, "channel", "rollback", "stable", "--why", "no sound").startswith(f"stable points to {ONE}")
    history = said(both, "channel", "history", "stable").splitlines()
    assert [line.split()[3] for line in history[1:]] == ["reverted", "committed", "set", "set"]
    assert "first try" in history[-1]

    assert said(both, "pin", "room", "pasteur", TWO) == f"room pasteur boots {TWO}\n"
    lines = said(both, "pas-r01p01", program="why").splitlines()
    assert lines[0] == (
        f"pas-r01p01 boots nfsroot {TWO} from rfs1 (rhfs01), by the pin of room pasteur: room pasteur is pinned"
    )
    assert any(line.strip().startswith(f"* pin of room pasteur: {TWO}") for line in lines)
    assert any(f"- channel stable: {ONE}" in line and "comes first" in line for line in lines)
    said(both, "unpin", "room", "pasteur")
    assert len(said(both, "pins").splitlines()) == 1

    code, _, err = command(both, "version", "rm", ONE)
    assert code == Exit.BUSY
    assert "channel stable" in err
    said(both, "release", "1", TWO)
    assert TWO not in said(both, "holdings")
    said(both, "version", "rm", TWO)
    assert TWO not in said(both, "version", "list")


@pytest.mark.parametrize(
    "words",
    [
        ("version", "list"),
        ("holdings",),
        ("channel", "list"),
        ("pins",),
        ("boots",),
        ("logs",),
        ("aliens",),
    ],
)
def test_whatever_is_listed_is_json_when_asked(both: Pair, words: tuple[str, ...]) -> None:
    assert isinstance(json.loads(said(both, *words, "--json")), dict)
    said(both, *words)


def test_what_others_wrote_does_not_steer_the_terminal(both: Pair) -> None:
    with Mdb(both.mdb.unix) as mdb:
        machine = mdb.machine("pas-r01p01")
        mdb.change(machine.id, MachinePatch(faulty=True, faulty_reason="\x1b[2Jgone\x07"))
        until(lambda: "faulty" in ask(both.netboot, f"/boot/{MAC}").text)
        code, out, _ = command(both, "pas-r01p01", program="why")
        mdb.change(machine.id, MachinePatch(faulty=False))
    assert code == Exit.DIFFERENT
    assert "gone" in out
    assert "\x1b" not in out + said(both, "boots")


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("version", "add", "x y", "--root-hash", "ab" * 32), Exit.USAGE),
        (("version", "add", ONE, "--root-hash", "ab"), Exit.USAGE),
        (("hold", "rfsx", ONE), Exit.USAGE),
        (("hold", "1", "unknown"), Exit.MISSING),
        (("channel", "switch", "stable", "unknown"), Exit.MISSING),
        (("channel", "commit", "nowhere"), Exit.MISSING),
        (("unpin", "room", "nowhere"), Exit.MISSING),
        (("boots", "nobody"), Exit.MISSING),
    ],
)
def test_what_cannot_be_is_one_line(both: Pair, words: tuple[str, ...], code: Exit) -> None:
    found, out, err = command(both, *words)
    assert (found, out) == (code, "")
    assert err.startswith("error: ")
    assert "Traceback" not in err
