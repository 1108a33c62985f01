"""The root programs: commands by entry point, errors in one line, and a fast start."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import types
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path

import msgspec
import pytest

from services.common import main
from services.common.errors import Exit, InputError
from services.common.process import run

ROOT = Path(__file__).parents[2]


def a_command(monkeypatch: pytest.MonkeyPatch, action: Callable[[argparse.Namespace], int | None]) -> str:
    """A command module of the test's own, under the name `demo`."""
    module = types.ModuleType("demo_command")

    def parser(prog: str) -> argparse.ArgumentParser:
        result = argparse.ArgumentParser(prog=prog)
        result.add_argument("--json", action="store_true")
        result.set_defaults(run=action)
        return result

    module.__dict__.update(SUMMARY="a demo", parser=parser)
    monkeypatch.setitem(sys.modules, "demo_command", module)
    monkeypatch.setattr(main, "commands", lambda: {"demo": "demo_command"})
    return "demo"


def failing(arguments: argparse.Namespace) -> int:
    raise InputError("hall.invalid", "no such room", hint="add it", where="hall.toml:7")


def test_a_command_gives_the_exit_code(monkeypatch: pytest.MonkeyPatch) -> None:
    name = a_command(monkeypatch, lambda arguments: 5)
    assert main.backline([name]) == 5


def test_a_command_that_gives_nothing_is_well(monkeypatch: pytest.MonkeyPatch) -> None:
    name = a_command(monkeypatch, lambda arguments: None)
    assert main.backline([name]) == Exit.OK


def test_an_expected_failure_is_a_line_a_hint_and_a_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.backline([a_command(monkeypatch, failing)]) == Exit.INPUT
    assert capsys.readouterr().err == "error: hall.toml:7: no such room\n  hint: add it\n"


def test_asked_for_json_it_fails_in_json(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.backline([a_command(monkeypatch, failing), "--json"]) == Exit.INPUT
    assert msgspec.json.decode(capsys.readouterr().err) == {
        "error": "hall.invalid", "message": "hall.toml:7: no such room", "hint": "add it", "exit": 3
    }  # fmt: skip


def test_an_interrupt_is_no_traceback(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(arguments: argparse.Namespace) -> int:
        raise KeyboardInterrupt

    assert main.backline([a_command(monkeypatch, interrupted)]) == Exit.INTERRUPTED
    assert capsys.readouterr().err == "interrupted\n"


def test_an_unknown_command_is_answered_with_the_near_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    a_command(monkeypatch, lambda arguments: 0)
    assert main.backline(["dem"]) == Exit.USAGE
    assert capsys.readouterr().err == "error: no command 'dem'\n  hint: did you mean demo?\n"


def test_help_lists_every_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    a_command(monkeypatch, lambda arguments: 0)
    assert main.backline(["--help"]) == Exit.OK
    assert "  demo         a demo\n" in capsys.readouterr().out
    assert main.backline([]) == Exit.USAGE


def test_a_reader_that_went_away_is_no_failure() -> None:
    source = "import sys\nfrom services.common.main import run_module\nsys.exit(run_module('demo_pipe', 'x', []))"
    module = "SUMMARY = ''\ndef parser(prog):\n import argparse\n p = argparse.ArgumentParser()\n"
    module += " p.set_defaults(run=lambda a: [print('x' * 1000) for _ in range(10000)] and 0)\n return p\n"
    program = f"import sys, types; m = types.ModuleType('demo_pipe'); exec({module!r}, m.__dict__)\n"
    program += f"sys.modules['demo_pipe'] = m\n{source}"
    read, write = os.pipe()
    os.close(read)
    try:
        done = subprocess.run(
            [sys.executable, "-c", program], cwd=ROOT, stdout=write, stderr=subprocess.PIPE, check=False
        )
    finally:
        os.close(write)
    assert (done.returncode, done.stderr) == (0, b"")


def test_the_installed_program_knows_its_version() -> None:
    done = run([sys.executable, "-m", "services.common.main", "--version"], cwd=ROOT)
    assert done.stdout == f"backline {main.version()}\n"


def test_each_command_of_the_distribution_keeps_what_it_promises() -> None:
    points = entry_points(group=main.GROUP)
    assert "hostd" in {point.name for point in points}
    point = next(point for point in points if point.name == "hostd")
    module = point.load()
    assert "\n" not in module.SUMMARY
    assert module.parser("backline hostd").prog == "backline hostd"


def test_a_command_does_not_pay_for_the_others() -> None:
    source = "import sys\nfrom services.common.main import run_module\n"
    source += "try: run_module('services.hostd.cli', 'backline hostd', ['--help'])\n"
    source += "except SystemExit: print([name for name in sys.modules if name.split('.')[0] in {heavy}])"
    heavy = {
        "starlette",
        "uvicorn",
        "httpx2",
        "pystemd",
        "dbus_next",
        "builder",
        "rich",
        "prometheus_client",
        "msgspec",
    }
    done = run([sys.executable, "-c", source.replace("{heavy}", repr(heavy))], cwd=ROOT)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("backline hos", ["host", "hostd"]),
        ("backline build image nfsroot-", ["nfsroot-desktop"]),
        ("build check g", ["gw"]),
        ("backline lan sh", ["shell"]),
    ],
)
def test_the_shell_completes_commands_verbs_and_roles(line: str, offered: list[str]) -> None:
    """bash itself asks: the completion that argcomplete registers is called as for a pressed tab."""
    program, folder = line.split(" ")[0], Path(sys.executable).parent
    script = f"""
        PATH={folder}:$PATH
        eval "$(register-python-argcomplete {program})"
        COMP_LINE={line!r} COMP_POINT={len(line)} COMP_WORDS=({line}) COMP_CWORD={line.count(" ")} COMP_TYPE=9
        _python_argcomplete {program}
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    shown = run(["bash", "-c", script]).stdout.split()
    assert shown == offered
