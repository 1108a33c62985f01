"""pssh: one command on many machines, and a table of what became of it."""

from __future__ import annotations

import argparse
import contextlib
import shlex
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from services.common.client import Call, Client, Nothing
from services.common.commands import one_line, print_json
from services.common.errors import BacklineError, Exit, UsageError
from services.mdb.commands.common import chosen, client
from services.mdb.pssh import How, Outcome, Result, Results, run

NETBOOT = "unix:/run/backline/netboot.sock"


def pssh(arguments: argparse.Namespace) -> int:
    command = [word for index, word in enumerate(arguments.command) if (index, word) != (0, "--")]
    if not command:
        raise UsageError("mdb.command", "what shall be run?", hint="backline mdb pssh 'room:pasteur' -- uptime -p")
    try:
        words = shlex.split(arguments.machines)
    except ValueError as error:
        raise UsageError("mdb.choice", f"a quote is open in {arguments.machines}") from error
    with client(arguments) as mdb:
        machines = chosen(mdb, words)
    with _known_hosts(arguments) as known_hosts:
        how = How(
            user=arguments.user,
            port=arguments.port,
            jobs=arguments.jobs,
            seconds=arguments.timeout,
            connect_seconds=arguments.connect_timeout,
            known_hosts=known_hosts,
            identity=arguments.identity,
        )
        count = _Count(len(machines))
        results = run(machines, command, how, done=count.one)
        count.end()
    if arguments.json:
        print_json(Results(results=results))
    else:
        _print(results)
    good = all(result.outcome is Outcome.OK for result in results)
    return int(Exit.OK if good else Exit.FAILED)


class _Count:
    """How many have answered, on a terminal's last line."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.ended = 0
        self.shown = sys.stderr.isatty()

    def one(self, result: Result) -> None:
        del result
        self.ended += 1
        if self.shown:
            print(f"\r{self.ended} of {self.total}", end="", file=sys.stderr, flush=True)

    def end(self) -> None:
        if self.shown:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


@contextlib.contextmanager
def _known_hosts(arguments: argparse.Namespace) -> Iterator[Sequence[Path]]:
    """The files of host keys: those that are named, else what seats told netboot at their boot and the user's own."""
    if arguments.known_hosts:
        yield arguments.known_hosts
        return
    with tempfile.TemporaryDirectory(prefix="backline-pssh-") as folder:
        file = Path(folder, "known_hosts")
        try:
            with Client(arguments.netboot or NETBOOT) as netboot:
                file.write_bytes(netboot.fetch(Call("GET", "/v1/hostkeys", Nothing)))
        except BacklineError as error:
            if arguments.netboot is not None:
                raise
            print(f"note: host keys of seats are not known: {error}", file=sys.stderr)
            file.write_bytes(b"")
        yield [file, Path.home() / ".ssh/known_hosts", Path("/etc/ssh/ssh_known_hosts")]


def _print(results: Sequence[Result]) -> None:
    width = max(len("HOST"), *(len(result.hostname) for result in results))
    print(f"{'HOST':<{width}}  {'RESULT':<11}  {'TIME':>6}  OUTPUT")
    for result in results:
        lines = [one_line(line).rstrip() for line in (result.stdout + result.stderr).splitlines()]
        outcome = f"exit {result.exit}" if result.outcome is Outcome.FAILED else result.outcome.value
        first, *rest = lines or [""]
        print(f"{result.hostname:<{width}}  {outcome:<11}  {result.seconds:>4.1f} s  {first}".rstrip())
        for line in rest:
            print(f"{'':<{width + 23}}{line}".rstrip())
    counts = {outcome: sum(result.outcome is outcome for result in results) for outcome in Outcome}
    print(", ".join(f"{count} {outcome.value}" for outcome, count in counts.items() if count))
