"""The root programs: `backline COMMAND ...`, and `build ...` for `backline build ...`.

There is no list of commands here. Each part names its command module in the entry-point group `backline.commands`;
only the one that is called is imported, so starting up stays fast. A command module has `SUMMARY` (one line) and
`parser(prog) -> argparse.ArgumentParser`, whose parsed namespace holds `run`, a function of that namespace that returns
an exit code.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from typing import Protocol, cast

from services.common.errors import BacklineError, Exit, HostError, UsageError, nearest

GROUP = "backline.commands"


class CommandModule(Protocol):
    """What a part's command module offers."""

    SUMMARY: str

    def parser(self, prog: str) -> argparse.ArgumentParser: ...


def commands() -> dict[str, str]:
    """Command name → module, from the installed distribution's entry points."""
    from importlib.metadata import entry_points

    return {point.name: point.value for point in entry_points(group=GROUP)}


def report(error: BacklineError, *, as_json: bool) -> None:
    """Show an error on stderr: one line and a hint, or one JSON object when the command was asked for JSON."""
    if as_json:
        import json

        document = {"error": error.code, "message": str(error), "hint": error.hint, "exit": int(error.exit)}
        print(json.dumps(document), file=sys.stderr)
        return
    print(f"error: {error}", file=sys.stderr)
    if error.hint:
        print(f"  hint: {error.hint}", file=sys.stderr)


def run_module(module: str, prog: str, argv: Sequence[str]) -> int:
    """Import one command module and run it on `argv`; expected failures become a line, a hint and an exit code."""
    as_json = "--json" in argv
    try:
        command = cast(CommandModule, importlib.import_module(module))
        parser = command.parser(prog)
        if "_ARGCOMPLETE" in os.environ:
            import argcomplete

            argcomplete.autocomplete(parser)
        arguments = parser.parse_args(argv)
        return int(arguments.run(arguments) or 0)
    except BacklineError as error:
        report(error, as_json=as_json)
        return int(error.exit)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return int(Exit.INTERRUPTED)
    except BrokenPipeError:  # the reader of our output went away, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return int(Exit.OK)
    except OSError as error:  # a file that nobody expected to be out of reach
        failure = HostError("host.io", error.strerror or str(error), where=error.filename)
        report(failure, as_json=as_json)
        return int(failure.exit)


def usage() -> str:
    """The root help: every command with its one line."""
    lines = ["usage: backline COMMAND ...", "", "Runs a hall of diskless machines from reproducible images.", ""]
    for name, module in sorted(commands().items()):
        lines.append(f"  {name:<12} {importlib.import_module(module).SUMMARY}")
    lines += ["", "`backline COMMAND --help` says more of each."]
    return "\n".join(lines)


def version() -> str:
    """The distribution's version."""
    from importlib.metadata import version as installed

    return installed("backline")


def backline(argv: Sequence[str] | None = None) -> int:
    """The `backline` program."""
    argv = sys.argv[1:] if argv is None else argv
    if "_ARGCOMPLETE" in os.environ:
        return _complete()
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(usage())
        return int(Exit.OK if argv else Exit.USAGE)
    if argv[0] == "--version":
        print(f"backline {version()}")
        return int(Exit.OK)
    known = commands()
    if argv[0] not in known:
        error = UsageError(
            "command.unknown",
            f"no command {argv[0]!r}",
            hint=nearest(argv[0], sorted(known)) or "`backline --help` lists them",
        )
        report(error, as_json=False)
        return int(error.exit)
    return run_module(known[argv[0]], f"backline {argv[0]}", argv[1:])


def _complete() -> int:
    """Answer the shell (argcomplete): the first word is a command, the others are for that command's own parser."""
    import argcomplete

    words = os.environ.get("COMP_LINE", "")[: int(os.environ.get("COMP_POINT", "0"))].split(" ")
    known = commands()
    if len(words) > 2 and words[1] in known:
        os.environ["_ARGCOMPLETE"] = "2"  # the program's name is two words long
        return run_module(known[words[1]], f"backline {words[1]}", [])
    root = argparse.ArgumentParser(prog="backline")
    root.add_argument("command", choices=sorted(known))
    argcomplete.autocomplete(root)
    return int(Exit.USAGE)


def build(argv: Sequence[str] | None = None) -> int:
    """The `build` program: the same as `backline build`, without a look at the other commands."""
    return run_module("builder.cli", "build", sys.argv[1:] if argv is None else argv)


if __name__ == "__main__":
    sys.exit(backline())
