"""backline-hostd-machine-ask@.service of a `supervisor_rig`: `python -m tests.hostd.asked FOLDER NAME`.

Its machines are those of a `machines_rig`. What runs afterwards is written as `UNIT STATE`, for the systemd on the bus.
While the file `hold` is there, it waits, as a long upgrade does.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from services.hostd.machines import MachineFailed, Machines
from services.hostd.machines_asking import Asks, answer
from services.hostd.machines_iron import NotReady
from tests.hostd.machines_rig import Rig


def main(folder: Path, name: str) -> None:
    rig = Rig(folder / "iron")
    while (folder / "hold").exists():
        time.sleep(0.02)

    def wait(machines: Machines, name: str) -> None:
        try:
            machines.settle(name)
        except NotReady as error:
            raise MachineFailed("machine.start", str(error)) from error

    answer(Asks(folder / "state" / "asks"), rig.machines, name, wait=wait)
    print(f"systemd-nspawn@{name}.service {rig.iron.state(name)}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
