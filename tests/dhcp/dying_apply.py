"""Applies machines and ends itself by SIGKILL right after one step: `python -m tests.dhcp.dying_apply CASE.json`."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import msgspec

from services.common.codec import decode_json
from services.dhcp.apply import Applier
from services.dhcp.kea import Kea
from services.dhcp.machines import Machine
from services.dhcp.schema import Settings


class Case(msgspec.Struct):
    """What to do, and where to die."""

    settings: Settings
    socket: Path
    machines: list[Machine]
    step: str


def main() -> None:
    case = decode_json(Path(sys.argv[1]).read_bytes(), Case)

    def step(name: str) -> None:
        if name == case.step:
            os.kill(os.getpid(), signal.SIGKILL)

    Applier(case.settings, Kea(case.socket), step=step).apply([*case.machines])


if __name__ == "__main__":
    main()
