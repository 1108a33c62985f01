"""`backline machine ... --host HOST`: the machines of another iron, through its supervisor.

What changes there is a job: followed to its end, it says what went wrong with its last lines. Making and removing
machines, and versions, are for the iron itself; what machines a host should have is for its document (`backline host`).
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from services.common.commands import one_line
from services.common.errors import Exit

if TYPE_CHECKING:
    from services.hostd.supervisor_client import Supervisor

Action = Literal["start", "stop", "upgrade", "revert"]


def arguments() -> argparse.ArgumentParser:
    """Options that say where, for the commands that can be given from afar."""
    parent = argparse.ArgumentParser(add_help=False)
    parent.add_argument("--host", metavar="HOST", help="the iron, a host of hall.toml; this one when absent")
    parent.add_argument("--hall", type=Path, metavar="FILE", help="hall.toml; this machine's, or ./hall.toml")
    parent.add_argument("--address", metavar="ADDRESS", help="unix:/path or https://host:port of an iron's supervisor")
    parent.add_argument("--certificate", type=Path, metavar="FILE", help="ours, of scope host (PEM, with its key)")
    return parent


def elsewhere(arguments: argparse.Namespace) -> bool:
    """Whether a supervisor is to be asked."""
    return arguments.host is not None or arguments.address is not None


def connect(arguments: argparse.Namespace) -> Supervisor:
    """The supervisor that is meant. Raises UsageError, MissingError, InputError."""
    from services.hostd import hosts
    from services.hostd.supervisor_client import Supervisor

    if arguments.host is not None:
        return hosts.supervisor(arguments.host, hall=arguments.hall, certificate=arguments.certificate)
    if arguments.certificate is not None:
        return hosts.at(arguments.address, hall=arguments.hall, certificate=arguments.certificate)
    return Supervisor(arguments.address)


def change(arguments: argparse.Namespace, action: Action) -> int:
    """Have a machine started, stopped, upgraded or taken back, and wait; what did not come to be is an exit code."""
    from services.hostd.supervisor_schema import MachineAction

    name, why = arguments.name, getattr(arguments, "why", "")
    version = getattr(arguments, "version", "") or None
    with connect(arguments) as client:
        job = client.change(name, MachineAction(action, version, why))
        while job.state == "running":
            job = client.wait(job.id, deadline=time.monotonic() + 5)
        if job.failure is not None:
            message = "\n".join(one_line(line) for line in job.failure.message.splitlines())
            print(f"error: {message} ({job.failure.code})", file=sys.stderr)
            if job.failure.hint is not None:
                print(f"  hint: {one_line(job.failure.hint)}", file=sys.stderr)
            return int(Exit.FAILED)
        status = client.machine(name).status
    print(f"{name}: {status.role} {status.version}, {status.state}")
    return int(Exit.OK if job.state == "done" else Exit.FAILED)
