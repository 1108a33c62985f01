"""`backline why HOST`: what a machine boots and why, in one answer."""

from __future__ import annotations

import argparse

from services.common.commands import asking_options, one_line, print_json
from services.common.errors import Exit

SUMMARY = "what a machine boots and why, from its record in mdb to its last boot"

_MARKS = {"good": "ok", "problem": "!!", "unknown": "??"}


def parser(prog: str) -> argparse.ArgumentParser:
    """The command line of `backline why`."""
    root = argparse.ArgumentParser(
        prog=prog,
        description="Walks mdb, DHCP, iPXE, channel or pin, root server and lease. Exit code 1 when it boots nothing.",
        parents=[asking_options("unix:/path or http://host:port of netboot")],
    )
    root.add_argument("machine", metavar="HOST", help="host name, alias, MAC, address or id")
    root.set_defaults(run=_why)
    return root


def _why(arguments: argparse.Namespace) -> int:
    from netboot.client import SOCKET, Netboot
    from netboot.schema import Outcome

    with Netboot(arguments.address or SOCKET) as client:
        answer = client.why(arguments.machine)
    code = int(Exit.OK if answer.outcome is Outcome.BOOT else Exit.DIFFERENT)
    if arguments.json:
        print_json(answer)
        return code
    print(one_line(f"{answer.host} boots {answer.verdict}"))
    for step in answer.steps:
        print(one_line(f"{_MARKS[step.finding.value]} {step.step:<12} {step.text}"))
        for rule in step.rules:
            chosen = f"{rule.rule}: {rule.version}" if rule.version else rule.rule
            print(one_line(f"   {'':<12} {'*' if rule.won else '-'} {chosen} ({rule.because})"))
        for line in step.more:
            print(one_line(f"   {'':<12} {line}"))
    return code
